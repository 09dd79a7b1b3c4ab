"""The services of the application as dependencies of its routes. A route names the services that it needs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from starlette.types import Scope

from gate.coordination.admission import Admission
from gate.coordination.hang_up import HangUp
from gate.coordination.jobs import JobCoordinator
from gate.coordination.pools import PoolCoordinator
from gate.coordination.queries import JobQueries
from gate.coordination.scrape import Scraper
from gate.coordination.services import Services
from gate.coordination.shutdown import Shutdown
from gate.coordination.unread_callbacks import UnreadCallbackDesk
from gate.http.server.protocol import HANG_UP
from gate.ledger import LedgerQueries


def services(request: Request) -> Services:
    """Return all services of the application that answers this request."""
    found: Services = request.app.state.services
    return found


def _admission(request: Request) -> Admission:
    return services(request).admission


def _jobs(request: Request) -> JobCoordinator:
    return services(request).jobs


def _pools(request: Request) -> PoolCoordinator:
    return services(request).pools


def _queries(request: Request) -> JobQueries:
    return services(request).queries


def _ledger(request: Request) -> LedgerQueries:
    return services(request).ledger


def _unread(request: Request) -> UnreadCallbackDesk:
    return services(request).unread


def _scraper(request: Request) -> Scraper:
    return services(request).scraper


def _shutdown(request: Request) -> Shutdown:
    return services(request).shutdown


def hang_up(scope: Scope) -> HangUp:
    """Return what tells whether the caller of a request has disconnected. Another server than gate's own tells nothing."""
    found: HangUp = scope.get(HANG_UP) or HangUp()
    return found


def _hang_up(request: Request) -> HangUp:
    return hang_up(request.scope)


AllServices = Annotated[Services, Depends(services)]
AdmissionService = Annotated[Admission, Depends(_admission)]
JobService = Annotated[JobCoordinator, Depends(_jobs)]
PoolService = Annotated[PoolCoordinator, Depends(_pools)]
QueryService = Annotated[JobQueries, Depends(_queries)]
LedgerService = Annotated[LedgerQueries, Depends(_ledger)]
UnreadService = Annotated[UnreadCallbackDesk, Depends(_unread)]
ShutdownService = Annotated[Shutdown, Depends(_shutdown)]
ScrapeService = Annotated[Scraper, Depends(_scraper)]
CallerHangUp = Annotated[HangUp, Depends(_hang_up)]
