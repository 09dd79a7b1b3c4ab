"""Forged callbacks: how they are made, and the answer that each must get."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook

from gate.model.limits import END_BODY_MAX_BYTES

SECRET, OTHERS = "whsec_Z2VudWluZSBzZWNyZXQgb2YgY2hhb3M=", "whsec_c29tZWJvZHkgZWxzZSdzIHNlY3JldCE="
TOKEN = "t0ken-of-the-provider-alone"
STANDARD, HUB, OF_OLD = "/v1/webhooks/standard/hooks", "/v1/webhooks/runninghub/hooks", "/functions/v1/runninghub-webhook"


@dataclass(frozen=True, slots=True)
class Target:
    """A live job, as an attacker knows it."""

    provider: str
    task_id: str
    job_id: str


@dataclass(slots=True)
class Post:
    """A request, header by header, as it goes over the wire; `code` is what a forged one has to be answered."""

    path: str
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)
    code: int = 401
    method: str = "POST"

    def wire(self) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", "host: gate", "content-type: application/json"]
        lines += [
            f"content-length: {len(self.body)}",
            *(f"{name}: {value}" if value else name for name, value in self.headers),
        ]
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + self.body


class Wire:
    """A keep-alive connection that sends whatever it is told to."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, post: Post) -> tuple[int, bytes]:
        """Status and body of the answer; status 0 when there is none."""
        if self._open is None:
            self._open = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._open
        try:
            writer.write(post.wire())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            body = await (reader.readexactly(int(fields["content-length"])) if "content-length" in fields else reader.read())
            if fields.get("connection") == "close":
                await self.close()
            return int(head.split(" ", 2)[1]), body
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
            return 0, b""

    async def close(self) -> None:
        if self._open is not None:
            _, writer = self._open
            self._open = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


# ---- what the provider sends ----------------------------------------------------------------------------------------


def word(target: Target, outcome: str, delivery_id: str, *, pool: str = "hooks", by_job: bool = False) -> Post:
    """A genuine callback, signed now."""
    if target.provider == "runninghub":
        return Post(f"/v1/webhooks/runninghub/{pool}?token={TOKEN}", hub_body(target, outcome))
    return signed(target, outcome, delivery_id, path=f"/v1/webhooks/standard/{pool}", by_job=by_job)


def hub_body(target: Target, outcome: str) -> bytes:
    files = [{"fileUrl": f"https://f/{target.task_id}.png", "fileType": "png"}]
    event = {"code": 0, "data": files} if outcome == "completed" else {"code": 805, "msg": f"{outcome}: no GPU"}
    return json.dumps({"event": "TASK_END", "taskId": target.task_id, "eventData": event}).encode()


def standard_body(target: Target, outcome: str, by_job: bool = False) -> bytes:
    about = {"job_id": target.job_id} if by_job else {"task_id": target.task_id}
    return json.dumps({"type": "task.ended", "data": {**about, "outcome": outcome}}).encode()


def signed(
    target: Target, outcome: str, delivery_id: str, *, secret: str = SECRET, at: float = 0, path: str = STANDARD,
    by_job: bool = False, body: bytes | None = None,
) -> Post:  # fmt: skip
    """`at`: seconds from now."""
    body = standard_body(target, outcome, by_job) if body is None else body
    moment = datetime.fromtimestamp(int(time.time() + at), UTC)
    shown = {
        "webhook-id": delivery_id, "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign(delivery_id, moment, body.decode()),
    }  # fmt: skip
    return Post(path, body, list(shown.items()))


# ---- what others send -----------------------------------------------------------------------------------------------


