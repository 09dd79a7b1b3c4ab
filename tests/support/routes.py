"""The routes of gate, with the roles that each declares."""

from __future__ import annotations

from gate.http.app import OF_OLD_CALLERS, READ_BY_PEOPLE, ROUTERS
from gate.http.auth.roles import routes

TABLE = {route: facts.may for route, facts in routes((*ROUTERS, *OF_OLD_CALLERS, *READ_BY_PEOPLE)).items()}
"""Roles that may call each route, by method and path."""
