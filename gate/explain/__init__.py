"""Explanation of one job: its facts, and the sentences that state them."""
