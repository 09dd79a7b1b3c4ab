"""The route `/metrics`, for Prometheus. docs/monitoring.md explains each metric, and a test compares it with this module.

Metrics read from the two stores are the same at every server. The other metrics count what this process does.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from gate import __version__
from gate.http.auth.roles import ANY_KEY, open_to
from gate.http.services import ScrapeService
from gate.ledger import CallbackResult
from gate.model.messages import AnswerState
from gate.providers import PAGES, PROVIDERS
from gate.telemetry import counters

if TYPE_CHECKING:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

    from gate.coordination.scrape import Scrape
    from gate.ledger import AccountState
    from gate.ledger.reports import gauges
    from gate.ledger.reports.counters import PoolCounters
    from gate.slots.gauges import RedisGauges

    T = TypeVar("T")
    Table = Sequence[tuple[str, str, Callable[[T], float]]]
    """Metric name, help text, and function that reads the value from a pool's figures."""

router = APIRouter(tags=["health"])
CAUSES = {
    "completed": ("holder", "provider", "operator", "caller"),
    "failed": ("holder", "provider", "operator", "caller", "tool"),
    "cancelled": ("holder", "provider", "operator", "caller"),
    "expired": ("queue_timeout", "claim_timeout", "lease_timeout", "hold_limit"),
}
"""Causes by outcome. Their counters start at 0: Prometheus sees no increase when a counter first appears with a value."""
KNOWN_ENDS = {(outcome, cause) for outcome, causes in CAUSES.items() for cause in causes}
"""The same as pairs."""
ANSWERS = [*(state.value for state in AnswerState), "silent"]
"""Answers of providers. Their counters start at 0."""
REPAIRS = (
    "adopt", "ended", "give_back", "overdue", "restore", "seat", "settings", "stranger", "unheard",
)  # fmt: skip
"""Kinds of repairs by the reconciler. Their counters start at 0."""
RESULTS = {
    "start": ("delivered", "refused", "tool_down", "failed", "over", "put_off"),
    "event": ("delivered", "put_off", "given_up"),
}
"""Results of calls to tools, by kind of call. Their counters start at 0."""
OF_REDIS: Table[RedisGauges] = (
    ("gate_slots_limit", "Jobs that may hold a slot at a time.", lambda one: one.limit),
    ("gate_slots_running", "Slots whose job has started.", lambda one: one.running),
    ("gate_slots_granted", "Slots whose job has not started yet.", lambda one: one.granted),
    ("gate_slots_draining", "Slots of jobs that have ended, whose tasks still run.", lambda one: one.draining),
    ("gate_slots_free", "Slots that no job holds.", lambda one: one.free),
    ("gate_slots_overdue", "Slots whose deadline is over and that are not reaped yet.", lambda one: one.overdue),
    ("gate_lease_oldest_seconds", "Age of the oldest lease.", lambda one: one.oldest_lease_s),
    ("gate_queue_length", "Jobs that wait.", lambda one: one.queued),
    (
        "gate_paused",
        "1 while an operator has paused the pool, so that no job is granted a slot.",
        lambda one: one.paused,
    ),
    (
        "gate_tools_down_seconds",
        "What is left of the cool-down of tools whose start address fails.",
        lambda one: one.tools_down_s,
    ),
    (
        "gate_aside_seconds",
        "What is left of the cool-down of a job that its provider refuses again and again.",
        lambda one: one.aside_s,
    ),
    ("gate_cooling_seconds", "What is left of the cool-down after a refusal.", lambda one: one.cooling_s),
    (
        "gate_clock_ahead_seconds",
        "By how much the clock of Redis is ahead of the pool's, since it stepped.",
        lambda one: one.clock_ahead_s,
    ),
    ("gate_epoch", "Which life of the pool Redis holds; 0: none.", lambda one: one.epoch),
    ("gate_outbox_entries", "What Redis has done and SQL has not recorded.", lambda one: one.outbox),
    (
        "gate_outbox_oldest_seconds",
        "Age of the oldest of these: how far SQL is behind.",
        lambda one: one.oldest_entry_s,
    ),
)
"""Metrics of a pool that come from Redis."""
TOTALS_OF_REDIS: Table[RedisGauges] = (
    ("gate_all_slots_limit", "Jobs that may hold a slot at a time, in all pools.", lambda one: one.limit),
    ("gate_all_slots_running", "Slots of all pools whose job has started.", lambda one: one.running),
    ("gate_all_queue_length", "Jobs that wait, in all pools.", lambda one: one.queued),
    ("gate_all_outbox_entries", "What Redis has done and SQL has not recorded, in all pools.", lambda one: one.outbox),
)
"""Metrics of all pools together that come from Redis."""
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Counted(Protocol):
    """A histogram, of this process or of the ledger.

    Attributes:
        bounds: Upper bounds of the buckets, without infinity.
        counts: Number of values in each bucket. The last one has no upper bound.
        sum: Sum of all values.
    """

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}, "description": "the figures"}},
)
@open_to(ANY_KEY)
async def scrape(request: Request, scraper: ScrapeService) -> Response:
    """Return all metrics in the text format of Prometheus.

    When a store does not answer, its `gate_store_up` is 0, and the metrics that come from it are left out. It is 0 also while a
    store takes no writes.
    """
    figures = await scraper.read()
    # Import it in a thread, at the first scrape: it takes long to import, and no other part of gate needs it.
    prometheus = await asyncio.to_thread(importlib.import_module, "prometheus_client")
    encode, content_type = prometheus.exposition.choose_encoder(request.headers.get("accept", ""))
    registry = prometheus.CollectorRegistry(auto_describe=False)
    registry.register(_Collector(figures, prometheus.metrics_core))
    prometheus.ProcessCollector(registry=registry)
    return Response(encode(registry), media_type=content_type)


