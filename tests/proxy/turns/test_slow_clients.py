"""Clients that do not read a journaled response: its turn goes on, and what waits is bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.stage import unsent
from tests.support.turns import LAST_CHUNK, Gateway, events, path_of, post, turn_of
from tests.support.turns import get as getting
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from tests.support.http_peer import AtOrigin, Client, Head
    from tests.support.origin import Origin
    from tests.support.stage import Stage

EVENT = events("x" * 16_000)
# Of the kernel, between the balancer and a client that does not read.
KERNEL = 8 * 1024 * 1024


async def begin_unread(
    stage: Stage, gateway: Gateway, origin: Origin, key: str
) -> tuple[Client, AtOrigin, Head]:
    client = await stage.client(gateway.lb, receive_buffer=4096)
    await client.send(post(key=key))
    at_origin, _ = await origin.accept_request()
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                         b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
    return client, at_origin, await client.read_head()


@pytest.mark.parametrize("room", ["journal_size", "MOST_UNREAD"])
async def test_it_is_cut_and_may_come_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    if room == "MOST_UNREAD":
        monkeypatch.setattr("hermes_lb.proxy.turn_gateway.MOST_UNREAD", 2_000_000)
    origin = await stage.origin()
    size = "1MiB" if room == "journal_size" else "64MiB"
    gateway = await Gateway.before(stage, origin, turns={"journal_size": size})
    shared = gateway.lb._context.turns
    assert shared is not None
    client, at_origin, head = await begin_unread(stage, gateway, origin, "k")
    turn = turn_of(head)
    most = 0
    for _ in range((KERNEL + 3_000_000) // len(EVENT)):
        await at_origin.send(EVENT)
        await turns(4)
        most = max(most, unsent(gateway.lb), shared.unread.total)
    await eventually(lambda: gateway.lb._context.live.detached, "its client is cut")
    assert 500_000 < most < 1_700_000
    assert shared.unread.total == 0
    client.abort()
    await at_origin.send(events("last"))
    await at_origin.send(LAST_CHUNK)
    await gateway.in_state(turn, "done")
    answer = await gateway.ask(getting(path_of(turn), last=f"h1.{turn}.{9999}"))
    assert answer.status == 409
    number = (KERNEL + 3_000_000) // len(EVENT)
    rest = await gateway.ask(getting(path_of(turn), last=f"h1.{turn}.{number}"))
    assert rest.body.endswith(b"data: last\n\n")


async def test_one_that_reads_again_has_room_again(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, turns={"journal_size": "64MiB"})
    shared = gateway.lb._context.turns
    assert shared is not None
    client, at_origin, head = await begin_unread(stage, gateway, origin, "k")
    sent = 0
    while not shared.unread.total:
        await at_origin.send(EVENT)
        await turns(4)
        sent += 1
    await at_origin.send(LAST_CHUNK)
    body = await client.read_body(head)
    assert body.count(b"data: ") == sent
    await eventually(lambda: shared.unread.total == 0, "it has read all")
    await gateway.in_state(turn_of(head), "done")
