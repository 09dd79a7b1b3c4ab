"""`gate demo`: a tour that checks a running gate."""
