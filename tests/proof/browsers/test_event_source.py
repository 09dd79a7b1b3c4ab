"""What the EventSource of a real browser does with the stream of a job."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.proof.browsers import browser
from tests.support.gate_process import Served

pytestmark = pytest.mark.skipif(
    browser.program() is None and "GATE_TEST_EVERYTHING" not in os.environ, reason="no chromium on the PATH"
)
FOLLOW = """(url) => {
  window.seen = []; window.opened = 0;
  window.source = new EventSource(url);
  source.onopen = () => opened++;
  source.addEventListener("job", (event) => seen.push(JSON.parse(event.data).status + " " + event.lastEventId));
}"""


def test_event_source_of_a_browser_gets_the_outcome_once_and_closes(tmp_path: Path) -> None:
    with (
        Served(tmp_path) as served,
        browser.chromium() as chromium,
        browser.window(chromium, served.url, bypass_csp=True) as page,  # the test evaluates; the page need not
    ):
        job = served.acquire(job_id="fox").json()
        page.goto("/")
        page.evaluate(FOLLOW, "/v1/pools/default/jobs/fox/events")
        page.wait_for_function("seen.length === 1")
        served.act(job, "release", outcome="completed")
        page.wait_for_function("source.readyState === EventSource.CLOSED", timeout=20_000)
        assert page.evaluate("[seen, opened]") == [["running running", "completed completed"], 1]
