# The daily commands. `just` comes with tests/daily.lock (rust-just), or from your distribution.

python := ".venv/bin/python"

# List the commands.
default:
    @just --list

# Make .venv, with everything that the tests and the checks need.
setup:
    python3 -m venv .venv
    .venv/bin/pip install -q -r tests/requirements.lock -r tests/all.lock -r tests/daily.lock
    -.venv/bin/pre-commit install

# Check the source: lint, format, types, import contracts.
check:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    .venv/bin/lint-imports
    .venv/bin/codespell

# Run gate from the source of this checkout.
serve *words:
    {{python}} -m gate serve {{words}}

# Run the tests that need no server (a minute).
test-unit *words:
    {{python}} -m pytest -n 6 --dist worksteal tests/unit -m "not server" {{words}}

# Run the tests of the README (three minutes).
test *words:
    {{python}} -m pytest -n 6 --dist worksteal {{words}}

# Run everything that CI runs: it installs what is missing by apt, so it wants root on Debian.
test-all:
    .ci/run

# Run the tests of the README and say which branches of gate they take (ten minutes).
coverage *words:
    {{python}} -m pytest -n 6 --dist worksteal --cov --cov-report=term:skip-covered {{words}}

# Format the source.
fmt:
    .venv/bin/ruff check --fix -q .
    .venv/bin/ruff format .

# Make the generated pages anew.
docs:
    {{python}} -m tests.checks.reference

# Make the client for threads of the one for asyncio.
sync-client:
    {{python}} -m tests.checks.sync_client

# Build the pages as a site with search under site/.
site:
    NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

# Measure (minutes; see docs/performance.md).
bench *words:
    {{python}} -m bench {{words}}

# Print figures of the structure.
house:
    {{python}} -m tests.checks.house

# Pin all locks anew.
lock:
    .ci/lock

# Look for known faults in the locked packages.
audit:
    .venv/bin/pip-audit -r tests/all.lock --require-hashes --disable-pip
