"""How changes of many requests share one commit."""
