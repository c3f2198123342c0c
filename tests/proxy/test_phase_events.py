"""Each state of an exchange, and what may happen in any of them.

The states are those of `tests.phases.adapter`. What only some have (a lease, a response head) is
tested where that is.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, NamedTuple

import pytest

from hermes_lb.affinity.table import SessionTable
from tests.phases.adapter import look_at
from tests.proxy.fake_line import HIGH, Line, turns
from tests.proxy.test_phase_faults import CHUNKED, GET, RESUMABLE, chunk, open_tunnel, post
from tests.support.http_peer import response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    Act = Callable[[Line], Coroutine[None, None, None]]

EVENT = chunk(b"id: 1\ndata: x\n\n")
LONG = 10_000.0  # seconds: more than any timeout


# How an exchange gets into each state. Those before the response head have an upload.


async def read(line: Line) -> None:
    await line.client.sends(post(10, "Content-Type: application/json"))


async def queue(line: Line) -> None:
    fill(line)
    await line.client.sends(post(10))


def fill(line: Line) -> None:
    """All servers are full."""
    for server in line.pool.servers:
        while not server.is_full:
            line.pool.lease(server, 0.0)


async def lookup(line: Line) -> None:
    await line.client.sends(post(10, "Mcp-Session-Id: known to another balancer"))


async def dial(line: Line) -> None:
    line.may_dial.clear()
    await line.client.sends(post(10))


async def pause(line: Line) -> None:
    line.refuses = True
    await line.client.sends(post(10))


async def send(line: Line) -> None:
    await line.client.sends(post(10))


async def blocked(line: Line) -> None:
    await line.client.sends(post(100_000))
    line.server.is_stuck = True
    for _ in range(4):
        await line.client.sends(bytes(20_000))


async def awaits_head(line: Line) -> None:
    await line.client.sends(GET)


async def awaits_continue(line: Line) -> None:
    await line.client.sends(post(10, "Expect: 100-continue"))


async def held(line: Line) -> None:
    await line.client.sends(post(10))
    await line.server.sends(response(b"ok", "Mcp-Session-Id: new"))


async def data(line: Line) -> None:
    await line.client.sends(GET)
    await line.server.sends(CHUNKED)


async def data_slow(line: Line) -> None:
    await line.client.sends(GET)
    line.client.is_stuck = True
    await line.server.sends(CHUNKED + b"%x\r\n" % (2 * HIGH) + bytes(2 * HIGH))


async def flush(line: Line) -> None:
    await line.client.sends(GET)
    line.client.is_stuck = True
    await line.server.sends(response(bytes(2 * HIGH)))


async def tunnel(line: Line) -> None:
    await open_tunnel(line)


async def stream(line: Line) -> None:
    await line.client.sends(GET)
    await line.server.sends(RESUMABLE + EVENT)


async def queue_to_resume(line: Line) -> None:
    await stream(line)
    fill(line)
    line.pool.lease(line.pool.servers[0], 0.0)  # the place that the stream gives back
    await line.server.leaves()


async def dial_to_resume(line: Line) -> None:
    await stream(line)
    line.may_dial.clear()
    await line.server.leaves()


async def pause_to_resume(line: Line) -> None:
    await stream(line)
    line.refuses = True
    await line.server.leaves()


async def awaits_head_to_resume(line: Line) -> None:
    await stream(line)
    await line.server.leaves()


class Row(NamedTuple):
    """`seconds` until the deadline, and the termination when it passes; NEVER and empty: there is
    none."""

    arrange: Act
    state: str
    seconds: float
    expires: str

    @property
    def letter(self) -> str:
        """In the log a tunnel is data."""
        return self.state[0].replace("T", "D")


TIMEOUTS = {"queue": 10, "connect": 20, "client": 30, "server": 40, "tunnel": 50}
ATTEMPT = 5  # of a stream to resume: for a connection and the response head together
NEVER = math.inf

TABLE = [
    Row(read, "R READ", 30, "cR"),
    Row(queue, "Q QUEUE", 10, "sQ"),
    Row(lookup, "C LOOKUP", NEVER, ""),
    Row(dial, "C DIAL", 20, "sC"),
    Row(pause, "C PAUSE", NEVER, ""),
    Row(send, "H SEND", 30, "cH"),
    Row(blocked, "H BLOCKED", 40, "sH"),
    Row(awaits_head, "H AWAIT", 40, "sH"),
    Row(awaits_continue, "H AWAIT", 40, "sH"),
    Row(held, "H HELD", NEVER, ""),
    Row(data, "D DATA", 40, "sD"),
    Row(data_slow, "D DATA_SLOW", 30, "cD"),
    Row(flush, "L FLUSH", 30, "cL"),
    Row(tunnel, "T TUNNEL", 50, "sD"),
    Row(queue_to_resume, "Q QUEUE+resume", 10, "SD"),
    Row(dial_to_resume, "C DIAL+resume", ATTEMPT, "SD"),
    Row(pause_to_resume, "C PAUSE+resume", NEVER, ""),
    Row(awaits_head_to_resume, "H AWAIT+resume", ATTEMPT, "SD"),
]


@pytest.fixture(params=TABLE, ids=lambda row: row.arrange.__name__)
async def row(request: pytest.FixtureRequest) -> Row:
    chosen: Row = request.param
    return chosen


@pytest.fixture
async def line(
    row: Row, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Line]:
    """One with an exchange in the state of `row`; other balancers never say where sessions live."""
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(SessionTable, "is_shared", row.arrange is lookup)
    monkeypatch.setattr(SessionTable, "look_up", lambda *_: never)
    monkeypatch.setattr(SessionTable, "store", lambda *_: never if row.arrange is held else None)
    route = {"path_prefix": "/", "backend": "b", "resume": True, "resume_timeout": 60}
    async with Line(
        count=2 if "resume" in row.state else 1,
        server={"max_connections": 2},
        backend={
            "stick": [{"on": ["header:Mcp-Session-Id", "json:/id"], "learn": True}],
            "retries": 1 if row.arrange is pause else 0,
        },
        frontend={"routes": [route]},
        timeouts=TIMEOUTS,
    ) as running:
        await row.arrange(running)
        assert look_at(running.connection).phase == row.state
        yield running
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []


def assert_over(line: Line, row: Row, *ends: str) -> None:
    """It ended so, and has given back what it had."""
    assert line.ends == list(ends)
    if "QUEUE" not in row.state:  # where others have the leases
        assert [server.in_flight for server in line.pool.servers if server.in_flight] == []
    assert not line.client.is_open
    assert not line.pool.waiting
    assert all(upstream.sink is None for upstream in line.context.live.upstreams)


async def is_lost(line: Line) -> None:
    await line.client.leaves()


async def ends(line: Line) -> None:
    await line.client.ends()


@pytest.mark.parametrize("leaves", [is_lost, ends], ids=lambda act: act.__name__)
async def test_a_client_that_leaves_ends_it(line: Line, row: Row, leaves: Act) -> None:
    if row.arrange is tunnel:
        await line.client.ends()
        assert line.ends == []  # the other direction goes on
        await line.client.leaves()
        assert_over(line, row)
        return
    await leaves(line)
    assert_over(line, row, f"C{row.letter}")


async def test_a_stop_ends_it(line: Line, row: Row) -> None:
    await line.plane.end_all()
    assert_over(line, row, f"K{row.letter}")


async def test_a_client_that_abuses_its_connection_is_cut(line: Line, row: Row) -> None:
    line.connection.cut("too many renegotiations")
    await turns()
    assert_over(line, row, f"P{row.letter}")


async def test_its_deadline(line: Line, row: Row) -> None:
    await line.passes(0)  # traffic has moved it by now
    assert look_at(line.connection).deadline - line.now == row.seconds
    await line.passes(LONG)
    for _ in range(3):  # other servers may be asked first
        await line.passes(LONG)
    assert line.ends == [row.expires] * bool(row.expires)
    if not row.expires:
        assert look_at(line.connection).phase == row.state


async def test_a_drain_lets_it_go_on(line: Line, row: Row) -> None:
    await line.plane.drain(0.0)
    await line.passes(1)
    assert look_at(line.connection).phase == row.state
    assert line.ends == []


async def test_bytes_of_the_request_move_only_what_waits_for_them(line: Line, row: Row) -> None:
    before = look_at(line.connection)
    await line.client.sends(b"12345")
    after = look_at(line.connection)
    match row.state:
        case "R READ" | "H SEND" | "T TUNNEL":
            assert (after.phase, after.saw_traffic) == (row.state, True)
            await line.passes(1)
            assert look_at(line.connection).deadline - line.now == row.seconds
        case "H AWAIT" if row.arrange is awaits_continue:
            assert after.phase == "H SEND"
        case _:
            assert after == before
