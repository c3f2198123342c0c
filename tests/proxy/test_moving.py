"""Streams leave a server that stands still, as soon as its checks have found that."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from hermes_lb.proxy import moving
from tests.proxy.test_resume import LAST, RESUMABLE, Talk, balancer, chunk, event, outcomes
from tests.proxy.test_resume_bounds import opened
from tests.support.http_peer import Ended
from tests.support.loops import on_both_loops
from tests.support.stage import server_of
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin, Message
    from tests.support.stage import Stage

CHECKS = {"interval": "50ms", "timeout": "50ms", "fall": 2, "path": "/health"}


def stands_still(lb: LoadBalancer, number: int = 1) -> None:
    """The verdict of its checks."""
    pool = lb.pools["agents"]
    server = pool.servers[number - 1]
    server.set_up(False, "timeout after 5s")
    assert pool.on_marked_down is not None
    pool.on_marked_down(server, True)


@on_both_loops
async def test_a_stream_leaves_a_server_whose_checks_time_out(stage: Stage) -> None:
    origins = [await stage.origin() for _ in range(2)]

    async def still(connection: AtOrigin, message: Message) -> None:
        if message.head.target == "/":
            await connection.send(RESUMABLE + chunk(event(1)))

    async def well(connection: AtOrigin, message: Message) -> None:
        if message.head.target == "/health":
            await connection.respond(b"ok")
        else:
            await connection.send(RESUMABLE + chunk(event(2, "done")) + LAST)

    origins[0].serve(still)
    origins[1].serve(well)
    lb = await balancer(stage, *origins, backend={"health": CHECKS}, each=[{}, {"backup": True}])
    client = await stage.client(lb)
    await client.get("/")
    assert (await client.read_head()).status == 200
    assert await client.read_chunk() == event(1)
    assert await client.read_chunk() == event(2, "done")
    assert await client.read_chunk() == b""
    assert (await stage.log_line(lb)).reason == "resumes=1"
    assert outcomes(server_of(lb, 2)) == {"moved": 1}
    assert any("agent1 is DOWN: timeout" in problem for problem in stage.problems)
    stage.problems.clear()


async def test_what_the_old_server_sends_later_is_not_passed_on(stage: Stage) -> None:
    talk = await Talk.begin(stage)
    stands_still(talk.lb)
    second, asked = await talk.taken_up()
    assert asked.get("Last-Event-ID") == "17-1"
    with suppress(OSError):
        await talk.first.send(chunk(event(666)))
    with pytest.raises(Ended):
        await talk.first.read_exactly(1)
    await talk.finish(second)


async def test_half_an_event_of_the_old_server_is_dropped(stage: Stage) -> None:
    talk = await Talk.begin(stage)
    await talk.first.send(chunk(event(2)[:-9]))
    await eventually(lambda: talk.lb.pools["agents"].in_flight == 1)
    stands_still(talk.lb)
    second, _ = await talk.taken_up()
    await talk.finish(second)


async def test_without_another_server_a_stream_stays_where_it_is(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_NEXT_LOOK", 0.01)
    talk = await Talk.begin(stage)
    other = talk.lb.pools["agents"].servers[1]
    other.set_up(False, "connection refused")
    stands_still(talk.lb)
    await turns()
    assert talk.lb.pools["agents"].in_flight == 1
    await talk.first.send(chunk(event(2)))
    assert await talk.client.read_chunk() == event(2)
    other.set_up(True, "200 in 1 ms")
    second, asked = await talk.taken_up()
    assert asked.get("Last-Event-ID") == "17-2"
    await talk.finish(second, 3)


async def test_a_server_that_comes_back_keeps_the_streams_that_it_still_has(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_NEXT_LOOK", 0.01)
    talk = await Talk.begin(stage)
    first, second = talk.lb.pools["agents"].servers
    second.set_up(False, "connection refused")
    stands_still(talk.lb)
    first.set_up(True, "200 in 1 ms")
    second.set_up(True, "200 in 1 ms")
    assert await talk.origins[1].has_no_new_connection()
    await talk.first.send(chunk(event(2, "done")) + LAST)
    assert await talk.client.read_chunk() == event(2, "done")
    assert await talk.client.read_chunk() == b""


async def test_many_streams_leave_a_few_at_a_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = [0]
    sleep = asyncio.sleep

    async def next_round(_: float) -> None:
        rounds.append(0)
        await sleep(0)

    def count(pool: object, *about: object) -> bool:
        rounds[-1] += 1
        return has_other(pool, *about)

    has_other = moving._has_other
    monkeypatch.setattr(moving, "AT_ONCE", 3)
    monkeypatch.setattr(moving, "_has_other", count)
    monkeypatch.setattr(moving, "asyncio", SimpleNamespace(sleep=next_round))
    origins = [await stage.origin() for _ in range(2)]
    lb = await balancer(stage, *origins, each=[{}, {"backup": True}])
    clients = [
        (await opened(stage, lb, origins[0], RESUMABLE + chunk(event(1))))[0] for _ in range(8)
    ]

    async def go_on(connection: AtOrigin, message: Message) -> None:
        await connection.send(RESUMABLE + chunk(event(2, "done")) + LAST)

    origins[1].serve(go_on)
    stands_still(lb)
    for client in clients:
        assert await client.read_chunk() == event(1)
        assert await client.read_chunk() == event(2, "done")
    assert [count for count in rounds if count] == [3, 3, 2]
