"""Deadlines where traffic of one side, or of an earlier phase, must not set the other side's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from hermes_lb.affinity.table import SessionTable
from tests.proxy.fake_line import HIGH, Line
from tests.support.http_peer import request, response
from tests.support.waiting import eventually
from tests.support.websocket import WEBSOCKET

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

GET = request("GET", "/")
OK = response(b"ok")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ALL = 10_000_000  # bytes: whatever is unsent


def post(length: int, *fields: str) -> bytes:
    return request("POST", "/", *fields, f"Content-Length: {length}")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# A response head waits until other balancers know of its session: no deadline runs meanwhile.


async def server_did_not_read(line: Line) -> None:
    """The end of the upload filled the server's write buffer just before the answer."""
    await line.client.sends(post(80_000))
    line.server.is_stuck = True
    for size in (20_000, 20_000, 20_000, 10_000, 10_000):
        await line.client.sends(bytes(size))
    await line.server.sends(OK)


async def upload_had_moved(line: Line) -> None:
    """The answer is early, and some of the upload has just come."""
    await line.client.sends(post(10))
    await line.client.sends(b"12345")
    await line.server.sends(OK)


async def upload_goes_on(line: Line) -> None:
    """More of the upload comes while the head waits."""
    await line.client.sends(post(10))
    await line.server.sends(OK)
    await line.client.sends(b"12345")


async def upload_ends(line: Line) -> None:
    """The rest of the upload comes while the head waits."""
    await line.client.sends(post(10))
    await line.server.sends(OK)
    await line.client.sends(b"1234567890")


async def server_reads_on(line: Line) -> None:
    """The server reads what it had not read while the head waits."""
    await line.client.sends(post(90_000))
    line.server.is_stuck = True
    for _ in range(4):
        await line.client.sends(bytes(20_000))
    await line.passes(1)
    await line.server.sends(OK)
    await line.server.takes(ALL)