class _Collector:
    """The source of the metrics of one scrape. The library calls `collect`."""

    def __init__(self, figures: Scrape, core: ModuleType) -> None:
        self._figures, self._core = figures, core
        self._counted = self._shown(figures.counted)

    def _shown(self, figures: Mapping[str, T]) -> dict[str, T]:
        """Return the figures of the pools that are reported one by one."""
        return {pool: one for pool, one in figures.items() if pool in self._figures.shown}

    def collect(self) -> Iterator[Metric]:
        yield self._gauge("gate_info", "The version that runs.", ["version"], [([__version__], 1)])
        up = [([store], there) for store, there in self._figures.up.items()]
        yield self._gauge("gate_store_up", "Whether the store answered this scrape and takes writes.", ["store"], up)
        yield from self._totals()
        yield from self._of_redis()
        yield from self._of_sql()
        yield from self._of_the_ledger()
        yield from self._of_this_process()

    def _totals(self) -> Iterator[Metric]:
        """Yield the figures of all pools together, also of those that are not reported one by one."""
        redis, sql, total = self._figures.redis, self._figures.sql, self._figures.total
        yield self._gauge("gate_pools", "Pools that there are.", [], [([], len(self._figures.counted))])
        yield self._gauge("gate_pools_shown", "Pools that are reported one by one.", [], [([], len(self._counted))])
        for name, says, value in TOTALS_OF_REDIS:
            yield self._gauge(name, says, [], [([], sum(map(value, redis.values())))] if redis is not None else [])
        owed: list[tuple[list[str], float]] = [([], sum(one.owed for one in sql.pools.values()))] if sql is not None else []
        yield self._gauge("gate_all_refunds_owed", "Refunds of all pools that are not paid.", [], owed)
        admitted = [([how], total.admitted[how]) for how in ("running", "queued")]
        yield self._counter("gate_all_jobs_admitted", "Jobs let in, in all pools.", ["status"], admitted)
        ended = [([*how], total.ended[how]) for how in sorted(KNOWN_ENDS | total.ended.keys())]
        yield self._counter("gate_all_jobs_ended", "Jobs that ended, in all pools.", ["outcome", "cause"], ended)
        yield self._counter("gate_all_grants", "Slots given, in all pools.", [], [([], total.grants)])
        yield self._counter("gate_all_refunds", "Refunds booked, in all pools.", [], [([], total.refunds)])
        yield self._counter("gate_all_refunds_credits", "The credits of these.", [], [([], total.credits)])

    def _of_redis(self) -> Iterator[Metric]:
        pools = self._shown(self._figures.redis or {}).items()
        for name, says, value in OF_REDIS:
            yield self._gauge(name, says, ["pool"], [([pool], value(one)) for pool, one in pools])

    def _of_sql(self) -> Iterator[Metric]:
        sql = self._figures.sql
        pools = self._shown(sql.pools).items() if sql else ()
        of_pool: Table[gauges.PoolGauges] = (
            ("gate_queue_max", "Jobs that may wait.", lambda one: one.queue_max),
            ("gate_queue_oldest_seconds", "How long the first in line has been here.", lambda one: one.oldest_wait_s),
            ("gate_hold_max_seconds", "No lease is renewed beyond this age.", lambda one: one.max_hold_s),
            (
                "gate_lease_overdue_seconds",
                "How long the first lease that SQL has as live is over.",
                lambda one: one.overdue_s,
            ),
            ("gate_refunds_owed", "Refunds that the owner's function has not paid.", lambda one: one.owed),
            ("gate_refunds_owed_credits", "The credits of these.", lambda one: one.owed_credits),
            ("gate_refunds_owed_oldest_seconds", "Age of the oldest of these.", lambda one: one.oldest_owed_s),
        )
        for name, says, value in of_pool:
            yield self._gauge(name, says, ["pool"], [([pool], value(one)) for pool, one in pools])
        calls = sql.calls.items() if sql else ()
        says = "Calls to tools that were not answered yet."
        yield self._gauge("gate_deliveries_due", says, ["kind"], [([kind], one.count) for kind, one in calls])
        says = "Age of the oldest of these."
        yield self._gauge(
            "gate_deliveries_due_oldest_seconds", says, ["kind"], [([kind], one.oldest_s) for kind, one in calls]
        )

        unread = [([provider], sql.unread.get(provider, 0)) for provider in sorted(PROVIDERS)] if sql else []
        says = "Callbacks that could not be read and that an operator has to look at."
        yield self._gauge("gate_callbacks_unread_waiting", says, ["provider"], unread)
        yield from self._of_accounts(sql)

    def _of_accounts(self, sql: gauges.LedgerGauges | None) -> Iterator[Metric]:
        known = [
            ([pool, one.provider, one.name], one)
            for pool, several in self._shown(sql.accounts if sql else {}).items()
            for one in several
        ]
        of_account: Table[AccountState] = (
            (
                "gate_account_running",
                "Tasks of gate on the account, and stopped ones whose slots drain.",
                lambda one: one.running,
            ),
            ("gate_account_strangers", "Tasks on the account that are not gate's.", lambda one: one.strangers or 0),
            ("gate_account_down", "1 while its key is refused or its wallet is empty.", lambda one: one.state == "down"),
        )
        for name, says, value in of_account:
            yield self._gauge(name, says, ["pool", "provider", "account"], [(labels, value(one)) for labels, one in known])
        rooms = [(labels, one.room) for labels, one in known if one.room is not None]
        says = "Tasks of gate that the account takes now; absent without a limit."
        yield self._gauge("gate_account_room", says, ["pool", "provider", "account"], rooms)

    def _of_the_ledger(self) -> Iterator[Metric]:
        pools = self._counted.items()
        admitted = [([pool, how], one.admitted[how]) for pool, one in pools for how in ("running", "queued")]
        yield self._counter("gate_jobs_admitted", "Jobs let in: to a slot, or to the queue.", ["pool", "status"], admitted)
        ended = [([pool, *how], one.ended[how]) for pool, one in pools for how in sorted(KNOWN_ENDS | one.ended.keys())]
        yield self._counter("gate_jobs_ended", "Jobs that ended, and by whom or why.", ["pool", "outcome", "cause"], ended)
        totals: Table[PoolCounters] = (
            ("gate_grants", "Slots given.", lambda one: one.grants),
            ("gate_refusals", "Jobs that a provider would not take; they wait again.", lambda one: one.refusals),
            ("gate_late_outcomes", "Outcomes that came after the end of their job; its refund stands.", lambda one: one.late),
            ("gate_refunds", "Refunds booked.", lambda one: one.refunds),
            ("gate_refunds_credits", "The credits of these.", lambda one: one.credits),
        )
        for name, says, value in totals:
            yield self._counter(name, says, ["pool"], [([pool], value(one)) for pool, one in pools])
        spreads: Sequence[tuple[str, str, Callable[[PoolCounters], Counted]]] = (
            ("gate_wait_seconds", "From admission to the first slot.", lambda one: one.waits),
            ("gate_hold_seconds", "From the grant to the end.", lambda one: one.holds),
            ("gate_reap_lag_seconds", "From a deadline to the reaping of its lease.", lambda one: one.reap_lag),
        )
        for name, says, spread in spreads:
            yield self._histogram(name, says, ["pool"], [([pool], spread(one)) for pool, one in pools])

    def _of_this_process(self) -> Iterator[Metric]:
        pools = list(self._counted)
        scripts = [([verb], one) for verb, one in sorted(counters.scripts.items())]
        yield self._histogram("gate_script_seconds", "A script of Redis: from the question to the answer.", ["verb"], scripts)
        undone = [([word], counters.undone[word]) for word in ("cold", "damaged", "elsewhere", "stepped")]
        yield self._counter("gate_scripts_undone", "Scripts that did nothing and were asked again.", ["word"], undone)
        words = ("foreign", "loaded", "refused")
        rebuilds = [([pool, word], counters.rebuilds[pool, word]) for pool in pools for word in words]
        yield self._counter("gate_rebuilds", "Pools loaded into Redis from SQL.", ["pool", "result"], rebuilds)
        steps = [([pool, way], counters.clock_steps[pool, way]) for pool in pools for way in ("back", "forward")]
        yield self._counter(
            "gate_clock_steps", "Steps of Redis's clock that this server met first.", ["pool", "direction"], steps
        )
        says = "Requests in one commit of the writer: its count is the commits, its sum the requests."
        yield self._histogram("gate_commit_requests", says, [], [([], counters.commits)])
        stale = [([pool], counters.stale[pool]) for pool in pools]
        yield self._counter("gate_stale_recordings", "Answers of Redis that came too late for SQL.", ["pool"], stale)
        repairs = [([kind], counters.repairs[kind]) for kind in REPAIRS]
        yield self._counter("gate_sweep_repairs", "Differences between the stores that were mended.", ["kind"], repairs)
        yield from self._of_providers(pools)
        sent = [([kind, result], counters.deliveries[kind, result]) for kind in RESULTS for result in RESULTS[kind]]
        yield self._counter("gate_deliveries", "Calls made to tools, by what came of them.", ["kind", "result"], sent)
        odd = [([name], counters.not_understood[name]) for name in sorted(PROVIDERS)]
        says = "Successes of providers whose output has a shape that gate does not know."
        yield self._counter("gate_callbacks_not_understood", says, ["provider"], odd)
        unread = [([provider], counters.unread_callbacks[provider]) for provider in sorted(PROVIDERS)]
        says = "Callbacks that showed the right secret and could not be read."
        yield self._counter("gate_callbacks_unread", says, ["provider"], unread)
        routes = sorted(counters.answers.items())
        answers = [([*route, f"{digit}xx"], one.by_class[digit]) for route, one in routes for digit in range(2, 6)]
        yield self._counter("gate_http_answers", "HTTP answers.", ["method", "route", "status"], answers)
        seconds = [([*route], one.seconds) for route, one in routes if any(one.seconds.counts)]
        yield self._histogram("gate_http_answer_seconds", "Until an answer began.", ["method", "route"], seconds)

    def _of_providers(self, pools: Sequence[str]) -> Iterator[Metric]:
        retries = [([pool], counters.retries[pool]) for pool in pools]
        says = "Jobs that were started again after a failure of their provider."
        yield self._counter("gate_retries", says, ["pool"], retries)
        asked = [([name, said], counters.questions[name, said]) for name in sorted(PAGES) for said in ANSWERS]
        says = "Questions to providers about tasks, by answer."
        yield self._counter("gate_questions", says, ["provider", "answer"], asked)
        lasted = [([name], counters.question_seconds[name]) for name in sorted(PAGES)]
        says = "From a question to its answer, or to the end of the wait for one."
        yield self._histogram("gate_question_seconds", says, ["provider"], lasted)
        extended = [([name], counters.extensions[name]) for name in sorted(PAGES)]
        says = "Leases extended for a question or by its answer."
        yield self._counter("gate_question_extensions", says, ["provider"], extended)
        stopped = [([name, word], counters.stops[name, word]) for name in sorted(PAGES) for word in ("confirmed", "given_up")]
        yield self._counter("gate_stops", "Stops of tasks that are settled.", ["provider", "result"], stopped)
        results = [one.value for one in CallbackResult]
        ends = [([name, result], counters.ends_by_question[name, result]) for name in sorted(PAGES) for result in results]
        says = "Ends that a question has brought, by what they did."
        yield self._counter("gate_question_ends", says, ["provider", "result"], ends)
        called = [([name, result], counters.callback_ends[name, result]) for name in sorted(PROVIDERS) for result in results]
        says = "Callbacks of an end, by what they did."
        yield self._counter("gate_callback_ends", says, ["provider", "result"], called)
        missing = [([name], counters.callbacks_missing[name]) for name in sorted(PAGES)]
        says = "Ends that a question has brought before a callback, at a provider that is to call back."
        yield self._counter("gate_callbacks_missing", says, ["provider"], missing)

    def _gauge(self, name: str, says: str, labels: Sequence[str], found: Iterable[tuple[list[str], float]]) -> Metric:
        family: GaugeMetricFamily = self._core.GaugeMetricFamily(name, says, labels=labels)
        for values, value in found:
            family.add_metric(values, float(value))
        return family

    def _counter(self, name: str, says: str, labels: Sequence[str], found: Iterable[tuple[list[str], float]]) -> Metric:
        """Make a counter. The library adds `_total` to its name."""
        family: CounterMetricFamily = self._core.CounterMetricFamily(name, says, labels=labels)
        for values, value in found:
            family.add_metric(values, value)
        return family

    def _histogram(self, name: str, says: str, labels: Sequence[str], found: Iterable[tuple[list[str], Counted]]) -> Metric:
        family: HistogramMetricFamily = self._core.HistogramMetricFamily(name, says, labels=labels)
        for values, one in found:
            below, buckets = 0, []
            for bound, count in zip((*map(str, one.bounds), "+Inf"), one.counts, strict=True):
                below += count
                buckets.append((bound, below))
            family.add_metric(values, buckets, one.sum)
        return family
