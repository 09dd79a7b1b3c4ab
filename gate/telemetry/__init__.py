"""Counters and logging of this process."""
