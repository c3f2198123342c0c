"""Limits of one client connection: the time for each head, and which clients are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.http_peer import request
from tests.support.loops import on_both_loops

if TYPE_CHECKING:
    from tests.support.stage import Stage


@pytest.mark.parametrize("is_pipelined", [False, True], ids=["afterwards", "pipelined"])
@on_both_loops
async def test_the_second_head_has_no_more_time_than_the_first(
    stage: Stage, is_pipelined: bool
) -> None:
    lb = await stage.balancer(
        await stage.serving(), timeouts={"request_head": 0.2, "keep_alive": 3600}
    )
    client = await stage.client(lb)
    half = b"GET /second HTTP/1.1\r\nHo"
    await client.send(request("GET", "/first") + (half if is_pipelined else b""))
    assert (await client.read_response()).body == b"ok"
    if not is_pipelined:
        await client.send(half)
    assert (await client.read_response()).status == 408
    assert await client.read_to_end() == b""
    first, second = await stage.logged(lb, 2)
    assert (first.status, second.termination) == (200, "cR")


@pytest.mark.parametrize(
    ("trusted", "statuses"),
    [(["127.0.0.1"], [200, 200, 200]), (["10.0.0.0/8"], [200, 429, 429])],
    ids=["a trusted proxy", "a client"],
)
async def test_a_trusted_proxy_may_have_any_number_of_connections(
    stage: Stage, trusted: list[str], statuses: list[int]
) -> None:
    lb = await stage.balancer(
        await stage.serving(),
        frontend={"trusted_proxies": trusted},
        limits={"connections_per_client": 1},
    )
    seen = []
    for client in await stage.clients(lb, 3):
        await client.get()
        seen.append((await client.read_response()).status)
    assert seen == statuses
