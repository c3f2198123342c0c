"""Clients that leave while they wait for the turn of another request: nothing of them is left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.turns import (
    Elsewhere,
    Gateway,
    begin_stream,
    events,
    get,
    path_of,
    post,
    turn_of,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from hermes_lb.proxy.turn_gateway import TurnGateway
    from tests.support.stage import Stage


def work(lb: LoadBalancer) -> list[str]:
    """The tasks of its data path."""
    return [task.get_name() for task in lb._context.tasks._running]


def shared(lb: LoadBalancer) -> TurnGateway:
    gateway = lb._context.turns
    assert gateway is not None
    return gateway


def followers(lb: LoadBalancer) -> dict[str, int]:
    return shared(lb)._followers


@pytest.mark.parametrize("how", ["joins", "names it"])
async def test_while_the_turn_has_no_head(stage: Stage, how: str) -> None:
    gateway = await Gateway.before(stage, await stage.origin())
    owned = await Elsewhere(gateway.shared).begin()
    await owned.started("agent1")
    data = post(key="k") if how == "joins" else get(path_of(owned.id))
    for _ in range(3):
        client = await gateway.client()
        await client.send(data)
        await eventually(lambda: followers(gateway.lb) == {owned.id: 1}, "it follows")
        assert "turn" in work(gateway.lb)
        client.abort()
        await eventually(lambda: followers(gateway.lb) == {}, "it has left")
        await eventually(lambda: "turn" not in work(gateway.lb), "its task has ended")


@pytest.mark.parametrize("at", ["path", "url"])
async def test_while_the_turn_is_looked_up(stage: Stage, at: str) -> None:
    """And the turn can still be cancelled by its own client's leaving."""
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, turns={"idempotency": "off"})
    target = "/v1/stream"
    owner, at_origin, head = await begin_stream(gateway, origin, get(target))
    await at_origin.send(events("1"))
    await owner.read_chunk()
    turn = turn_of(head)
    store: Any = shared(gateway.lb).store
    find, asked, may_go_on = store.find, asyncio.Event(), asyncio.Event()

    async def find_slowly(*args: str) -> Any:
        asked.set()
        await may_go_on.wait()
        return await find(*args)

    store.find = find_slowly
    client = await gateway.client()
    await client.send(get(path_of(turn) if at == "path" else target, last=f"h1.{turn}.1"))
    await asked.wait()
    client.abort()
    await eventually(lambda: len(gateway.lb._context.live.clients) == 1, "it has left")
    may_go_on.set()
    await eventually(lambda: "turn" not in work(gateway.lb), "its task has ended")
    assert followers(gateway.lb) == {}
    owner.abort()
    await at_origin.read_until_cut()
