"""docs/concepts.md: the words are the code's, and the states, reasons and codes are those that there are."""

from __future__ import annotations

import inspect
import re
import xml.etree.ElementTree as ET

import gate.coordination.jobs
from gate.http.answers import JobOut
from gate.http.problems import HTTP_CODES, TABLE
from gate.ledger.sql import tables
from gate.model.job import ENDED, HOLDING, STATUSES
from gate.model.limits import BODY_MAX_BYTES, OUTPUT_MAX_BYTES, PAYLOAD_MAX_BYTES
from gate.runtime.settings import PoolDefaults
from gate.workers import reconciler
from tests.support.pages import block, prose, rows
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "concepts.md"
PICTURE = ROOT / "docs" / "concepts" / "states.svg"
WORDS = {
    "pool", "job", "slot", "lease", "holder", "grant", "fence", "renew", "release", "outcome", "refund", "queue", "ticket",
    "position", "claim", "outbox", "ledger", "epoch", "sweep",
}  # fmt: skip
REASONS = {"queue_timeout", "claim_timeout", "lease_timeout", "hold_limit"}


def test_every_word_it_defines_is_one_of_the_code() -> None:
    defined = {word.removesuffix("s") for word in re.findall(r"\*\*(\w+)\*\*", prose(PAGE))}
    assert defined == WORDS
    code = [
        path.read_text() for folder, kind in (("gate", "py"), ("lua", "lua")) for path in (ROOT / folder).rglob(f"*.{kind}")
    ]
    named = {word for text in code for word in re.findall(r"[a-z]+", text.lower())}
    assert named >= WORDS


def test_the_picture_as_text_is_that_of_the_essay() -> None:
    essay = inspect.getdoc(gate.coordination.jobs)
    assert essay is not None
    assert "\n".join(f"    {line}" for line in block(PAGE, "text").splitlines()) in essay


def test_the_drawn_picture_has_every_status_and_every_reason() -> None:
    drawn = {(text.text or "").strip() for text in ET.parse(PICTURE).iter("{http://www.w3.org/2000/svg}text")}
    assert drawn >= STATUSES
    assert "queue_timeout, claim_timeout, lease_timeout, hold_limit" in drawn
    assert "prefers-color-scheme: dark" in PICTURE.read_text()


def test_the_table_of_statuses_is_whole() -> None:
    said: dict[str, list[str]] = {}
    for names, *cells in rows(PAGE, "status", "holds a slot"):
        for name in re.findall(r"`(\w+)`", names):
            if name.isalpha():
                said[name] = cells
    assert said.keys() == STATUSES
    assert {name for name, (holds, *_) in said.items() if holds == "yes"} == HOLDING
    assert {one for name, (*_, why) in said.items() if name not in ENDED for one in re.findall(r"`(\w+)`", why)} == REASONS
    text = inspect.getsource(tables)
    assert all(f"'{reason}'" in text for reason in REASONS)


def test_the_codes_it_says_what_to_do_about_are_all_there_are() -> None:
    said = {
        (int(status), code) for status, codes, _ in rows(PAGE, "status", "`code`") for code in re.findall(r"`(\w+)`", codes)
    }
    by_gate = {(status, code) for status, code, _ in TABLE.values()}
    assert said == by_gate | {(status, code) for status, (code, _) in HTTP_CODES.items()}


def test_settings_reasons_and_bounds_are_those_of_the_code() -> None:
    text = prose(PAGE)
    assert (
        set(re.findall(r"`(\w+_seconds)`", text)) - {"wait_seconds", "eta_seconds", "max_eta_seconds", "presence_seconds"}
        <= PoolDefaults.model_fields.keys()
    )
    (waiting,) = re.findall(
        r"(?s)shows its reason: `(\w+)`, `(\w+)` .*?,\s`(\w+)` .*?,\s`(\w+)` .*?,\s`(\w+)` .*?,\s`(\w+)` .*?,\s`(\w+)` .*?, or `(\w+)`",
        text,
    )
    assert str(JobOut.model_fields["reason"].annotation).count("'") == 2 * len(waiting)
    assert all(f"'{reason}'" in str(JobOut.model_fields["reason"].annotation) for reason in waiting)
    sizes = f"a payload of more than {PAYLOAD_MAX_BYTES // 1024} KiB or an output of more than {OUTPUT_MAX_BYTES // 1024} KiB"
    assert sizes in text and f"a whole body has at most {BODY_MAX_BYTES // 1024} KiB" in text
    assert reconciler.EVERY_S == 10 and "compares the two stores every ten seconds" in text
