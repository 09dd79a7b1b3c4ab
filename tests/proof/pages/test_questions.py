"""docs/questions.md: its ways at the terminal are played on a gate, and its ways in the panel lead to the words it names."""

from __future__ import annotations

import html
import re
from pathlib import Path

from tests.support.gate_process import Served
from tests.support.pages import block, needs_tools, play
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "questions.md"
QUESTIONS = re.findall(r"^### (\d+)\. ([^\n]*)\n(.*?)(?=^##|\Z)", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
PROSE = {int(number): re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE) for number, _, text in QUESTIONS}


def test_there_are_twenty_and_each_has_both_ways() -> None:
    assert list(PROSE) == list(range(1, 21))
    for number, question, text in QUESTIONS:
        assert "gate " in text and "n the panel" in text, f"{number}. {question}"


@needs_tools
def test_each_is_answered_at_the_terminal_and_in_the_panel(tmp_path: Path) -> None:
    config = "claim_seconds = 600\n" + block(
        ROOT / "docs" / "tour.md", "toml", "whsec_dGhl"
    )  # who is granted stays so to the end
    with Served(tmp_path, config=config) as served:
        play(PAGE, served, tmp_path)
        for number, prose in PROSE.items():
            for place, words in ways(prose.replace("\n", " ")):
                page = served.http.get(place, headers={"accept": "text/html"})
                assert page.status_code == 200, (number, place)
                seen = visible(page.text + "".join(served.http.get(part).text for part in loaded(page.text)))
                for word in words:
                    assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", seen), (number, place, word)
        assert {place for prose in PROSE.values() for place, _ in ways(prose)} >= {"/users/ana", "/pools/default"}


def ways(prose: str) -> list[tuple[str, list[str]]]:
    """Addresses of the panel, each with the words in bold that the same clause names, before or after it."""
    found = []
    for clause in re.split(r";|\. ", prose.partition("n the panel")[2]):
        places = re.findall(r"`(/[^`]*)`", clause)
        found += [(place, re.findall(r"\*\*(.+?)\*\*", clause)) for place in places if place not in ("/readyz", "/")]
    return found


def loaded(page: str) -> list[str]:
    """What the page fetches as soon as it is there."""
    return [html.unescape(tag[1]) for tag in re.finditer(r'hx-get="([^"]*)" hx-trigger="load"', page)]


def visible(page: str) -> str:
    """What stands between the tags, and what is said to who cannot see."""
    said = " ".join(re.findall(r'aria-label="([^"]*)"', page))
    return html.unescape(re.sub(r"<[^>]+>", " ", page) + " " + said)
