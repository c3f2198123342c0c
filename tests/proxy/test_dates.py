"""Date: on our own answers, and on those of servers that gave none (RFC 9110 section 6.6.1)."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from hermes_lb.http import date_field
from hermes_lb.proxy import wall_clock
from tests.support.heads import HANDSHAKE
from tests.support.http_peer import Message, request, response
from tests.support.origin import answers
from tests.support.websocket import accepting

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage

SOCKET = (b"Connection: Upgrade", b"Upgrade: websocket", *HANDSHAKE)
GIVEN = "Tue, 01 Dec 2026 08:00:00 GMT"


def dates(message: Message) -> list[str]:
    return [value for name, value in message.head.fields if name.lower() == "date"]


def is_of_now(message: Message, since: float) -> bool:
    """It has one Date, which lies between then (seconds since 1970) and now."""
    (date,) = dates(message)
    assert date.endswith(" GMT")
    return int(since) - 1 <= parsedate_to_datetime(date).timestamp() <= time.time() + 1


UNSAID = pytest.mark.http1_only("HTTP/2 resets the stream, or ends the connection")
OTHERS = [{"path": "/other", "backend": "agents"}]


@pytest.mark.parametrize(
    ("wire", "status", "options"),
    [
        (request("GET", "/"), 503, {"server": {"down": True}}),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, {}, marks=UNSAID),
        (request("GET", "/"), 404, {"frontend": {"default_backend": None, "routes": OTHERS}}),
        (request("GET", "/"), 308, {"frontend": {"redirect_to_https": 308}}),
        pytest.param(request("CONNECT", "a:80"), 405, {}, marks=UNSAID),
        (request("TRACE", "/"), 405, {}),
        (request("BREW", "/"), 501, {}),
        (request("GET", "/" + "a" * 20_000), 414, {}),
        pytest.param(request("GET", "/", "A: " + "a" * 40_000), 431, {}, marks=UNSAID),
        (request("GET", "/", "Expect: tea"), 417, {}),
        (request("POST", "/", body=b"too much"), 413, {"limits": {"body_size": 1}}),
        (request("OPTIONS", "/", "Max-Forwards: 0"), 200, {}),
        (request("TRACE", "/", "Max-Forwards: 0"), 200, {"frontend": {"trace": True}}),
        (request("HEAD", "/"), 503, {"server": {"down": True}}),
    ],
)
async def test_our_own_answers_have_one(
    stage: Stage, wire: bytes, status: int, options: dict[str, Any]
) -> None:
    since = time.time()
    _, client, _ = await stage.served(**options)
    await client.send(wire)
    answer = await client.read_response(method=wire.split(b" ")[0].decode())
    assert answer.status == status
    assert is_of_now(answer, since)


@pytest.mark.parametrize(
    ("method", "wire", "given"),
    [
        ("GET", response(b"ok"), []),
        ("GET", response(b"ok", f"Date: {GIVEN}"), [GIVEN]),
        ("GET", response(b"ok", f"dATE: {GIVEN}"), [GIVEN]),
        ("GET", response(b"ok", "Date: nonsense"), ["nonsense"]),  # no business of ours
        ("GET", response(b"ok", f"Date: {GIVEN}", "Connection: date"), []),
        ("GET", response(b"ok", f"X-Date: {GIVEN}"), []),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", []),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", []),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n", []),
        ("GET", b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", []),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", []),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []),
    ],
)
async def test_an_answer_of_a_server_has_its_own_or_gets_one(
    stage: Stage, method: str, wire: bytes, given: list[str]
) -> None:
    since = time.time()
    _, client, origin = await stage.line()
    await client.send(request(method, "/"))
    at_origin, _ = await origin.accept_request()
    await at_origin.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
    hints = await client.read_head()
    assert [name for name, _ in hints.fields if name.lower() == "date"] == []
    await at_origin.send(wire)
    answer = await client.read_response(method=method)
    assert dates(answer) == given if given else is_of_now(answer, since)


async def test_a_101_gets_none(stage: Stage) -> None:
    _, client, origin = await stage.line()
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"\r\n".join([*SOCKET, b"", b""]))
    at_origin, _ = await origin.accept_request()
    await at_origin.send(accepting(at_origin))
    head = await client.read_head()
    assert head.start.startswith("HTTP/1.1 101 ")
    assert "date" not in [name.lower() for name, _ in head.fields]


def _at(lb: LoadBalancer, second: int) -> None:
    """Set the clock to `second` seconds since 1970."""
    shared = lb._context
    assert shared is not None
    shared.wall_clock.offset = second + 0.5 - shared.clock()


@pytest.mark.pure_only("the context is patched")
async def test_a_response_head_that_is_remembered_does_not_keep_its_date(stage: Stage) -> None:
    """The same bytes, at another time; and with a server's own Date, as it came."""
    lb, client, _ = await stage.served(answers(b"ok"))
    with patch.object(wall_clock.WallClock, "set"):
        for second in (1_800_000_000, 1_800_000_060, 1_700_000_000):
            _at(lb, second)
            for _ in range(2):
                (date,) = dates(await client.ask())
                # A second or so may pass meanwhile.
                assert 0 <= parsedate_to_datetime(date).timestamp() - second < 30


@pytest.mark.pure_only("a function of a compiled module is patched")
def test_it_is_made_once_a_second() -> None:
    clock = wall_clock.WallClock(0.0)
    clock.offset = 1000.0
    with patch.object(wall_clock, "date_field", side_effect=date_field) as made:
        found = [clock.date(now / 100) for now in range(250)]
    assert made.call_count == 3
    assert sorted(set(found)) == [
        b"Date: Thu, 01 Jan 1970 00:16:%d GMT\r\n" % second for second in (40, 41, 42)
    ]
