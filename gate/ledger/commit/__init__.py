"""Commit the changes of many requests together."""
