"""What the pages under docs/ say is so, as far as it can be read from them; tests/proof/pages/test_moving_over.py plays the longest of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gate.runtime.settings import load
from tests.support.gate_process import run_gate
from tests.support.pages import anchor, blocks, prose
from tests.support.paths import ROOT
from tests.support.routes import TABLE

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/**/*.md"))]
ENGLISH, PORTUGUESE = (ROOT / "docs" / name for name in ("moving-over.md", "mudanca.md"))
WORDS = {"um ensaio": "a trial", "só um job por vez": "only one job at a time", "perdido": "lost"}
"""What people read in a command, in both languages."""


def bare(text: str) -> str:
    """Without comments."""
    return "\n".join(re.sub(r"\s+(#|--) .*$", "", line) for line in text.splitlines())


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_the_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s:]+)\)", prose(page)):
        path, _, heading = target.partition("#")
        to = page if not path else page.parent / path
        assert to.exists(), target
        assert not heading or heading in map(anchor, re.findall(r"^#+ (.*)$", to.read_text(), flags=re.MULTILINE)), target


def test_the_two_languages_say_the_same() -> None:
    english, portuguese = prose(ENGLISH), prose(PORTUGUESE)
    for mark in (r"^#+", r"^\|", r"^- \*\*", r"^- ", r"^\*\*"):
        assert len(re.findall(mark, english, re.MULTILINE)) == len(re.findall(mark, portuguese, re.MULTILINE)), mark
    assert re.findall(r"^#+", english, re.MULTILINE) == re.findall(r"^#+", portuguese, re.MULTILINE)
    linked = [
        sorted(set(re.findall(r"\]\(([^)]+)\)", text)) - {PORTUGUESE.name, ENGLISH.name}) for text in (english, portuguese)
    ]
    assert linked[0] == linked[1]
    assert f"]({PORTUGUESE.name})" in english and f"]({ENGLISH.name})" in portuguese
    quoted = [sorted(set(re.findall(r"`([^`\n]+)`", text))) for text in (english, portuguese)]
    assert quoted[0] == quoted[1]


def test_the_two_languages_have_the_same_commands() -> None:
    one, other = blocks(ENGLISH), blocks(PORTUGUESE)
    assert len(one) == len(other) > 15
    for (language, text), (its_language, its_text) in zip(one, other, strict=True):
        for word, meant in WORDS.items():
            its_text = its_text.replace(word, meant)
        assert (its_language, bare(its_text)) == (language, bare(text))


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_toml_is_a_gate_toml(page: Path, tmp_path: Path) -> None:
    for number, (language, text) in enumerate(blocks(page)):
        if language == "toml":
            config = tmp_path / f"{number}.toml"
            config.write_text(text.replace("whsec_…", "whsec_dGhpcyBpcyBhIHNlY3JldCBvZiB0aGUgdGVzdHM=").replace("…", "x"))
            load(config)


@pytest.mark.parametrize("page", [ENGLISH, PORTUGUESE], ids=["english", "portuguese"])
def test_every_command_is_one(page: Path, tmp_path: Path) -> None:
    text = "\n".join(text for language, text in blocks(page) if language == "sh").replace("\\\n", " ")
    named = {
        tuple(command)
        for command in re.findall(r"^gate ((?:[a-z]+ ?)+)", text, flags=re.MULTILINE)
        for command in [command.split()]
    }
    assert {words[0] for words in named} >= {"serve", "demo", "keys", "db", "status", "verify", "ledger", "jobs"}
    for words in named:
        command = words[:2] if words[0] in ("keys", "db") else words[:1]
        known = run_gate(*command, "--help", cwd=tmp_path)
        assert known.returncode == 0, known.stderr
        for line in re.findall(rf"^gate {' '.join(words)}.*$", text, flags=re.MULTILINE):
            assert all(flag in known.stdout for flag in re.findall(r"--[a-z-]+", line)), line
    asked = re.findall(r"^curl -X (\w+) \S+?(/v1/\S+|/functions/v1/\S+)(.*)$", text, flags=re.MULTILINE)
    assert len(asked) == text.count("curl ") == 7
    for method, path, rest in asked:
        shaped = re.sub(r"/jobs/[^/]+", "/jobs/{job_id}", path.replace("/default", "/{pool}"))
        shaped = re.sub(r"(queue-manager)/.+", r"\1/{path:text}", shaped)
        assert (method, shaped) in TABLE, path
        for body in re.findall(r"-d '(.*?)'", rest):
            assert isinstance(json.loads(body), dict)


def test_the_database_has_what_the_functions_ask_of_it() -> None:
    """docs/moving-over/database.sql takes the place of the example's tables.sql."""
    sql = (ROOT / "docs/moving-over/database.sql").read_text()
    functions = ROOT / "examples/supabase/functions"
    text = "".join(path.read_text() for path in (functions / "runninghub-queue-manager").glob("*.ts"))
    called = re.findall(r'db\.rpc\("(\w+)", \{(.*?)\}', text)
    assert {name for name, _ in called} == {"rows_left", "set_queue_positions"}
    for name, given in called:
        (taken,) = re.findall(rf"create or replace function {name}\((.*?)\)\s+returns", sql)
        assert re.findall(r"(\w+):", given) == re.findall(r"(\w+) \w+(?:,|$)", taken), name
    (tables,) = re.findall(r"unnest\(array\[(.*?)\]", sql, re.DOTALL)
    (listed,) = re.findall(r"TABLES = new Set\(\[(.*?)\]\)", (functions / "_shared/rows.ts").read_text(), re.DOTALL)
    assert re.findall(r"\w+", tables) == re.findall(r"\w+", listed)
