"""Where Redis and SQL meet: how a job comes in, runs and ends."""
