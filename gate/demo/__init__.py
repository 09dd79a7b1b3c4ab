"""`gate demo`: an acceptance run on a live gate."""
