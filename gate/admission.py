"""What is decided about a request before any store is asked for a slot: its price, who starts it, who is told of it."""

from __future__ import annotations

from gate.errors import Invalid
from gate.jobs import Job, Request
from gate.ledger import Owner, Reading
from gate.tools import Tools


class Priced(Request):
    """Whose user and price the owner has said."""

    __slots__ = ()

    def same_content(self, job: Job) -> bool:
        """He may say something else by now, and a call that came at the same time may have been told that: it is the same job."""
        return Request.same_content(self._replace(user=None, credits=None), job)


class Admission:
    """`owner` is None where he has named no function."""

    def __init__(self, tools: Tools, reading: Reading, owner: Owner | None) -> None:
        self._tools, self._reading, self._owner = tools, reading, owner

    async def complete(self, request: Request, by_gate: bool = False, or_refuse: bool = False) -> Request:
        """`by_gate`: gate starts it, if its tool says where; with `or_refuse` a tool that does not is refused. Raises JobUnknown
        when the owner has no such job, StoreDown; Invalid.
        """
        if by_gate and or_refuse:
            self._require_start_url(request)
        if request.tool is None:
            return self._settled(request)
        tool = self._tools[request.tool]
        told = request._replace(starts=by_gate and tool.start_url is not None, tells=tool.events_url is not None)
        if self._owner is None or not self._owner.prices or request.tool not in self._tools:
            return self._settled(told)
        known = await self._reading.job(request.job_id)
        if known is not None:  # its price was the owner's, and stays what it was
            return told._replace(user=known.user, credits=known.credits, settles=known.settles)
        price = await self._owner.price(request.tool, request.job_id)
        said = {"user": price.user, "credits": price.credits, "settles": self._owner.pays}
        return Priced(**told._asdict() | said)

    def _require_start_url(self, request: Request) -> None:
        """Raises Invalid when the request names no tool, or a tool without a `start_url`."""
        if request.tool is None:
            raise Invalid("started_by", "gate starts a job by the start_url of its tool; name a tool")
        if self._tools[request.tool].start_url is None:
            raise Invalid(
                "started_by",
                f"tool {request.tool!r} has no start_url; set it in [tools.{request.tool}], or start the job yourself",
            )

    def _settled(self, request: Request) -> Request:
        """Only what somebody trusted says that he charged is paid back from the owner's table."""
        settles = request.trusted and self._owner is not None and self._owner.pays
        return request._replace(settles=True) if settles else request
