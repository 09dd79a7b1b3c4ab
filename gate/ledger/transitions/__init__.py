"""Changes of rows, each inside a unit of work that holds the pool."""
