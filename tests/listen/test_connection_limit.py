"""The connection limit of all frontends, while frontends and binds are added: none bypasses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.config import Bind
from tests.support.loops import on_both_loops
from tests.support.origin import answers
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin, Client
    from tests.support.origin import Origin
    from tests.support.stage import Stage

ACCEPTS_PER_TURN = 8
TWO_BINDS = ["127.0.0.1:0", "localhost:0"]


async def full(stage: Stage, origin: Origin) -> tuple[LoadBalancer, Client, AtOrigin]:
    """A balancer for one client at a time, which it has."""
    lb = await stage.balancer(origin, process={"max_connections": 1})
    inside = await stage.client(lb)
    await inside.get("/inside")
    at_origin, _ = await origin.accept_request()
    return lb, inside, at_origin


async def add_frontend(lb: LoadBalancer, binds: list[str]) -> None:
    """By a reload."""
    [present] = lb.config.frontends
    more = present.model_copy(
        update={"name": "more", "bind": [Bind.model_validate(bind) for bind in binds]}
    )
    await lb.reconfigure(lb.config.model_copy(update={"frontends": [present, more]}))


def accepting(lb: LoadBalancer) -> list[int]:
    """With how many descriptors each listener accepts."""
    return [
        len(listener._servers)
        for frontend in lb._plane.frontends
        for listener in frontend.listeners
    ]


@on_both_loops
async def test_a_frontend_that_a_reload_adds_to_a_full_house_waits(stage: Stage) -> None:
    origin = await stage.origin()
    lb, inside, at_origin = await full(stage, origin)
    await add_frontend(lb, TWO_BINDS)
    waiting = [await stage.client(url) for url in lb.urls]
    for client in waiting:
        await client.get("/waited")
    for client in waiting:
        assert await client.gets_nothing()
    assert len(lb._context.live.clients) == 1
    assert await origin.has_no_new_connection()
    inside.close()
    assert await at_origin.read_until_cut() == b""
    origin.serve(answers())
    for client in waiting:
        assert (await client.read_response()).body == b"ok"


@on_both_loops
async def test_a_gate_that_closes_while_a_frontend_starts_closes_all_of_it(stage: Stage) -> None:
    lb = await stage.balancer(await stage.origin(), process={"max_connections": 1})
    client = await stage.client(lb)  # the kernel has it; the loop takes it within the reload
    await add_frontend(lb, TWO_BINDS)
    await eventually(lambda: lb._context.live.clients)
    await turns(100)
    assert accepting(lb) == [0, 0, 0]
    client.close()
    await eventually(lambda: accepting(lb) == [ACCEPTS_PER_TURN] * 3)


@on_both_loops
async def test_a_gate_that_opens_while_a_frontend_starts_opens_all_of_it(stage: Stage) -> None:
    lb, inside, at_origin = await full(stage, await stage.origin())
    inside.close()
    await add_frontend(lb, TWO_BINDS)
    assert await at_origin.read_until_cut() == b""
    await eventually(lambda: accepting(lb) == [ACCEPTS_PER_TURN] * 3)
    await turns(100)
    assert accepting(lb) == [ACCEPTS_PER_TURN] * 3


@on_both_loops
async def test_whenever_the_gate_turns_each_listener_accepts_once(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving())
    [frontend] = lb._plane.frontends
    for turns_before in range(24):
        bind = Bind.model_validate("localhost:0")
        adding = stage.tasks.spawn(frontend.add(bind), name="add")
        await turns(turns_before)
        frontend.pause()
        await turns(turns_before // 3)
        frontend.resume()
        await turns(turns_before // 2)
        frontend.pause()
        frontend.resume()
        await adding
        await turns(100)
        assert accepting(lb) == [ACCEPTS_PER_TURN] * 2, turns_before
        await frontend.remove(bind)
    client = await stage.client(lb)
    assert (await client.ask()).body == b"ok"
