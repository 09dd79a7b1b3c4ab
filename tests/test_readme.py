"""What README says is so: its commands are run, in order, against a gate that was started as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from gate.runtime.settings import Settings
from tests.pages import block, needs_tools, play
from tests.support import ROOT, Served

PAGE = ROOT / "README.md"
README = PAGE.read_text()


@needs_tools
def test_the_page_can_be_played_from_top_to_bottom(tmp_path: Path) -> None:
    with Served(tmp_path, config=block(PAGE, "toml", "whsec_dGhl")) as served:
        play(PAGE, served, tmp_path)


def test_its_python_runs(tmp_path: Path) -> None:
    (page,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    with Served(tmp_path) as served:
        page = page.replace("http://127.0.0.1:8000", served.url)
        done = subprocess.run([sys.executable, "-c", page], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("completed {'url': 'fox.png'}\ncancelled\n", "")


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `GATE_(\w+)` \| `?([^|`]*?)`? \|", README, flags=re.MULTILINE))
    fields = {
        name.upper(): field.default
        for name, field in Settings.model_fields.items()
        if name not in ("pools", "tools", "providers")
    }
    assert rows.keys() == fields.keys()
    for name, default in fields.items():
        if default is not None:
            assert rows[name] == (str(default).lower() if isinstance(default, bool) else str(default))


def test_every_route_is_in_the_table(served: Served) -> None:
    said = set(re.findall(r"^\| `(GET|PUT|POST) (/[^`]*)` \|", README, flags=re.MULTILINE))
    paths = served.http.get("/openapi.json").json()["paths"]
    assert said == {(method.upper(), path) for path, methods in paths.items() for method in methods}


def test_the_codes_it_names_are_those_of_the_table_of_errors() -> None:
    from gate.http.problems import HTTP_CODES, TABLE

    named = README.split("with a stable `code`:")[1].split("\n\n")[0]
    found = set(re.findall(r"`(\w+)`", named))
    told = {(status, code) for status, code, _ in TABLE.values()} | {
        (status, code) for status, (code, _) in HTTP_CODES.items()
    }
    assert found == {code for _, code in told}
    for status, code in told:
        assert re.search(rf"{status}[^·]*`{code}`", named)


def test_the_links_lead_somewhere() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path


def test_every_page_is_in_its_list_of_documents() -> None:
    listed = README.split("## Documents")[1]
    for page in [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")]:
        assert page == PAGE or f"]({page.relative_to(ROOT)})" in listed, page
