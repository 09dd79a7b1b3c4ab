"""Of very many pools `/metrics` reports a few one by one, those that alerts are about first. The totals are of all."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import prometheus_client.metrics_core

from gate.coordination.scrape import Scrape, _busiest
from gate.http.metrics import _Collector
from gate.ledger.reports.counters import PoolCounters
from gate.ledger.reports.gauges import LedgerGauges, PoolGauges
from gate.slots.gauges import RedisGauges

IDLE = RedisGauges(1, 3, 0, 0, 0, 0, 0, False, 0, 0, 0, 0, 0, 0, 0)


def scrape(names: list[str], **redis: RedisGauges) -> Scrape:
    return Scrape(
        {name: redis.get(name, IDLE) for name in names},
        LedgerGauges({name: PoolGauges(1000, 3600) for name in names}),
        {name: PoolCounters() for name in names},
    )


def test_pools_in_trouble_come_first_then_the_live_then_the_most_used() -> None:
    figures = scrape(
        ["idle", "live", "overdue", "owing", "paused", "used"],
        live=replace(IDLE, running=3, queued=5),
        overdue=replace(IDLE, overdue=1),
        paused=replace(IDLE, paused=True),
    )
    assert figures.sql is not None
    figures.sql.pools["owing"].owed = 1
    figures.counted["used"].admitted = Counter(running=3)
    troubled = {"overdue", "owing", "paused"}
    assert [_busiest(figures, most) for most in (3, 4, 5)] == [troubled, troubled | {"live"}, troubled | {"live", "used"}]
    assert _busiest(figures, 6) == figures.counted.keys()


def test_a_store_that_is_away_leaves_the_choice_to_the_other() -> None:
    figures = scrape(["a", "b", "c"], c=replace(IDLE, paused=True))
    assert _busiest(replace(figures, sql=None), 1) == {"c"}
    assert _busiest(replace(figures, redis=None), 1) == {"a"}


def test_what_is_not_shown_is_in_the_totals() -> None:
    names = [f"p{number}" for number in range(50)]
    figures = scrape(names, p7=replace(IDLE, running=2, queued=4))
    figures.total.ended["completed", "holder"] = 12
    figures = replace(figures, shown=_busiest(figures, 2))
    families = list(_Collector(figures, SimpleNamespace(**vars(prometheus_client.metrics_core))).collect())  # type: ignore[arg-type]
    samples = [sample for family in families for sample in family.samples]
    assert {sample.labels["pool"] for sample in samples if "pool" in sample.labels} == {"p7", "p0"}
    values = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
    assert (values[("gate_pools",)], values[("gate_pools_shown",)]) == (50, 2)
    assert (values[("gate_all_slots_limit",)], values[("gate_all_queue_length",)]) == (150, 4)
    assert values["gate_all_jobs_ended_total", "completed", "holder"] == 12
