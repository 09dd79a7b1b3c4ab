"""Addresses of a cluster and of Sentinels, and what they may not name."""

from __future__ import annotations

import pytest

from gate.model import redis_address, store_url
from gate.model.errors import CannotStart
from gate.model.redis_address import Topology


def read(text: str) -> redis_address.RedisAddress:
    found = redis_address.several(store_url.redis_url(text), store_url.OF_REDIS)
    assert found is not None
    return found


def test_cluster_has_hosts_and_gives_each_server_the_same_login() -> None:
    found = read("rediss+cluster://gate:p%40ss@a:7000,b,[::1]:7002/0?ssl_ca_certs=/ca.pem")
    assert found.topology is Topology.CLUSTER and found.hosts == (("a", 7000), ("b", 6379), ("::1", 7002))
    assert found.of_server("::1", 7002) == "rediss://gate:p%40ss@[::1]:7002/?ssl_ca_certs=%2Fca.pem"


def test_sentinels_have_a_login_of_their_own() -> None:
    found = read("redis+sentinel://:secret@a,b:26380/main?db=3&sentinel_password=other")
    assert found.hosts == (("a", 26379), ("b", 26380)) and found.name == "main"
    assert found.sentinel_login == (None, "other") and found.of_server("x", 1) == "redis://:secret@x:1/?db=3"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("redis+cluster://a:7000/1", "has the database 0 alone"),
        ("redis+cluster://a:7000?db=2", "has the database 0 alone"),
        ("redis+cluster://a:7000?sentinel_password=x", "has the database 0 alone"),
        ("redis+sentinel://a:26379", "names no primary"),
        ("redis+sentinel://a:26379/", "names no primary"),
        ("redis+cluster://", "is no Redis address"),
        ("redis+cluster://p@ss@a:7000", "is no Redis address"),
        ("redis+cluster://a:port", "is no Redis address"),
        ("redis+other://a:7000", "is no Redis address"),
        ("redis+cluster://a:7000?nonsense=1", "does not know: nonsense"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(CannotStart) as refused:
        store_url.redis_url(text)
    assert why in str(refused.value) and len(str(refused.value).splitlines()) == 1 and "p@ss" not in str(refused.value)


def test_no_password_is_shown() -> None:
    shown = store_url.shown("redis+sentinel://gate:secret@a:1,b:2/main?sentinel_password=other&db=3")
    assert shown == "redis+sentinel://gate:***@a:1,b:2/main?sentinel_password=***&db=3"
