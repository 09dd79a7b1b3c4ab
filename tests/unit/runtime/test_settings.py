"""Names in the environment and in gate.toml that are no settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from gate.model.errors import CannotStart
from gate.runtime.settings import load


@pytest.mark.parametrize(
    ("name", "meant"), [("GATE_LIMITS", "GATE_LIMIT"), ("GATE_LEASE_SECOND", "GATE_LEASE_SECONDS"), ("GATE_ZZZ", None)]
)
def test_unknown_variable_is_refused_with_the_name_that_was_meant(
    name: str, meant: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "4")
    with pytest.raises(CannotStart) as refused:
        load()
    assert refused.value.detail == f"there is no setting {name}{f'; did you mean {meant}?' if meant else ''}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("limt = 3", "there is no setting 'limt'; did you mean limit?"),
        ("[pools.video]\nlease_second = 3", "of video, there is no setting 'lease_second'; did you mean lease_seconds?"),
        ("[tools.x]\nstart_ulr = 'http://a'", "there is no setting 'tools.x.start_ulr'; did you mean start_url?"),
    ],
)
def test_unknown_name_in_the_file_is_refused_with_the_name_that_was_meant(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text(text)
    with pytest.raises(CannotStart) as refused:
        load(tmp_path / "gate.toml")
    assert refused.value.detail.endswith(says)


def test_variables_of_callers_and_of_kubernetes_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {
        "GATE_URL": "http://gate", "GATE_KEY": "gk_x", "GATE_JOB_ID": "a", "GATE_SERVICE_HOST": "10.0.0.1",
        "GATE_SERVICE_PORT_HTTP": "8000", "GATE_PORT_8000_TCP_ADDR": "10.0.0.1", "GATE_REDIS_PORT": "tcp://10.0.0.2:6379",
    }  # fmt: skip
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    assert load(limit=7).limit == 7


@pytest.mark.parametrize("section", ["providers.runninghub", "providers.runninghub.accounts.first"])
def test_password_in_the_address_of_a_provider_is_refused_and_not_shown(section: str, tmp_path: Path) -> None:
    config = tmp_path / "gate.toml"
    config.write_text(f"[{section}]\nbase_url = 'https://ana:geheim-9@provider.example'\n")
    with pytest.raises(CannotStart) as refused:
        load(config)
    assert refused.value.detail.endswith(
        "base_url' is wrong: must have no user and no password: put the key into key or key_env"
    )
    assert "geheim-9" not in refused.value.detail
