"""Changes of rows. Each runs inside a unit of work that has locked the pool's row."""
