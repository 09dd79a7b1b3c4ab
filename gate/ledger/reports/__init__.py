"""Read-only questions to SQL: histories, backlog, figures."""
