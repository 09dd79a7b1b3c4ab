"""Operations on the whole database: migrations, backup, pruning, API keys."""
