"""The `gate` command line."""