@pytest.mark.parametrize(
    "upload",
    [server_did_not_read, upload_had_moved, upload_goes_on, upload_ends, server_reads_on],
    ids=lambda case: case.__name__,
)
async def test_a_slow_pin_write_is_no_timeout(
    upload: Callable[[Line], Coroutine[None, None, None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(SessionTable, "store", lambda *_: pinned)
    stick = {"stick": [{"on": "header:Mcp-Session-Id", "learn": True}]}
    async with Line(backend=stick, timeouts={"client": 50, "server": 50}) as line:
        await upload(line)
        await line.passes(1)
        await line.passes(60)
        assert (bytes(line.client.got), line.ends, line.failures) == (b"", [], [])
        monkeypatch.setattr(SessionTable, "store", lambda *_: None)
        pinned.set_result(None)
        await line.passes(1)
        assert line.client.got.startswith(b"HTTP/1.1 200 ")


# A body of the response: silence of the server is bounded by `server`, of the client by `client`.


async def test_an_upload_without_a_100_leaves_the_servers_time_as_it_is() -> None:
    async with Line(timeouts={"client": 10, "server": 100}) as line:
        await line.client.sends(post(5, "Expect: 100-continue"))
        await line.server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await line.client.sends(b"12345")
        await line.passes(1)
        await line.passes(50)
        assert line.ends == []
        await line.server.sends(b"ok")
        assert line.client.got.endswith(b"\r\n\r\nok")


@pytest.mark.parametrize("phase", ["D", "L"])
async def test_a_client_that_takes_what_was_written_after_it_became_slow_is_not_cut(
    phase: str,
) -> None:
    async with Line(timeouts={"client": 10, "server": 100}) as line:
        await line.client.sends(GET)
        line.client.is_stuck = True
        # Parsed in parts, of which each is written although the client is slow.
        end = b"0\r\n\r\n" if phase == "L" else b""
        await line.server.sends(CHUNKED + chunk(b"x" * 100) * 2_000 + end)
        written = line.client.get_write_buffer_size()
        assert written > 2 * HIGH
        await line.passes(1)
        for _ in range(3):
            await line.client.takes(20_000)
            await line.passes(11)
        assert line.ends == []
        await line.passes(11)
        assert line.ends == [f"c{phase}"]


# A tunnel: a side that takes bytes is alive.

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def open_tunnel(line: Line) -> None:
    await line.client.sends(request("GET", "/", *WEBSOCKET))
    await line.server.sends(SWITCH)


async def test_a_tunnel_waits_for_a_slow_client_that_reads() -> None:
    async with Line(timeouts={"tunnel": 10}) as line:
        await open_tunnel(line)
        line.client.is_stuck = True
        await line.server.sends(bytes(200_000))
        await line.passes(1)
        for _ in range(3):
            await line.client.takes(20_000)
            await line.passes(11)
        assert line.ends == []
        await line.passes(11)
        assert line.ends == ["cD"]


async def test_a_client_that_reads_gets_the_last_bytes_of_a_tunnel() -> None:
    async with Line(timeouts={"client": 10}) as line:
        await open_tunnel(line)
        line.client.is_stuck = True
        await line.server.sends(bytes(150_000))
        await line.server.leaves()
        for _ in range(3):
            await line.client.takes(20_000)
            await line.passes(11)
        assert line.client.is_open
        await line.client.takes(ALL)
        assert line.client.got.endswith(bytes(150_000))
        assert not line.client.is_open


async def test_a_client_of_a_tunnel_that_reads_nothing_is_cut_in_time() -> None:
    async with Line(timeouts={"tunnel": 10}) as line:
        await line.client.sends(GET)
        line.client.is_stuck = True
        await line.server.sends(response(bytes(200_000)))
        await line.client.takes(ALL)
        await line.client.sends(request("GET", "/", *WEBSOCKET))
        await line.server.sends(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        await line.server.sends(bytes(100_000))
        await line.passes(1)
        await line.passes(11)
        assert line.ends == ["cD"]


# A server that takes bytes is alive, too (nginx `proxy_send_timeout` runs between two writes).


async def tunnel_from_client(line: Line) -> None:
    await open_tunnel(line)
    line.server.is_stuck = True
    await line.client.sends(bytes(200_000))


async def upload(line: Line) -> None:
    await line.client.sends(post(200_000))
    line.server.is_stuck = True
    for _ in range(10):
        await line.client.sends(bytes(20_000))


@pytest.mark.parametrize("fill", [tunnel_from_client, upload], ids=lambda case: case.__name__)
async def test_a_slow_server_that_reads_is_waited_for(
    fill: Callable[[Line], Coroutine[None, None, None]],
) -> None:
    async with Line(timeouts={"server": 10, "tunnel": 10}) as line:
        await fill(line)
        await line.passes(1)
        for _ in range(2):
            await line.server.takes(10_000)
            await line.passes(11)
        assert (line.ends, line.failures) == ([], [])
        await line.passes(11)
        assert line.ends != []


# A stream that looks for another server: its limits hold whatever its client does.

RESUMABLE = CHUNKED[:-2] + b"Content-Type: text/event-stream\r\nX-Hermes-Resume: /events\r\n\r\n"


def event(number: int, size: int) -> bytes:
    return chunk(b"id: %d\ndata: %b\n\n" % (number, b"x" * size))


def resuming(**rules: object) -> dict[str, object]:
    return {"routes": [{"path_prefix": "/", "backend": "b", "resume": True, **rules}]}


@pytest.mark.parametrize("state", ["H", "C"])
async def test_a_slow_client_does_not_extend_the_search_for_a_server(state: str) -> None:
    async with Line(count=2, frontend=resuming(resume_timeout=8)) as line:
        await line.client.sends(GET)
        line.client.is_stuck = True
        await line.server.sends(RESUMABLE + event(1, 2 * HIGH))
        await line.passes(1)
        if state == "C":
            line.may_dial.clear()
        await line.servers[0].leaves()
        await line.client.takes(10)
        await line.passes(9)
        assert line.ends == ["SD"]


async def test_a_comment_that_fills_the_clients_buffer_does_not_stop_a_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hermes_lb.proxy.resume._FIRST_COMMENT", 0.0)
    async with Line(count=2, frontend=resuming()) as line:
        await line.client.sends(GET)
        line.client.is_stuck = True
        await line.server.sends(RESUMABLE)
        room = HIGH - line.client.get_write_buffer_size()
        await line.server.sends(event(1, room - len(event(1, room)) + room))
        assert not line.connection.is_writing_paused
        await line.servers[0].leaves()
        await eventually(lambda: line.connection.is_writing_paused)
        await line.server.sends(RESUMABLE + event(2, 1))
        await line.passes(6)
        assert line.failures == []
        await line.client.takes(ALL)
        assert b"id: 2\n" in line.client.got


# Before the response head: only a server that does not answer in time has failed.


async def with_slow_client(line: Line) -> None:
    """A request whose interim responses come behind a response that the client does not read."""
    await line.client.sends(GET)
    line.client.is_stuck = True
    await line.server.sends(response(bytes(HIGH - 300)))
    await line.client.sends(GET)
    for _ in range(5):
        await line.server.sends(EARLY_HINTS)
    assert line.connection.is_writing_paused


async def test_an_interim_response_to_a_slow_client_is_no_failure_of_the_server() -> None:
    async with Line(timeouts={"server": 10}) as line:
        await with_slow_client(line)
        await line.server.sends(OK)
        await line.passes(11)
        assert line.failures == []
        await line.client.takes(ALL)
        assert line.client.got.endswith(b"ok")


async def test_a_slow_client_does_not_extend_the_servers_time() -> None:
    async with Line(timeouts={"server": 10}) as line:
        await with_slow_client(line)
        await line.client.takes(10)
        await line.passes(11)
        assert line.ends == ["sH"]


async def test_a_client_that_sends_before_the_100_and_stalls_is_no_failure_of_the_server() -> None:
    async with Line(timeouts={"client": 10, "server": 10}) as line:
        line.may_dial.clear()
        await line.client.sends(post(10, "Expect: 100-continue"))
        await line.client.sends(b"12345")
        line.may_dial.set()
        await line.passes(1)
        assert line.server.got.endswith(b"\r\n\r\n12345")
        await line.passes(11)
        assert (line.ends, line.failures) == (["cH"], [])


# Between two requests.


async def test_a_client_that_stops_reading_whole_responses_is_closed() -> None:
    async with Line(timeouts={"keep_alive": 10, "client": 10}) as line:
        line.client.is_stuck = True
        for _ in range(6):  # each leaves in one write, together more than is waited for
            await line.client.sends(GET)
            await line.server.sends(response(bytes(12_000)))
        assert line.connection.is_writing_paused
        await line.client.takes(10)
        for _ in range(3):
            await line.passes(11)
        assert not line.client.is_open


# Waiting that has a timer of its own, or none: traffic of the client sets no deadline.


async def while_its_session_is_looked_up(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another balancer may know its server."""
    never = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(SessionTable, "is_shared", True)
    monkeypatch.setattr(SessionTable, "look_up", lambda *_: never)
    await line.client.sends(post(10, "Mcp-Session-Id: s"))


async def before_another_attempt(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only server refused the connection, and is asked again after a pause."""
    line.refuses = True
    await line.client.sends(post(10))


@pytest.mark.parametrize(
    "waits",
    [while_its_session_is_looked_up, before_another_attempt],
    ids=lambda case: case.__name__,
)
async def test_an_upload_sets_no_deadline(
    waits: Callable[[Line, pytest.MonkeyPatch], Coroutine[None, None, None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stick = {"stick": [{"on": "header:Mcp-Session-Id", "learn": True}], "retries": 3}
    async with Line(backend=stick) as line:
        await waits(line, monkeypatch)
        failures = len(line.failures)
        await line.client.sends(b"12345")
        await line.passes(1)
        await line.passes(1_000)
        assert line.client.is_open
        assert (line.ends, len(line.failures)) == ([], failures)
