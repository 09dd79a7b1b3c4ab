"""Adaptations of the HTTP server: the protocol class, and JSON responses."""
