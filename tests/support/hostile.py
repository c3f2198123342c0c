"""Transcripts of hostile input: the rows, the ways in which bytes arrive, and what has to follow.

The rows are numbered as in the table of hostile input and faults; `row` gives a line of a test's
table its number, `@pytest.mark.row(n)` a test of its own. `test_rows_are_covered` reads both.
"""

from __future__ import annotations

from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.http_peer import AtOrigin, Client, Ended, Head, Message, Peer, request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _pytest.mark import ParameterSet

    from hermes_lb import LoadBalancer
    from tests.support.origin import Origin
    from tests.support.stage import Stage

# What an attacker would have an origin take for a request of its own.
BEHIND = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
# What the codec of HTTP/2 refuses, without saying why.
MALFORMED = "HTTP/2: a malformed request"


def row(number: int, name: str, *values: object) -> ParameterSet:
    """A line of a table, about one row of the table of hostile input."""
    return pytest.param(*values, id=f"row{number}-{name}", marks=pytest.mark.row(number))


def h1_row(number: int, name: str, *values: object) -> ParameterSet:
    """One that HTTP/2 has no words for."""
    marks = (pytest.mark.row(number), pytest.mark.http1_only("HTTP/2 can't say it"))
    return pytest.param(*values, id=f"row{number}-{name}", marks=marks)


class Way(Enum):
    """How the bytes arrive: what they mean must not depend on it."""

    WHOLE = "whole"
    BYTEWISE = "bytewise"
    FOLLOWED = "followed"  # another request behind them, in the same segment


in_two_ways = pytest.mark.parametrize(
    "way", [Way.WHOLE, Way.BYTEWISE], ids=lambda way: str(way.value)
)


async def deliver(peer: Peer, wire: bytes, way: Way) -> None:
    """Send `wire` in this way. The other side may end the connection before it has all of it."""
    with suppress(ConnectionError):
        if way is Way.BYTEWISE:
            await peer.send_bytewise(wire)
        else:
            await peer.send(wire + BEHIND if way is Way.FOLLOWED else wire)


# What an origin does that has nothing to hide.


async def echo(connection: AtOrigin, message: Message) -> None:
    """Answer with what was asked, so that each response tells to which request it belongs."""
    said = f"{message.head.method} {message.head.target}".encode()
    if message.head.method == "HEAD":
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said))
    else:
        await connection.respond(said)


# Before the request.


async def asking(
    stage: Stage, wire: bytes = request("GET", "/"), way: Way = Way.WHOLE, **options: Any
) -> tuple[Origin, LoadBalancer, Client, AtOrigin]:
    """The (first) request of what a client sends is at its origin, which has said nothing yet."""
    lb, client, origin = await stage.line(**options)
    await deliver(client, wire, way)
    at_origin, _ = await origin.accept_request()
    return origin, lb, client, at_origin


# Expected results.


async def is_turned_away(client: Client, status: int) -> Message:
    """The client gets `status` and a clean end -> the response.

    By HTTP/2 the response alone, or the reset of a malformed request (RFC 9113 section 8.1.1).
    """
    try:
        answer = await client.read_response()
    except Ended as cut:
        if client.closes is None and (status, cut.by_reset, cut.received) == (400, True, b""):
            return Message(Head(b"", "HTTP/2 400", []), b"")
        raise
    assert (answer.status, answer.get("Connection")) == (status, client.closes)
    assert await client.read_to_end() == b""
    return answer


async def expect_refusal(
    stage: Stage, lb: LoadBalancer, client: Client, status: int, reason: str
) -> None:
    """The client gets `status` and a clean end; the log has one line, which says why."""
    await is_turned_away(client, status)
    line = await stage.log_line(lb)
    assert (line.status, line.termination, line.request) == (status, "PR", "<BADREQ>")
    assert line.server == "<NOSRV>"
    assert reason in line.reason or line.reason == MALFORMED


async def is_refused(
    stage: Stage, way: Way, wire: bytes, status: int, reason: str, **options: Any
) -> None:
    """These bytes are refused, and no origin ever hears of them, nor of what comes behind them."""
    origin = await stage.origin()
    # Nothing waits for a deadline: what is hopeless is refused as soon as that is seen.
    lb = await stage.balancer(origin, timeouts={"request_head": 300.0}, **options)
    client = await stage.client(lb)
    await deliver(client, wire, way)
    await expect_refusal(stage, lb, client, status, reason)
    assert await origin.has_no_new_connection()


async def is_passed(
    stage: Stage,
    way: Way,
    wire: bytes,
    start: str,
    fields: Mapping[str, str | None],
    body: bytes | None = None,
    **options: Any,
) -> Origin:
    """These bytes are one request, which the origin sees with this first line and these fields.

    The bytes after them are the next request. A field that is None must not be there. `body` None:
    the test looks at it itself.
    """
    lb, client, origin = await stage.served(echo, **options)
    await deliver(client, wire, way)
    method, target, _ = start.split(" ")
    answer = await client.read_response(method=method)
    assert (answer.status, answer.get("Connection")) == (200, None)
    if method != "HEAD":
        assert answer.body == f"{method} {target}".encode()
    seen = origin.requests[0]
    assert seen.head.start == start
    assert {name: seen.get(name) for name in fields} == fields
    if body is not None:
        assert seen.body == body
    starts = [start]
    if way is Way.FOLLOWED:
        assert (await client.read_response()).body == b"GET /smuggled"
        starts.append("GET /smuggled HTTP/1.1")
    assert [message.head.start for message in origin.requests] == starts
    assert await client.gets_nothing()
    for line in await stage.logged(lb, len(starts)):
        assert (line.status, line.termination, line.server) == (200, "--", "agent1")
    return origin


async def answers_the_next_one(client: Client, origin: Origin) -> None:
    """The next request at the origin, on a fresh connection, is /next, and gets its own answer."""
    at_origin, seen = await origin.accept_request()
    assert seen.head.target == "/next"
    await at_origin.respond(b"right")
    answer = await client.read_response()
    assert (answer.status, answer.body) == (200, b"right")
    assert b"evil" not in bytes(client.received)


async def read_until_cut(origin: Origin, at_origin: AtOrigin | None = None) -> bytes:
    """All bytes that an origin received on its (only) connection, which then was cut."""
    if at_origin is None:
        at_origin = await origin.accept()
    await at_origin.read_until_cut()
    assert await origin.has_no_new_connection()
    return bytes(at_origin.received)
