"""Counters and logging."""
