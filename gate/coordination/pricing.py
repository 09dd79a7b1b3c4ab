"""Completion of a request before its admission: price, session, payload, and the settings of its tool."""

from __future__ import annotations

from gate.ledger import BillingHooks, LedgerQueries, Price
from gate.model.errors import GateError, Invalid, JobUnknown, ToolUnknown
from gate.model.job import Job, Request
from gate.model.tool import Tools


class PricedRequest(Request):
    """A request with the facts that the owner's function has read for its job."""

    __slots__ = ()

    def same_content(self, job: Job) -> bool:
        """Say whether the request means this job.

        Table and id name the owner's row. User, price, session and payload are not compared, because the row may change
        between two calls.
        """
        rest = self._replace(user=None, credits=None, session=None, payload=None)  # guard: repeat-ignores-the-price
        return Request.same_content(rest, job)


class JobPricing:
    """Completes requests. `owner` is None when no function of the owner is configured."""

    def __init__(self, tools: Tools, reading: LedgerQueries, owner: BillingHooks | None) -> None:

        self._tools, self._reading, self._owner = tools, reading, owner

    def is_priced(self, table: str | None) -> bool:
        """Say whether the owner's function is asked for the price of jobs of this table."""
        return (
            self._owner is not None
            and self._owner.prices
            # guard: price-only-known-tables
            and table in self._tools
        )

    def unpriced(self, table: str) -> GateError:
        """The refusal of a job of a table that the owner's function is not asked about.

        Returns:
            ToolUnknown where the owner's function prices the jobs of the other tables. Else JobUnknown: there is nothing to ask.
        """
        if self._owner is not None and self._owner.prices:
            return ToolUnknown(table)
        return JobUnknown(f"there is no such job in {table}")

    async def complete(self, request: Request, by_gate: bool = False, or_refuse: bool = False) -> Request:
        """Add to a request what gate decides about it.

        Args:
            request: The request as the caller sent it.
            by_gate: True for a job that gate starts, if its tool has a `start_url`.
            or_refuse: True to refuse a job that gate cannot start. It counts only with `by_gate`.

        Returns:
            The complete request.

        Raises:
            Invalid: gate is to start the job, and its tool is missing or has no `start_url`.
            ToolUnknown: gate is to start the job, the owner's function prices jobs, and no section of gate.toml names the table.
            JobUnknown: The owner's function does not know the job.
            StoreDown: SQL or the owner's function does not answer.
        """
        if by_gate and or_refuse:
            self._require_start_url(request)
        if request.tool is None:
            return self._settled(request)
        tool = self._tools[request.tool]
        decided = request._replace(
            starts=by_gate and tool.start_url is not None,
            tells=tool.events_url is not None,
            lease_ms=request.lease_ms or tool.lease_ms,
            queue_ms=request.queue_ms or tool.queue_ms,
            cancel_refunds=tool.cancel_refunds,
        )
        if not self.is_priced(request.tool):
            if by_gate:
                await self._require_section(request.tool, request.job_id)
            return self._settled(decided)
        known = await self._reading.job(request.job_id)
        # guard: repeat-keeps-its-price
        if known is not None:  # a repeat has the price of its admission, even if the owner's row has changed since
            kept = {"user": known.user, "credits": known.credits, "settles": known.settles}
            return PricedRequest(**decided._asdict() | kept | {"session": known.session, "payload": known.payload})
        assert self._owner is not None
        return self._priced(decided, await self._owner.price(request.tool, request.job_id))

    def _priced(self, request: Request, price: Price) -> PricedRequest:
        """Add the owner's facts. The row's price comes before the caller's, the caller's payload before the row's."""
        assert self._owner is not None
        by_row = price.credits is not None
        payload = (price.payload or {}) | (request.payload or {})
        row = {
            "user": price.user,
            "credits": price.credits if by_row else request.credits,  # guard: price-of-the-row-or-the-body
            "session": price.session or request.session,
            "payload": payload or None,
            "settles": self._owner.pays and (by_row or request.trusted),
        }
        return PricedRequest(**request._asdict() | row)

    async def _require_section(self, table: str, job_id: str) -> None:
        """Raises ToolUnknown: no start address starts the new job, and without the owner's price its charge never goes back."""
        refusal = self.unpriced(table)
        # guard: no-admission-for-an-unknown-table
        if isinstance(refusal, ToolUnknown) and await self._reading.job(job_id) is None:  # a repeat is answered
            raise refusal

    def _require_start_url(self, request: Request) -> None:
        """Raise Invalid when the request names no tool, or a tool without a `start_url`."""
        if request.tool is None:
            raise Invalid("started_by", "gate starts a job by the start_url of its tool; name a tool")
        if self._tools[request.tool].start_url is None:
            named = [tool.table for tool in self._tools if tool.name == request.tool and tool.start_url]
            helps = (
                f"it is the name of [tools.{named[0]}]; send {named[0]!r} as the tool"
                if named
                else (f"set it in [tools.{request.tool}], or start the job yourself")
            )
            raise Invalid("started_by", f"tool {request.tool!r} has no start_url; {helps}")

    def _settled(self, request: Request) -> Request:
        """Let the owner's function pay the refund if a trusted caller has named the charge, and only then."""
        settles = (
            request.trusted  # guard: refund-only-a-trusted-charge
            and self._owner is not None
            and self._owner.pays
        )
        return request._replace(settles=True) if settles else request
