"""What the client's side of an exchange owes it (`ports.Downstream`, `ports.Connection`)."""

from __future__ import annotations

import pytest

from tests.proxy.fake_line import HIGH, Line, turns
from tests.support.http_peer import request, response

GET = request("GET", "/")


@pytest.mark.parametrize(
    ("termination", "is_open"), [("CQ", True), ("CH", True), ("CD", False), ("SD", False)]
)
async def test_a_connection_ends_with_a_response_that_is_cut_off(
    termination: str, is_open: bool
) -> None:
    """A client that has left before its response may still get the responses before that one."""
    async with Line() as line:
        await line.client.sends(GET)
        line.connection.cut_off(termination)
        assert line.connection.exchange is None
        await turns()
        assert line.client.is_open == is_open
        assert line.client.is_aborted != is_open


@pytest.mark.parametrize(("sends", "ends"), [(b"", []), (GET, ["KH"])])
async def test_a_connection_is_shut_down_with_its_exchange(sends: bytes, ends: list[str]) -> None:
    async with Line() as line:
        if sends:
            await line.client.sends(sends)
        line.connection.shut_down()
        await turns()
        assert (line.ends, line.client.is_aborted, line.client.is_open) == (ends, True, False)


async def test_bytes_that_are_unsent_behind_the_end_have_a_deadline() -> None:
    """The exchange is over, and its lease is free: the connection waits for the client alone."""
    async with Line(timeouts={"keep_alive": 5, "client": 100}) as line:
        await line.client.sends(GET)
        line.client.is_stuck = True
        await line.server.sends(response(b"x" * (HIGH // 2)))
        assert (line.connection.exchange, line.pool.in_flight) == (None, 0)
        await line.passes(6)
        assert line.connection.is_closing
        await line.client.takes(10)
        await line.passes(101)
        assert line.client.is_open  # it has read some of them
        await line.passes(101)
        assert not line.client.is_open
        assert line.ends == []


# The request's body.


def post(*fields: str) -> bytes:
    return request("POST", "/", *fields)


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize("step", [1, 5, 1000])
@pytest.mark.parametrize(
    ("head", "body", "passed"),
    [
        (post("Content-Length: 5"), b"hello", b"hello"),
        (post(CHUNKED), b"5\r\nhello\r\n0\r\n\r\n", None),
        (post(CHUNKED), b"5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    ],
)
async def test_a_body_reaches_its_server_and_what_follows_does_not(
    step: int, head: bytes, body: bytes, passed: bytes | None
) -> None:
    sent = head + body + GET
    async with Line() as line:
        for at in range(0, len(sent), step):
            await line.client.sends(sent[at : at + step])
        exchange = line.connection.exchange
        assert exchange is not None
        assert exchange.is_request_read
        assert line.server.got.endswith(b"\r\n\r\n" + (passed or body))
        await line.server.sends(response(b"first"))
        await line.server.sends(response(b"second"))
        assert [b"first" in line.client.got, b"second" in line.client.got] == [True, True]


@pytest.mark.parametrize("sent_at_once", [True, False])
async def test_a_body_that_breaks_its_framing_is_400(sent_at_once: bool) -> None:
    async with Line() as line:
        head, body = post(CHUNKED), b"5\r\nhello, world\r\n"
        for part in (head + body,) if sent_at_once else (head, body):
            await line.client.sends(part)
        assert line.client.got.startswith(b"HTTP/1.1 400 ")
        assert line.ends == ["PR" if sent_at_once else "PD"]
        assert line.connection.is_closing


async def test_nothing_is_served_behind_a_body_that_was_refused() -> None:
    """It is too large, which is found in the read that has its end, while a response leaves."""
    async with Line(limits={"body_size": 100}) as line:
        await line.client.sends(post(CHUNKED) + b"1\r\na\r\n")
        line.client.is_stuck = True
        await line.server.sends(response(b"x" * 2 * HIGH))
        exchange = line.connection.exchange
        assert exchange is not None
        assert exchange.letter == "L"
        await line.client.sends(b"c8\r\n" + b"b" * 200 + b"\r\n0\r\n\r\n" + GET)
        line.client.is_stuck = False
        await line.client.takes(3 * HIGH)
        assert line.ends == []
        assert line.connection.is_closing
        assert len(line.servers) == 1
