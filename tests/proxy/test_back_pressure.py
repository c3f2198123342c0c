"""A client that sends more than its server takes is held back, and read from again afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.http_peer import request
from tests.support.loops import on_both_loops
from tests.support.stage import server_of

if TYPE_CHECKING:
    from tests.support.stage import Stage

# Bytes. The kernel's buffers take some of it, never so much.
MOST = 128_000_000
CHUNK = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"


@pytest.mark.http1_only("pipelining")
@on_both_loops
async def test_more_pipelined_requests_than_are_held_are_all_answered(stage: Stage) -> None:
    """Reading is paused at 64 KiB, and goes on when these have been answered."""
    lb, client, origin = await stage.served()
    count = 1200
    requests = b"".join(request("GET", f"/{n}?{'x' * 300}") for n in range(count))
    sending = stage.tasks.spawn(client.send(requests), name="send")
    for _ in range(count):
        assert (await client.read_response()).body == b"ok"
    await sending
    assert [message.head.target.partition("?")[0] for message in origin.requests] == [
        f"/{n}" for n in range(count)
    ]
    assert server_of(lb).counters.responses[2] == count


async def test_what_comes_behind_an_early_answer_is_not_read_for_ever(stage: Stage) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n"
    _, client, at_origin = await stage.begun(head, limits={"body_size": 0})
    await at_origin.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 10\r\n\r\nsorry")
    assert (await client.read_head()).status == 413
    assert await client.read_exactly(5) == b"sorry"
    await client.send_until_stuck(b"x" * 65_536, MOST)
    # The answer goes on meanwhile.
    await at_origin.send(b"sorry")
    assert await client.read_exactly(5) == b"sorry"


@pytest.mark.http1_only("chunks")
async def test_an_upload_that_waits_in_the_queue_is_held_back(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, server={"max_connections": 1}, limits={"body_size": 0})
    one, two = await stage.clients(lb, 2)
    await one.get()
    at_origin, _ = await origin.accept_request()
    await two.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    sent = await two.send_until_stuck(CHUNK, MOST)
    # It goes on when its turn has come, with not a byte lost.
    await at_origin.serves(one, b"1")
    assert (await at_origin.read_head()).method == "POST"
    assert await at_origin.read_exactly(sent) == (CHUNK * (sent // len(CHUNK) + 1))[:sent]
