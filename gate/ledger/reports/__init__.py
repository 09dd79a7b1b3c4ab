"""Read-only reports from SQL: history, backlog, gauges, statistics."""
