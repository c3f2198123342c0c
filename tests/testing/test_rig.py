"""Servers and balancers of a test: options, records, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from hermes_lb import ConfigError
from hermes_lb.testing import (
    Answer,
    Record,
    Request,
    Rig,
    Server,
    collected,
    config_for,
    events,
    faults,
)
from tests.support.aiohttp_client import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.aiohttp_client import Balanced, Servers


async def test_a_handler_sees_the_request_and_says_the_answer(balanced_servers: Servers) -> None:
    async def mirror(request: Request) -> tuple[int, dict[str, str], bytes]:
        return 201, {"X-Method": request.method}, request.body[::-1]

    [one] = await balanced_servers(1, handler=mirror)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{one.url}/a?b", data=b"abc", headers={"x-mine": "1"}) as response,
    ):
        assert (response.status, response.headers["X-Method"]) == (201, "POST")
        assert await response.read() == b"cba"
    [request] = await one.asked()
    assert (request.method, request.target, request.body) == ("POST", "/a?b", b"abc")
    assert (request.header("X-Mine"), request.header("X-Others")) == ("1", None)


async def test_a_chunked_body_and_an_expectation_are_understood(balanced_servers: Servers) -> None:
    [one] = await balanced_servers(1)

    async def body() -> AsyncIterator[bytes]:
        yield b"ab"
        yield b"c"

    async with (
        aiohttp.ClientSession() as session,
        session.post(one.url, data=body(), expect100=True) as response,
    ):
        assert response.status == 200
    assert (await one.asked())[0].body == b"abc"


@pytest.mark.parametrize("is_stream", [False, True])
async def test_the_answer_to_head_has_no_body(balanced_servers: Servers, is_stream: bool) -> None:
    async def answer(request: Request) -> Answer:
        return events("a") if is_stream else Answer(body="abc")

    [one] = await balanced_servers(1, handler=answer)
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.head(one.url) as response:
                assert response.status == 200
                assert await response.read() == b""


async def test_events_are_server_sent_events() -> None:
    async with Rig() as rig, Client() as client:

        async def stream(request: Request) -> Answer:
            return events("one", "two\nlines")

        [one] = await rig.servers(handler=stream)
        lb = await rig.balancer(one)
        async with client.session.get(lb.url) as response:
            assert response.content_type == "text/event-stream"
            text = await response.text()
        assert text == "id: 1\ndata: one\n\nid: 2\ndata: two\ndata: lines\n\n"


@pytest.mark.parametrize("size", [0, 5, 126, 70_000])
async def test_a_websocket_gets_an_echo(
    balanced_servers: Servers, load_balancer: Balanced, size: int
) -> None:
    [one] = await balanced_servers(1)
    lb = await load_balancer(one)
    async with aiohttp.ClientSession() as session, session.ws_connect(lb.url) as ws:
        await ws.ping(b"still there?")
        await ws.send_bytes(b"x" * size)
        assert await ws.receive_bytes() == b"x" * size
        await ws.send_str("last")
        assert await ws.receive_str() == "last"
    record = await lb.record()
    assert (record.status, record.termination) == (101, "--")


async def test_servers_are_named_in_turn_or_as_configured(balanced_servers: Servers) -> None:
    names = [server.name for server in await balanced_servers(11)]
    assert names[:2] + names[9:] == ["one", "two", "ten", "server11"]
    assert [server.name for server in await balanced_servers(names=["a", "b"])] == ["a", "b"]
    assert [server.name for server in await balanced_servers()] == ["server14"]


async def test_what_a_wait_that_times_out_says(
    balanced_servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    [one] = await balanced_servers(1)
    monkeypatch.setattr(collected, "PATIENCE", 0.01)
    with pytest.raises(AssertionError, match="1 requests to one were awaited, 0 came"):
        await one.asked()
    with pytest.raises(AssertionError, match="never came true: pigs fly"):
        await collected.eventually(lambda: False, "pigs fly")


async def test_a_condition_that_stays_false_is_shown_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pigs_fly() -> bool:
        return False

    monkeypatch.setattr(collected, "PATIENCE", 0.01)
    with pytest.raises(AssertionError, match=r"lambda: sum\(\[1, 2\]\) == 4"):
        await collected.eventually(lambda: sum([1, 2]) == 4)
    with pytest.raises(AssertionError, match=r"true: def pigs_fly\(\) -> bool:\n    return False$"):
        await collected.eventually(pigs_fly)
    with pytest.raises(AssertionError, match=r"true: functools.partial\("):
        await collected.eventually(partial(bool, 0))


async def test_a_record_from_the_end_is_refused(load_balancer: Balanced) -> None:
    lb = await load_balancer("127.0.0.1:9")
    with pytest.raises(ValueError, match=r"record\(-1\) cannot wait: .*`records\[-1\]`"):
        await lb.record(-1)


async def test_nothing_is_started_before_a_rig_is_entered_or_after_it_was_left() -> None:
    rig = Rig()
    with pytest.raises(RuntimeError, match="async with Rig"):
        await rig.servers()
    async with rig:
        await rig.servers()
    with pytest.raises(RuntimeError, match="async with Rig"):
        await rig.balancer("127.0.0.1:9")


async def test_leaving_it_frees_ports_tasks_and_stalled_requests() -> None:
    before = asyncio.all_tasks()
    async with Client() as client:
        async with Rig() as rig:
            [one] = await rig.servers()
            lb = await rig.balancer(one)
            port = int(one.address.split(":")[1])
            one.fault = faults.Stall()
            waiting = client.start_get(lb.url)
            await one.asked()
        with pytest.raises(aiohttp.ClientError):
            await waiting
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
    assert asyncio.all_tasks() == before


async def test_a_wrong_option_is_named(balanced_servers: Servers, load_balancer: Balanced) -> None:
    [one] = await balanced_servers(1)
    with pytest.raises(ConfigError, match="balanec"):
        await load_balancer(one, balanec="leastconn")
    with pytest.raises(TypeError, match="whole config"):
        await load_balancer(one, config=config_for(one))
    lb = await load_balancer(config=config_for(one, frontend={"name": "mine"}))
    assert lb.config.frontends[0].name == "mine"


def test_options_go_where_they_belong() -> None:
    config = config_for(
        "127.0.0.1:1",
        "127.0.0.1:2",
        server={"weight": 2},
        each=[{}, {"weight": 3}],
        frontend={"trace": True},
        timeouts={"server": "1s"},
        retries=1,
    )
    servers = config["backends"]["servers"]["servers"]
    assert [(server["name"], server["weight"]) for server in servers] == [
        ("address1", 2),
        ("address2", 3),
    ]
    assert config["backends"]["servers"]["retries"] == 1
    assert config["frontends"][0]["trace"] is True
    assert config["timeouts"] == {"server": "1s"}


@pytest.mark.parametrize("count", [1, 3])
def test_each_has_a_table_for_each_server(count: int) -> None:
    each: list[dict[str, Any]] = [{}] * count
    with pytest.raises(ValueError, match=f"each has {count} tables for 2 servers: give one for"):
        config_for("127.0.0.1:1", "127.0.0.1:2", each=each)


async def test_what_is_no_server_is_named_with_what_to_do(hermes_lb_rig: Rig) -> None:
    rig = hermes_lb_rig
    wrong: Any = await rig.servers(2)
    with pytest.raises(
        TypeError, match=r"not \[<Server one .*one by one: load_balancer\(\*servers"
    ):
        await rig.balancer(wrong)
    wrong = rig.servers(2)
    with pytest.raises(TypeError, match=r"not <coroutine .*; await it first"):
        await rig.balancer(wrong)
    wrong.close()
    wrong = 8000
    with pytest.raises(
        TypeError, match="a server is one of balanced_servers, or an address; not 8"
    ):
        await rig.balancer(wrong)


async def test_the_configured_log_is_written_as_well(
    balanced_servers: Servers, load_balancer: Balanced, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    [one] = await balanced_servers(1)
    lb = await load_balancer(one, log={"access": str(path)})
    async with Client() as client:
        await client.get(lb.url)
    record = await lb.record()
    await lb.stop()
    assert [Record.parse(line) for line in path.read_text().splitlines()] == [record]


@pytest.mark.parametrize("log", [{"format": "json"}, {"access": "stderr", "format": "json"}])
async def test_records_go_on_under_another_configuration(
    log: dict[str, Any], balanced_servers: Servers, load_balancer: Balanced
) -> None:
    """With any log: records do not include lines of other balancers."""
    one, two = await balanced_servers(2)
    lb = await load_balancer(one)
    async with Client() as client:
        await client.get(lb.url)
        await lb.reconfigure(config_for(two, log={"access": "off", **log}))
        await client.get(lb.url)
        assert await lb.served(2) == ["one", "two"]
        with pytest.raises(ConfigError):
            await lb.reconfigure(config_for(one, balance="none"))
        await client.get(lb.url)
        assert await lb.served(3) == ["one", "two", "two"]


async def test_what_no_server_saw_has_no_server(load_balancer: Balanced) -> None:
    routes = [{"path": "/only", "backend": "servers"}]
    lb = await load_balancer("127.0.0.1:9", frontend={"routes": routes, "default_backend": None})
    for request in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"bad\r\n\r\n"):
        reader, writer = await asyncio.open_connection(*lb.url.removeprefix("http://").split(":"))
        writer.write(request)
        await reader.readline()
        writer.close()
    unrouted, bad = await lb.record(0), await lb.record(1)
    assert (unrouted.server, unrouted.backend, unrouted.status) == (None, None, 404)
    assert (bad.was_understood, bad.status) == (False, 400)
    assert await lb.served(2) == [None, None]


def test_a_line_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="not a line"):
        Record.parse("GET / 200")


async def test_starting_waits_for_nothing() -> None:
    """No thread, no timer, no look-up of a name: a few loop iterations are enough."""
    loop = asyncio.get_running_loop()
    turns = 0
    ticking: asyncio.Handle

    def count() -> None:
        nonlocal turns, ticking
        turns += 1
        ticking = loop.call_soon(count)

    threads = threading.active_count()
    ticking = loop.call_soon(count)
    async with Rig() as rig:
        await rig.balancer(*await rig.servers(2))
        started_after = turns
        assert threading.active_count() == threads
    ticking.cancel()
    assert started_after < 20


def test_a_port_is_kept_while_nobody_listens() -> None:
    """Also from programs that bind any free port."""
    server = Server("one")
    host, port = server.address.split(":")
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect((host, int(port)))
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((host, int(port)))
    server._port.close()
