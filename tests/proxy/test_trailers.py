"""Trailers, both ways: only for a client that has said `TE: trailers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.http_peer import CHUNKED_POST
from tests.support.loops import on_both_loops
from tests.support.stage import FIRST_THEN_SECOND

if TYPE_CHECKING:
    from tests.support.stage import Stage

pytestmark = pytest.mark.http1_only("bytes are compared: tests/http2/test_trailers.py")

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
SENT = (
    b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nContent-Length: 7\r\nSet-Cookie: a=b\r\nGrpc-Status: 0\r\n\r\n"
)
PASSED = b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nGrpc-Status: 0\r\n\r\n"
WITHOUT = b"3\r\nabc\r\n0\r\n\r\n"


@on_both_loops
@pytest.mark.parametrize("how", ["at once", "bytewise"])
@pytest.mark.parametrize("takes", [True, False])
async def test_of_a_response(stage: Stage, how: str, takes: bool) -> None:
    _, client, at_origin = await stage.asked("/", *(["TE: trailers"] if takes else []))
    send = at_origin.send if how == "at once" else at_origin.send_bytewise
    await send(CHUNKED + SENT)
    head = await client.read_head()
    assert head.get("Trailer") is None
    expected = PASSED if takes else WITHOUT
    assert await client.read_exactly(len(expected)) == expected
    await at_origin.serves_the_next_of(client)


@on_both_loops
@pytest.mark.parametrize("how", ["at once", "bytewise"])
@pytest.mark.parametrize("takes", [True, False])
async def test_of_a_request(stage: Stage, how: str, takes: bool) -> None:
    _, client, origin = await stage.line()
    field = b"TE: trailers\r\n" if takes else b""
    send = client.send if how == "at once" else client.send_bytewise
    await send(CHUNKED_POST[:-2] + field + b"\r\n" + SENT)
    at_origin = await origin.accept()
    head = await at_origin.read_head()
    assert head.get("TE") == ("trailers" if takes else None)
    assert head.get("Connection") == ("TE" if takes else None)
    expected = PASSED if takes else WITHOUT
    assert await at_origin.read_exactly(len(expected)) == expected
    await at_origin.serves(client, b"ok")
    await at_origin.serves_the_next_of(client)


async def test_they_are_sent_again_with_the_body(stage: Stage) -> None:
    """A retry: the first server closes without a response."""
    first, second = await stage.origin(), await stage.origin()
    lb = await stage.balancer(first, second, each=FIRST_THEN_SECOND)
    client = await stage.client(lb)
    await client.send(
        b"PUT / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n" + SENT
    )
    at_first = await first.accept()
    await at_first.read_until(PASSED)
    at_first.abort()
    at_second = await second.accept()
    await at_second.read_until(PASSED)
    await at_second.serves(client, b"ok")


async def test_none_for_a_client_of_http10(stage: Stage) -> None:
    _, client, at_origin = await stage.asked("/", "TE: trailers", version="1.0")
    await at_origin.send(CHUNKED + SENT)
    await client.read_head()
    assert await client.read_to_end() == b"abc"
