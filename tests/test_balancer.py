"""`LoadBalancer` embedded in an application: it starts completely or not at all, and cleans up."""

from __future__ import annotations

import asyncio
import gc
import socket
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb import Config, LoadBalancer, load_config
from hermes_lb.testing import WatchedBalancer, config_for
from tests.support.http_peer import Ended
from tests.support.stage import Stage, in_flight, pool_of
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.aiohttp_client import Servers

STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port in use by another program."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def frontend(name: str, *bind: str) -> dict[str, Any]:
    return {"name": name, "bind": [*bind], "default_backend": "servers"}


async def body_at(stage: Stage, url: str) -> bytes:
    client = await stage.client(url)
    return (await client.ask("/", "Connection: close")).body


def can_connect(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
        return True


def port_of(url: str | None) -> int:
    assert url is not None
    return int(url.rsplit(":", 1)[1])


# Starting.


@pytest.mark.parametrize("form", ["dict", "Config", "path", "text"])
async def test_it_takes_a_configuration_in_any_form(
    stage: Stage, balanced_servers: Servers, tmp_path: Path, form: str
) -> None:
    [one] = await balanced_servers(1)
    config = config_for(one)
    file = tmp_path / "lb.toml"
    file.write_text(
        '[admin]\nenabled = false\n[log]\naccess = "off"\n'
        '[[frontends]]\nname = "public"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"\n'
        f'[backends.agents]\nservers = [{{ name = "a", address = "{one.address}" }}]\n'
    )
    forms: dict[str, Any] = {
        "dict": config,
        "Config": load_config(config),
        "path": file,
        "text": str(file),
    }
    async with LoadBalancer(forms[form]) as lb:
        assert isinstance(lb.config, Config)
        assert await body_at(stage, lb.url) == b"one"


async def test_two_run_side_by_side(stage: Stage, balanced_servers: Servers) -> None:
    first, second = map(WatchedBalancer, map(config_for, await balanced_servers(2)))
    async with first, second:
        assert first.url != second.url
        assert await body_at(stage, first.url) == b"one"
        assert await body_at(stage, second.url) == b"two"
        await first.stop()
        assert await body_at(stage, second.url) == b"two"
    assert await first.served(1) == ["one"]
    assert await second.served(2) == ["two", "two"]


async def test_it_says_where_it_listens(stage: Stage, balanced_servers: Servers) -> None:
    config = config_for(*await balanced_servers(1), admin={"bind": "127.0.0.1:0"})
    config["frontends"] = [frontend("a", "127.0.0.1:0", "0.0.0.0:0"), frontend("b", "127.0.0.1:0")]
    lb = LoadBalancer(config)
    async with lb:
        assert len(lb.urls) == len(set(lb.urls)) == 3
        assert lb.urls[0] == lb.url
        for url in lb.urls:
            assert await body_at(stage, url) == b"one"
        client = await stage.client(lb.admin_url or "")
        await client.get("/healthz", f"Host: 127.0.0.1:{port_of(lb.admin_url)}")
        assert (await client.read_response()).status == 200
        client.close()
    assert lb.admin_url is None


async def test_it_can_be_started_once_at_a_time_and_again_later(
    stage: Stage, balanced_servers: Servers
) -> None:
    lb = LoadBalancer(config_for(*await balanced_servers(1)))
    for _ in range(2):
        await lb.start()
        with pytest.raises(RuntimeError):
            await lb.start()
        assert await body_at(stage, lb.url) == b"one"
        await lb.stop()
        await lb.stop()


async def test_a_port_that_is_taken_is_named_and_nothing_is_left(taken_port: int) -> None:
    config = config_for("127.0.0.1:9", admin={"bind": "127.0.0.1:0"})
    taken = f"127.0.0.1:{taken_port}"
    config["frontends"] = [frontend("good", "127.0.0.1:0"), frontend("bad", taken)]
    lb = LoadBalancer(config)
    before = asyncio.all_tasks()
    with pytest.raises(OSError, match=taken):
        await lb.start()
    await turns()
    assert asyncio.all_tasks() == before
    for url in lb.urls:
        assert port_of(url) == taken_port or not can_connect(port_of(url))


async def test_an_admin_port_that_is_taken_leaves_nothing(taken_port: int) -> None:
    lb = LoadBalancer(config_for("127.0.0.1:9", admin={"bind": f"127.0.0.1:{taken_port}"}))
    before = asyncio.all_tasks()
    with pytest.raises(OSError, match=str(taken_port)):
        await lb.start()
    await turns()
    assert asyncio.all_tasks() == before


async def test_an_access_log_that_cannot_be_opened_leaves_nothing(tmp_path: Path) -> None:
    lb = LoadBalancer(
        config_for("127.0.0.1:9", log={"access": str(tmp_path / "missing" / "a.log")})
    )
    before = asyncio.all_tasks()
    with pytest.raises(ValueError, match="missing"):
        await lb.start()
    assert asyncio.all_tasks() == before


async def test_it_can_be_started_after_a_failure(stage: Stage, balanced_servers: Servers) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = {"bind": f"127.0.0.1:{port}"}
        lb = LoadBalancer(config_for(*await balanced_servers(1), frontend=taken))
        with pytest.raises(OSError, match=str(port)):
            await lb.start()
    async with lb:
        assert lb.urls == [f"http://127.0.0.1:{port}"]
        assert await body_at(stage, lb.url) == b"one"


# Stopping.


async def test_stop_cuts_what_runs(stage: Stage) -> None:
    lb, client, at_origin = await stage.asked()
    await at_origin.send(STREAM)
    await client.read_until(b"one\r\n")
    await lb.stop()
    assert await client.read_until_cut() == b""
    assert await at_origin.read_until_cut() == b""
    line = await stage.log_line(lb)
    assert (line.termination, line.status) == ("KD", 200)


async def test_stop_ends_requests_in_every_phase(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(
        origin,
        stage.black_hole(),
        each=[{"max_connections": 1}, {"max_connections": 1}],
    )
    idle, in_head, in_h, in_c, in_q = await stage.clients(lb, 5)
    await in_head.send(b"GET / HT")
    await in_h.get("/h")
    await origin.accept_request()
    await in_c.get("/c")
    await eventually(lambda: in_flight(lb) == [1, 1])
    await in_q.get("/q")
    await eventually(lambda: len(pool_of(lb).waiting) == 1)
    await lb.stop()
    for client in (idle, in_head, in_h, in_c, in_q):
        assert await client.read_until_cut() == b""
    assert in_flight(lb) == [0, 0]
    assert not pool_of(lb).waiting
    lines = await stage.logged(lb, 3)
    assert sorted(line.termination for line in lines) == ["KC", "KH", "KQ"]


async def test_stop_cuts_an_upload_and_it_never_looks_complete(stage: Stage) -> None:
    lb, client, origin = await stage.line()
    await client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    )
    at_origin = await origin.accept()
    await at_origin.read_until(b"abc\r\n")
    await lb.stop()
    assert await at_origin.read_until_cut() == b""


async def test_stop_cuts_an_http_1_0_response_by_a_reset(stage: Stage) -> None:
    """Where only its end ends a body, a clean end would be a lie."""
    lb, client, at_origin = await stage.asked(version="1.0")
    await at_origin.send(STREAM)
    await client.read_until(b"one")
    await lb.stop()
    with pytest.raises(Ended, match="reset"):
        await client.read_to_end()


async def test_after_stop_nobody_listens() -> None:
    lb = LoadBalancer(config_for("127.0.0.1:9"))
    async with lb:
        port = port_of(lb.url)
        assert can_connect(port)
    assert not can_connect(port)
    assert can_listen(port)


async def test_an_exception_in_the_block_stops_it_too() -> None:
    lb = LoadBalancer(config_for("127.0.0.1:9"))

    async def fail() -> None:
        async with lb:
            assert can_connect(port_of(lb.url))
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert not can_connect(port_of(lb.url))


async def test_nothing_is_left_for_the_garbage_collector_to_close(
    stage: Stage, balanced_servers: Servers
) -> None:
    """An unclosed transport warns when it is collected, and a warning is an error here."""
    [one] = await balanced_servers(1)
    for _ in range(3):
        async with LoadBalancer(config_for(one, admin={"bind": "127.0.0.1:0"})) as lb:
            assert await body_at(stage, lb.url) == b"one"
            kept = await stage.client(lb)
            await kept.ask()
        del lb
        gc.collect()


# Draining.


async def test_drain_lets_a_stream_finish(stage: Stage) -> None:
    lb, client, at_origin = await stage.asked(timeouts={"request_head": "0.2s"})
    await at_origin.send(STREAM)
    await client.read_until(b"one\r\n")
    draining = stage.tasks.spawn(lb.drain(30), name="drain")
    await turns()
    assert not can_connect(port_of(lb.url))
    await at_origin.send(b"3\r\ntwo\r\n")
    assert await client.read_until(b"two\r\n") == b"3\r\ntwo\r\n"
    assert not draining.done()
    await at_origin.send(b"0\r\n\r\n")
    assert await client.read_to_end() == b"0\r\n\r\n"
    assert await draining is True
    assert (await stage.log_line(lb)).termination == "--"


async def test_drain_closes_idle_connections_on_both_sides(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, timeouts={"request_head": "0.2s"})
    idle, unused = await stage.clients(lb, 2)
    await idle.get()
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"x")
    await idle.read_response()
    assert await lb.drain(30) is True
    assert await idle.read_to_end() == b""
    assert await unused.read_to_end() == b""
    assert await at_origin.read_to_end() == b""


async def test_drain_serves_who_waits_in_the_queue(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, server={"max_connections": 1})
    one, two = await stage.clients(lb, 2)
    await one.get("/1")
    at_origin, _ = await origin.accept_request()
    await two.get("/2")
    await eventually(lambda: len(pool_of(lb).waiting) == 1)
    draining = stage.tasks.spawn(lb.drain(30), name="drain")
    await turns()
    await at_origin.serves(one, b"1")
    at_origin, message = await origin.accept_request()
    assert message.head.target == "/2"
    await at_origin.serves(two, b"2")
    assert await draining is True


async def test_drain_gives_up_after_its_time(stage: Stage) -> None:
    lb, client, at_origin = await stage.asked()
    assert await lb.drain(0.05) is False
    await at_origin.serves(client, b"still served")


async def test_draining_nothing_is_done_at_once() -> None:
    lb = LoadBalancer(config_for("127.0.0.1:9"))
    assert await lb.drain(0) is True
    await lb.stop()
