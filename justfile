# The daily commands. `just` comes with tests/checks/daily.lock (rust-just), or from your distribution.

python := ".venv/bin/python"

# List the commands.
default:
    @just --list

# Make .venv, with everything that the tests and the checks need.
setup:
    python3 -m venv .venv
    .venv/bin/pip install -q -r tests/requirements.lock -r tests/checks/requirements.lock -r tests/checks/daily.lock
    -.venv/bin/pre-commit install

# Check the source: lint, format, types, import contracts.
check:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    .venv/bin/lint-imports
    .venv/bin/codespell

# Run the tests of the README.
test *words:
    {{python}} -m pytest -n 4 --dist worksteal {{words}}

# Run everything that CI runs: it installs what is missing by apt, so it wants root on Debian.
test-all:
    .ci/run

# Format the source.
fmt:
    .venv/bin/ruff check --fix -q .
    .venv/bin/ruff format .

# Make the generated pages anew.
docs:
    {{python}} -m tests.docs.reference

# Build the pages as a site with search under site/; first `pip install -r docs/requirements.lock`.
site:
    .venv/bin/mkdocs build --strict

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
    .venv/bin/pip-audit -r tests/requirements.lock --require-hashes --disable-pip
