"""ASGI middleware around the application: access log, limits, metrics, fast path."""
