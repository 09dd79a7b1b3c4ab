"""Coordination of Redis and SQL: how a job is admitted, runs and ends."""
