"""A gate that has keys, and people at its panel."""

from tests.support.panel_people import kept, unlocked

__all__ = ["kept", "unlocked"]
