"""Addresses of the stores: what is accepted, and that no refusal and no printed address has a piece of a password."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from gate.model import store_url
from gate.model.errors import CannotStart

PIECES = ("hunter2", "sesame")


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("postgres://u:hunter2@h/d", "postgresql://u:hunter2@h/d"),
        ("postgresql+psycopg://u@h:5432/d?sslmode=require", "postgresql://u@h:5432/d?sslmode=require"),
        ("postgresql://u:hunter2@a:1,b:2/d", "postgresql://u:hunter2@/d?host=a:1&host=b:2"),
        ("postgresql://a:1,[::1]:2", "postgresql:///?host=a:1&host=[::1]:2"),
        ("postgresql://a,b/d?port=5433", "postgresql://a,b/d?port=5433"),
        ("postgresql://[::1]:5432/d", "postgresql://[::1]:5432/d"),
        ("postgresql:///d?host=/var/run/postgresql", "postgresql:///d?host=/var/run/postgresql"),
        ("postgresql://u:se/same?x#y:z@h/d", "postgresql://u:se%2Fsame%3Fx%23y%3Az@h/d"),
        ("postgresql://h:5432/d?password=hunter2@sesame", "postgresql://h:5432/d?password=hunter2@sesame"),
        ("sqlite:////srv/a@b/gate.db", "sqlite:////srv/a@b/gate.db"),
        (" sqlite:///gate.db\n", "sqlite:///gate.db"),
    ],
)
def test_an_address_of_sql_is_taken_in_one_form(text: str, taken: str) -> None:
    assert store_url.sql_url(text) == taken


def test_the_password_that_is_meant_is_the_one_that_is_read() -> None:
    read = sa.make_url(store_url.sql_url("postgresql://u:se/sa?me#:2@h:1/d?password=x@y"))
    assert (read.username, read.password, read.host, read.port, read.database) == ("u", "se/sa?me#:2", "h", 1, "d")
    several = sa.make_url(store_url.sql_url("postgres://u:p@a:1,b/d"))
    assert (several.password, several.query["host"]) == ("p", ("a:1", "b"))


@pytest.mark.parametrize(
    "text",
    [
        "hunter2",
        "host=h password=hunter2",
        "mysql://u:hunter2@h/d",
        "postgresql://u:sesame@hunter2@h/d",
        "postgresql://u:sesame@hunter2@a:1,b:2/d",
        "postgresql://u:ses/ame@hunter2@h/d",
        "postgresql://u:12/hunter2@h/d",
        "postgresql://u:sesame@hunter2/x@h/d",
        "postgresql://u:12?sesame=hunter2@h/d",
        "postgresql://u:12?hunter2@h/d",
        "postgresql://u:hunter2@h:sesame/d",
        "postgresql://u:hunter2@h:99999/d",
        "sqlite:///gate.db?password=hunter2",
    ],
)
def test_a_refusal_of_an_address_of_sql_is_one_line_without_any_of_it(text: str) -> None:
    with pytest.raises(CannotStart) as refused:
        store_url.sql_url(text)
    _is_one_line_without_a_piece(refused.value.detail, "GATE_DATABASE_URL")


@pytest.mark.parametrize(
    "text",
    [
        "hunter2",
        "http://:hunter2@h/0",
        "redis://:ses/hunter2@h:1/0",
        "redis://:12/hunter2@h:1/0",
        "redis://:12?sesame=hunter2@h:1/0",
        "redis://:ses#hunter2@h:1/0",
        "redis://:hunter2@h:sesame/0",
        "redis://:hunter2@a:1,b:2/0",
        "redis://:hunter2@h/0?sesame=1",
        "redis://:hunter2@h/0?ssl_ca_certs=sesame",
        "redis://:hunter2@h/0?decode_responses=sesame",
    ],
)
def test_a_refusal_of_an_address_of_redis_is_one_line_without_any_value_of_it(text: str) -> None:
    with pytest.raises(CannotStart) as refused:
        store_url.redis_url(text)
    _is_one_line_without_a_piece(refused.value.detail.replace("know: sesame;", ""), "GATE_REDIS_URL")


def _is_one_line_without_a_piece(detail: str, begins: str) -> None:
    assert detail.startswith(begins) and "\n" not in detail
    assert not [piece for piece in PIECES if piece in detail]


@pytest.mark.parametrize(
    "text",
    ["redis://h", "redis://:p@q@h:1/0", "rediss://u:p@h/0?ssl_cert_reqs=none", "unix:///a@b.sock?db=1", "redis://[::1]:1"],
)
def test_an_address_of_redis_is_taken_as_it_stands(text: str) -> None:
    assert store_url.redis_url(text) == text


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (
            "postgresql://u:hunter2@h:1/d?sslmode=require&password=sesame",
            "postgresql://u:***@h:1/d?sslmode=require&password=***",
        ),
        ("postgresql://u:hunter2@/d?host=a:1&host=b:2", "postgresql://u:***@/d?host=a:1&host=b:2"),
        ("postgresql://u@h/d?options=-c%20x.key%3Dhunter2", "postgresql://u@h/d?options=***"),
        ("redis://:hunter2@sesame@h:1/0?password=sesame&db=1", "redis://:***@h:1/0?password=***&db=1"),
        ("redis://hunter2@h:1/0", "redis://***@h:1/0"),
        ("unix:///a@b.sock?db=0&password=hunter2", "unix:///a@b.sock?db=0&password=***"),
        ("sqlite:////srv/a@b/gate.db", "sqlite:////srv/a@b/gate.db"),
        ("postgresql://u:ses/ame@hunter2@h/d", "?"),
        ("postgresql://u:hunter2@h:sesame/d", "?"),
        ("hunter2", "?"),
    ],
)
def test_a_printed_address_has_no_secret(text: str, printed: str) -> None:
    assert store_url.shown(text, "?") == printed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("postgres://u:p@a:1,b:2/d", "read-write"),
        ("postgresql://a,b/d?port=5433", "read-write"),
        ("postgresql:///d?host=a,b", "read-write"),
        ("postgresql://a:1,b:2/d?target_session_attrs=any", None),
        ("postgresql://u:p,q@a:1/d", None),
        ("postgresql://a:1/d", None),
        ("sqlite:////srv/a,b/gate.db", None),
    ],
)
def test_of_several_hosts_the_one_that_takes_writes_is_wanted(text: str, wanted: str | None) -> None:
    assert store_url.primary_of_several(store_url.sql_url(text)).get("target_session_attrs") == wanted


def test_a_replica_is_on_postgres() -> None:
    assert store_url.replica_url("postgres://h/d") == "postgresql://h/d"
    for text in ("sqlite:///gate.db", "hunter2", "postgresql://u:sesame@hunter2@h/d"):
        with pytest.raises(CannotStart) as refused:
            store_url.replica_url(text)
        _is_one_line_without_a_piece(refused.value.detail, "GATE_DATABASE_READ_URL")
