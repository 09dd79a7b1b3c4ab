"""The judge sees what would be wrong: each kind of it is made, by hand, in books that are right."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.proof.real_callers import judge as judging
from tests.proof.real_callers.account import Refused, Started, Told
from tests.proof.real_callers.conftest import OpenScene
from tests.proof.real_callers.judge import Books, judge, read
from tests.proof.real_callers.scene import Scene
from tests.support.wait import until

pytestmark = pytest.mark.anyio


def event_lost(scene: Scene, books: Books) -> None:
    scene.side.account.told["done"].pop(1)


def events_swapped(scene: Scene, books: Books) -> None:
    told = scene.side.account.told["done"]
    told[1], told[2] = told[2], told[1]


def ended_twice(scene: Scene, books: Books) -> None:
    account = scene.side.account
    account.told["done"].append(Told("another", "failed", account.told["done"][-1].job | {"status": "failed"}, False))


def told_again_later(scene: Scene, books: Books) -> None:
    told = scene.side.account.told["done"]
    told.append(replace(told[0], again=True))


def row_differs(scene: Scene, books: Books) -> None:
    scene.side.account.rows["done"] = "running"


def not_started(scene: Scene, books: Books) -> None:
    scene.side.account.starts[:] = [call for call in scene.side.account.starts if call.job_id != "done"]


def another_webhook_id(scene: Scene, books: Books) -> None:
    first = scene.side.account.starts_of("done")[0]
    scene.side.account.starts.append(Started("another", first.job))


def two_tasks(scene: Scene, books: Books) -> None:
    (task,) = scene.side.account.tasks_of("done")
    scene.side.account.tasks["1"] = replace(task, task_id="1")


def provider_said_otherwise(scene: Scene, books: Books) -> None:
    scene.side.account.tasks_of("done")[0].plan["outcome"] = "failed"


def nobody_said_so(scene: Scene, books: Books) -> None:
    scene.side.account.tasks_of("done")[0].plan["callback"] = "lost"


def late_outcome_lost(scene: Scene, books: Books) -> None:
    books.jobs["late"] = changed(books.jobs["late"], late_outcome=None)


def expired_in_time(scene: Scene, books: Books) -> None:
    scene.side.account.tasks_of("late")[0].plan["late"] = 0


def a_fourth(scene: Scene, books: Books) -> None:
    (task,) = scene.side.account.tasks_of("done")
    scene.side.account.refusals.append(Refused("done", task.sent, task.answered, planned=False))


def not_refunded(scene: Scene, books: Books) -> None:
    books.booked.pop(("late", "refund"))


def charged_twice(scene: Scene, books: Books) -> None:
    books.booked["done", "charge"] *= 2


def paid_twice(scene: Scene, books: Books) -> None:
    assert scene.money is not None
    paid = scene.money.refunds()
    scene.money.refunds = lambda: paid | {"late": paid["late"] * 2}  # type: ignore[method-assign]


def balance_differs(scene: Scene, books: Books) -> None:
    assert scene.money is not None
    balances = scene.money.balances()
    scene.money.balances = lambda: balances | {"user-late": 0}  # type: ignore[method-assign]


def changed(row: Any, **values: Any) -> Any:
    return type("Row", (), row._asdict() | values)()


WRONGS: dict[Callable[[Scene, Books], None], str] = {
    event_lost: "its history is",
    events_swapped: "after",
    ended_twice: "ended 2 times",
    told_again_later: "was told again after",
    row_differs: "its row says",
    not_started: "without a start call",
    another_webhook_id: "under 2 webhook-ids",
    two_tasks: "2 tasks for 1 grants",
    provider_said_otherwise: "its provider said failed",
    nobody_said_so: "has not said so",
    late_outcome_lost: "what was kept is None",
    expired_in_time: "called back in time",
    a_fourth: "a fourth",
    not_refunded: "in the ledger, due",
    charged_twice: "charged",
    paid_twice: "its owner paid",
    balance_differs: "balances are",
}


async def test_every_kind_of_wrong_is_seen(open_scene: OpenScene, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_scene({"lease_seconds": 1}) as scene:
        assert scene.money is not None
        scene.asks("done")
        scene.asks("late", plans=[{"late": 1.5}])
        await until(lambda: not scene.unsettled(), "nothing is on its way any more")
        assert judge(scene) == []
        books, account, money = read(scene), scene.side.account, scene.money
        for make, words in WRONGS.items():
            scene.side.account, scene.money = copy.deepcopy(account), copy.copy(money)
            wrong_books = Books(dict(books.jobs), books.events, copy.deepcopy(books.booked))
            monkeypatch.setattr(judging, "read", lambda _scene, found=wrong_books: found)
            make(scene, wrong_books)
            found = judge(scene)
            assert any(words in one for one in found), f"{make.__name__}: {found}"
        monkeypatch.undo()
        scene.side.account, scene.money = account, money
