from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis.asyncio.connection import SSLConnection

from agent_worker.sessions import connect, shown_url
from agent_worker.sessions.redis_url import read_url

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("url", "topology", "addresses"),
    [
        ("redis://host", "", (("host", 6379),)),
        ("redis://me:pw@[::1]:7000/2", "", (("::1", 7000),)),
        ("unix:///run/redis.sock?db=1", "", ()),
        (
            "redis+sentinel://a,b:5000,[::1]:5001/main",
            "sentinel",
            (("a", 26379), ("b", 5000), ("::1", 5001)),
        ),
        ("rediss+cluster://a,b:7001", "cluster", (("a", 6379), ("b", 7001))),
    ],
)
def test_the_forms(url: str, topology: str, addresses: tuple[tuple[str, int], ...]) -> None:
    read = read_url(url)
    assert (read.topology, read.addresses) == (topology, addresses)
    assert (read.settings["connection_class"] is SSLConnection) == url.startswith("rediss")


def test_the_credentials_are_the_servers_and_sentinels_have_their_own() -> None:
    url = "redis+sentinel://me:p%40ss@a/main/3?sentinel_password=other&socket_timeout=0.5"
    read = read_url(url)
    assert read.master_name == "main"
    assert (read.settings["username"], read.settings["password"]) == ("me", "p@ss")
    assert (read.settings["db"], read.settings["socket_timeout"]) == (3, 0.5)
    assert read.sentinel_settings["password"] == "other"
    assert "username" not in read.sentinel_settings
    assert "db" not in read.sentinel_settings
    assert "p@ss" not in repr(read)
    assert "other" not in repr(read)


def test_what_the_scripts_rely_on_is_no_option() -> None:
    settings = read_url("redis://a?protocol=3&decode_responses=no&retry=7").settings
    assert (settings["protocol"], settings["decode_responses"]) == (2, True)
    assert settings["retry"].get_retries() == 0


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://a", 0),
        ("redis://a?min_replicas=2", 2),
        ("redis+sentinel://a/main?min_replicas=1", 1),
        ("redis+cluster://a?min_replicas=0", 0),
    ],
)
async def test_how_many_replicas_a_record_wants(url: str, wanted: int) -> None:
    assert await connect(url).replicas_wanted("{any}") == wanted


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "begins with redis://"),
        ("localhost:6379", "begins with redis://"),
        ("http://x", "not with http://"),
        ("unix+sentinel:///x", "begins with redis://"),
        ("redis+ring://x", "begins with redis://"),
        ("redis://h:port/0", "the port"),
        ("redis://h:70000/0", "the port"),
        ("redis://h/zero", "the database.* is a number"),
        ("redis+sentinel://h:26379", "names no master"),
        ("redis+sentinel://h:26379/", "names no master"),
        ("redis+sentinel://h:26379/main/x", "the database.* is a number"),
        ("redis+sentinel://h,,i/main", "a host before each comma"),
        ("redis+cluster://", "a host before each comma"),
        ("redis+cluster://h/1", "has database 0 only"),
        ("redis+cluster://h?min_replicas=one", "min_replicas"),
        ("redis://h?min_replicas=-1", "min_replicas"),
        ("redis://h?colour=blue", "unknown option.*colour"),
        ("redis://h?sentinel_password=x", "unknown option.*sentinel_password"),
        ("redis+sentinel://h/main?colour=blue", "unknown option.*colour"),
        ("redis://h?socket_timeout=soon", "socket_timeout"),
        ("rediss://h?ssl_ca_certs=/nowhere/ca.pem", "no file /nowhere/ca.pem"),
    ],
)
async def test_what_is_no_redis_url_is_reported_in_a_sentence(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        connect(url)


@pytest.mark.parametrize("url", ["redis://:hush/hush@host/0", "redis://:12/hush@host/0"])
async def test_a_complaint_has_no_password(url: str) -> None:
    # An unencoded "/" ends the host: the text after the colon looks like a port.
    with pytest.raises(ValueError, match="percent-encode") as error:
        connect(url)
    assert "hush" not in str(error.value)


def test_a_ca_that_is_there(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    read = read_url(f"rediss+sentinel://h/main?ssl_ca_certs={ca}")
    assert read.settings["ssl_ca_certs"] == read.sentinel_settings["ssl_ca_certs"] == str(ca)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:secret@host:1/2", "redis://:***@host:1/2"),
        ("rediss://me:sec@ret@host/0", "rediss://me:***@host/0"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        (
            "redis+sentinel://me:pw@a:1,b:2/main/0?sentinel_password=pw&min_replicas=1",
            "redis+sentinel://me:***@a:1,b:2/main/0?sentinel_password=***&min_replicas=1",
        ),
        ("unix://me:pw@/run/redis.sock?db=1", "unix://me:***@/run/redis.sock?db=1"),
        ("redis+cluster://:p:w@a,b", "redis+cluster://:***@a,b"),
        (
            "rediss://host?password=pw&ssl_password=pw",
            "rediss://host?password=***&ssl_password=***",
        ),
    ],
)
def test_a_shown_url_has_no_password(url: str, shown: str) -> None:
    assert shown_url(url) == shown
