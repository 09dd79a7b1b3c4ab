"""Checks of the source itself: figures of its structure, and the words of its prose."""
