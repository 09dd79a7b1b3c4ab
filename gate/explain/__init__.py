"""The story of one job in words."""
