"""The alarms, the board and the page against the figures of a real gate: each names only what is there, and nothing is left unsaid."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.paths import ROOT

DOCS = ROOT / "docs" / "monitoring"
OF_PROMETHEUS = {"up": {"job", "instance"}}
ADDED = {"job", "instance", "le"}
"""Labels that every figure has in Prometheus, and those of a bucket."""
FUNCTIONS = {"max", "min", "sum", "rate", "increase", "absent", "histogram_quantile", "label_values"}
WORDS = {"by", "and", "or", "unless", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset"}

Exposed = dict[str, tuple[str, set[str]]]


def exposed(text: str) -> Exposed:
    """Type and labels by the names that Prometheus stores."""
    found: Exposed = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels}
        found[name] = family.type, labels - {"le"}
    return found


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exposed]:
    """After a short day: one done, one failed and paid back, one waiting."""
    config = 'limit = 1\n[providers.runninghub]\nbase_url = "http://127.0.0.1:9"\n'
    config += '[providers.runninghub.accounts.first]\nkey = "a-key-of-the-test"\nlimit = 1\n'
    with Served(tmp_path_factory.mktemp("monitored"), config=config) as gate:
        for outcome in ("completed", "failed"):
            job = gate.acquire(job_id=fresh(), user="ana", credits=3).json()
            gate.act(job, "release", outcome=outcome)
        for _ in range(2):
            gate.acquire(job_id=fresh(), user="ana")
        yield exposed(gate.http.get("/metrics").text)


def named(query: str) -> dict[str, set[str]]:
    """Which figures a query of PromQL names, each with the labels that it asks of it by name."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)
    grouped = set()
    for names in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", bare):
        grouped |= {name.strip() for name in names.split(",")}
    plain = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", re.sub(r"\[[^\]]*\]", " ", bare))
    found: dict[str, set[str]] = {}
    for name, matched in re.findall(
        r"\b([a-zA-Z_:][\w:]*)\b\s*(\{[^}]*\})?", re.sub(r"\blabel_values\((.*), *\w+\)", r"\1", plain)
    ):
        if name not in FUNCTIONS | WORDS:
            found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matched))
    for labels in found.values():
        labels |= grouped
    return found


def family(name: str, figures: Exposed) -> str:
    for suffix in ("_bucket", "_count", "_sum"):
        base = name.removesuffix(suffix)
        if name.endswith(suffix) and figures.get(base, ("", set()))[0] == "histogram":
            return base
    return name


def is_there(query: str, figures: Exposed) -> None:
    about = named(query)
    assert about, query
    asked = set().union(*about.values())
    has: set[str] = set()
    for name in about:
        if name in OF_PROMETHEUS:
            has |= OF_PROMETHEUS[name]
            continue
        assert family(name, figures) in figures, f"{name} is not exposed: {query}"
        has |= figures[family(name, figures)][1]
    # Labels of a grouping belong to the whole of a query; those of a selector to its own figure.
    assert asked <= has | ADDED, query
    for name, matched in re.findall(r"\b([a-zA-Z_:][\w:]*)(\{[^}]*\})", query):
        if name not in OF_PROMETHEUS:
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matched))
            assert labels <= figures[family(name, figures)][1] | ADDED, query


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def board() -> dict[str, Any]:
    return json.loads((DOCS / "grafana.json").read_text())


@pytest.mark.parametrize("rule", rules(), ids=[rule["alert"] for rule in rules()])
def test_an_alarm_asks_for_what_is_there_and_says_what_to_do(rule: dict[str, Any], figures: Exposed) -> None:
    is_there(rule["expr"], figures)
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert len(rule["annotations"]["summary"]) > 20 and rule["annotations"]["description"].count(". ") >= 1
    of_the_answer = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) - {"instance"}
    assert of_the_answer <= set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"])))), (
        "only what the query keeps can be named"
    )


def test_every_panel_asks_for_what_is_there(figures: Exposed) -> None:
    queries = [target["expr"] for panel in board()["panels"] for target in panel.get("targets", ())]
    queries += [one["query"]["query"] for one in board()["templating"]["list"] if one["type"] == "query"]
    assert len(queries) > 30
    for query in queries:
        is_there(query, figures)


def test_the_board_can_be_imported() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    taken = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(taken) == len(set(taken)), "no panel lies on another"
    assert all(target["datasource"]["uid"] == "${datasource}" for panel in panels for target in panel.get("targets", ()))


def test_the_page_has_every_figure_and_no_other(figures: Exposed) -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (gauge|counter|histogram) \| ([^|]*)\| (stores|server) \|", page, re.MULTILINE)
    assert {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows} == figures


def test_the_page_has_every_alarm_and_no_other() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert re.findall(r"^\| `(Gate\w+)` \|", page, re.MULTILINE) == [rule["alert"] for rule in rules()]


def test_what_the_stores_say_is_never_added_up_over_servers(figures: Exposed) -> None:
    """Each server says the same: two of them would count twice."""
    page = (ROOT / "docs" / "monitoring.md").read_text()
    of_stores = set(re.findall(r"^\| `(\w+)` \| \w+ \| [^|]*\| stores \|", page, re.MULTILINE))
    queries = [rule["expr"] for rule in rules()]
    queries += [target["expr"] for panel in board()["panels"] for target in panel.get("targets", ())]
    for query in queries:
        for by, name in re.findall(r"\b(\w+)(?: by \([^)]*\))? ?\((?:rate|increase)?\(?(gate_\w+)", query):
            assert by in ("max", "rate", "increase", "label_values") or family(name, figures) not in of_stores, query


@pytest.mark.parametrize(
    "query",
    [
        "max by (pool) (gate_slots_gone)",
        'sum(rate(gate_jobs_ended_total{reason="x"}[5m]))',
        "max by (tool) (gate_queue_length)",
    ],
)
def test_a_query_of_what_is_not_there_is_found(query: str, figures: Exposed) -> None:
    with pytest.raises(AssertionError):
        is_there(query, figures)
