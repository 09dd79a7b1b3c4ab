"""Texts of the panel: one file for each language, with the same keys."""

from __future__ import annotations

from typing import Any

from gate.http.panel.words import en, pt

LANGUAGES = {"en": en.WORDS, "pt-BR": pt.WORDS}
SCRIPT = "js_"
"""Begins the keys of what the script says."""


def language(accepted: str) -> str:
    """The first of these languages that an Accept-Language header wants; English when it wants neither."""
    wanted = []
    for place, part in enumerate(accepted.split(",")[:20]):
        tag, _, quality = part.strip().partition(";")
        try:
            weight = float(quality.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        wanted.append((-weight, place, tag.strip().lower()))
    for weight, _, tag in sorted(wanted):
        if weight < 0 and tag.split("-")[0] in ("pt", "en"):
            return "pt-BR" if tag.startswith("pt") else "en"
    return "en"


def of(language: str) -> dict[str, str]:
    """Return all texts in a language."""
    return LANGUAGES[language]


def for_script(language: str) -> dict[str, Any]:
    """Return the texts that the script of the page shows, by their keys without the prefix."""
    return {key.removeprefix(SCRIPT): text for key, text in LANGUAGES[language].items() if key.startswith(SCRIPT)}
