"""`gate verify` and `gate doctor`."""