class Forger:
    """Forged callbacks about live jobs, of each kind in turn."""

    def __init__(self, dice: random.Random, targets: list[Target]) -> None:
        self._dice, self._targets = dice, targets
        self.kinds: dict[str, Callable[[], Post]] = dict(self._signed()) | dict(self._shown()) | dict(self._broken())

    def _post(self, **how: float | str) -> Post:
        """One that would be good, but for `how`."""
        target, outcome = self._dice.choice(self._targets), self._dice.choice(("completed", "failed", "cancelled"))
        return signed(target, outcome, f"f-{self._dice.getrandbits(64):x}", by_job=self._dice.random() < 0.5, **how)

    def _with(self, name: str, change: Callable[[str], str | None]) -> Callable[[], Post]:
        """A good one, with a header changed or left out."""

        def made() -> Post:
            post = self._post()
            changed = [(key, change(value) if key == name else value) for key, value in post.headers]
            post.headers = [(key, value) for key, value in changed if value is not None]
            return post

        return made

    def _signed(self) -> Iterator[tuple[str, Callable[[], Post]]]:
        dice = self._dice
        yield "another's secret", lambda: self._post(secret=OTHERS)
        yield "replayed too late", lambda: self._post(at=-dice.uniform(302, 90_000))
        yield "from the future", lambda: self._post(at=dice.uniform(302, 90_000))
        yield "another pool, another's secret", lambda: self._post(secret=OTHERS, path="/v1/webhooks/standard/default")
        yield (
            "no such pool",
            lambda: self._post(secret=OTHERS, path="/v1/webhooks/standard/" + dice.choice(("no", "%00", "%ff"))),
        )
        changes: dict[str, dict[str, Callable[[str], str | None]]] = {
            "webhook-signature": {
                "missing": lambda _: None,
                "empty": lambda _: '""',
                "no value": lambda _: "v1,",
                "nonsense": lambda _: dice.choice(("v1,%%%", "v1", ",,,", "v1 v1 v1", "é€😀", "v1,\udcff\udcfe")),
                "cut": lambda good: good[: dice.randrange(1, len(good))],
                "one letter off": lambda good: good[:8] + ("A" if good[8] != "A" else "B") + good[9:],
                "another version": lambda good: good.replace("v1,", "v2,"),
                "a hundred wrong ones": lambda _: " ".join(f"v1,{dice.getrandbits(256):064x}" for _ in range(100)),
            },
            "webhook-timestamp": {
                "missing": lambda _: None,
                "not whole": lambda good: f"{good}.0",
                "another": lambda good: str(int(good) - 1),
                "not in digits": lambda _: dice.choice(("now", "0x10", "1e9", "-1", "+1", "٣", "1" * 400, "1_000", "nan")),
            },
            "webhook-id": {
                "missing": lambda _: None,
                "another": lambda good: f"{good}1",
                "malformed": lambda _: dice.choice(("é", "i" * 257, "a b", '"', "\udcff")),
            },
        }
        for name, kinds in changes.items():
            for kind, change in kinds.items():
                yield f"{name} {kind}", self._with(name, change)
        yield "another body", self._another_body
        yield "an id twice", self._twice

    def _another_body(self) -> Post:
        post = self._post()
        post.body = self._dice.choice((post.body + b" ", b"", b"{", b"\xff", post.body.replace(b'"data"', b'"dat"', 1)))
        return post

    def _twice(self) -> Post:
        post = self._post(secret=OTHERS)
        post.headers += [("webhook-id", "f-second"), ("webhook-signature", "v1,AAAA")]
        return post

    def _shown(self) -> Iterator[tuple[str, Callable[[], Post]]]:
        """Where the secret is a token."""
        dice = self._dice
        tokens: dict[str, Callable[[], str]] = {
            "missing": lambda: "",
            "empty": lambda: "?token=",
            "wrong": lambda: f"?token={dice.getrandbits(128):x}",
            "cut": lambda: f"?token={TOKEN[: dice.randrange(1, len(TOKEN))]}",
            "and more": lambda: f"?token={TOKEN}{dice.choice(('x', '%00', '%20', '%0a', '%ff'))}",
            "in capitals": lambda: f"?token={TOKEN.upper()}",
            "under another name": lambda: dice.choice(
                (f"?Token={TOKEN}", f"?token[]={TOKEN}", f"?key={TOKEN}", f"#token={TOKEN}")
            ),
            "very long": lambda: f"?token={TOKEN * 100}",
            "malformed": lambda: dice.choice(
                ("?token=%", "?token=%ff%fe", "?token=%ed%a0%80", "?token", "?&&==&", "?token==")
            ),
        }
        for kind, query in tokens.items():
            yield f"token {kind}", lambda query=query: self._shows(query())
        bearer = [("authorization", f"Bearer {TOKEN}"), ("apikey", TOKEN), ("cookie", f"token={TOKEN}")]
        yield "token in a header", lambda: self._shows("", bearer)

    def _shows(self, query: str, headers: list[tuple[str, str]] | None = None) -> Post:
        target = self._dice.choice(self._targets)
        path = self._dice.choice((HUB, HUB, OF_OLD, "/v1/webhooks/runninghub/default"))
        body = hub_body(target, self._dice.choice(("completed", "failed")))
        return Post(path + query, self._dice.choice((body, body, body, b"not JSON", b"[]", b"\xff")), headers or [])

    def _broken(self) -> Iterator[tuple[str, Callable[[], Post]]]:
        """What is not even read so far."""
        dice = self._dice

        def but(**how: object) -> Callable[[], Post]:
            def made() -> Post:
                post = self._post(secret=OTHERS)
                for name, value in how.items():
                    setattr(post, name, value)
                return post

            return made

        yield "no such provider", but(path="/v1/webhooks/nobody/hooks", code=404)
        yield "another method", but(method="PUT", code=405)
        yield "a header of 20 KB", but(headers=[("webhook-id", "x" * 20_000)])
        yield "a header without a colon", but(headers=[("nonsense", "")], code=400)
        yield "NUL in a header", but(headers=[("webhook-id", "a\0b")], code=400)
        yield "oversized", lambda: Post(STANDARD, b" " * (END_BODY_MAX_BYTES + 1 + dice.randrange(64)), code=413)
