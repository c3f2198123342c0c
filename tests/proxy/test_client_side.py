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
