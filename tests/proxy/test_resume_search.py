"""A search for another server: how long it goes on, which servers it asks, how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from hermes_lb.proxy.resume import EventStream
from tests.proxy.test_resume import (
    HANDOVER,
    LAST,
    RESUMABLE,
    Talk,
    balancer,
    chunk,
    event,
    outcomes,
    stream_head,
)
from tests.support.http_peer import Ended
from tests.support.stage import Stage, server_of
from tests.support.waiting import eventually

ONCE = {"resume_attempts": 1}


async def test_refused_connections_use_up_no_attempts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes_lb.proxy.resume._LONGEST_REST", 0.02)
    monkeypatch.setattr("hermes_lb.proxy.resume._REST_AFTER_FAILURE", 0.02)
    talk = await Talk.begin(stage, route=ONCE)
    for origin in talk.origins:
        origin.stop_listening()
    talk.first.close()
    servers = [server_of(talk.lb, number) for number in (1, 2)]
    await eventually(lambda: all(server.counters.connect_errors >= 6 for server in servers))
    assert all(server.is_failing for server in servers)
    talk.origins[1] = await stage.origin(port=talk.origins[1].port)
    second, _ = await talk.taken_up()
    await talk.finish(second)
    assert outcomes(servers[1]) == {"resumed": 1}


async def test_a_search_without_any_server_waits_for_one(stage: Stage) -> None:
    talk = await Talk.begin(stage, route=ONCE)
    for number in (1, 2):
        server_of(talk.lb, number).set_up(False, "connection refused")
    talk.first.close()
    await eventually(lambda: talk.lb.pools["agents"].in_flight == 0)
    assert await talk.origins[1].has_no_new_connection()
    server_of(talk.lb, 2).set_up(True, "200 in 1 ms")
    second, _ = await talk.taken_up()
    await talk.finish(second)


@pytest.mark.pure_only("a method is patched")
async def test_a_search_that_no_server_may_answer_looks_four_times_a_second(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    pause = EventStream._pause

    def counted(stream: EventStream, now: float) -> None:
        pauses.append(now)
        pause(stream, now)

    monkeypatch.setattr(EventStream, "_pause", counted)
    talk = await Talk.begin(stage, route={"resume_timeout": "600ms"})
    server_of(talk.lb, 1).set_up(False, "connection refused")
    server_of(talk.lb, 2).set_admin("drain")
    talk.first.close()
    await talk.client.read_until_cut()
    assert 3 <= len(pauses) <= 5


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_can_not_now_uses_up_no_attempt(stage: Stage, status: int) -> None:
    talk = await Talk.begin(stage, 1, route=ONCE)
    talk.first.close()
    for _ in range(2):
        again, _ = await talk.taken_up(0)
        await again.respond(b"", status=status)
    again, _ = await talk.taken_up(0)
    await talk.finish(again)


async def test_a_server_that_has_just_failed_is_not_asked_while_there_is_another(
    stage: Stage,
) -> None:
    talk = await Talk.begin(stage, 3)
    pool = talk.lb.pools["agents"]
    pool.failed(server_of(talk.lb, 2), talk.lb._plane.context.clock(), "for a test")
    talk.first.close()
    third, _ = await talk.taken_up(2)
    await talk.finish(third)
    assert await talk.origins[1].has_no_new_connection()


async def test_all_of_the_time_is_used_and_no_more(stage: Stage) -> None:
    talk = await Talk.begin(stage, route={"resume_timeout": "300ms", **ONCE})
    for origin in talk.origins:
        origin.stop_listening()
    talk.first.close()
    assert LAST not in await talk.client.read_until_cut()
    line = await stage.log_line(talk.lb)
    assert line.termination.startswith("SD")
    assert "no server went on in time" in line.reason
    pool = talk.lb.pools["agents"]
    assert sum(outcomes(server).get("gave_up", 0) for server in pool.servers) == 1
    # And the next stream is served as ever.
    talk.origins[1] = await stage.origin(port=talk.origins[1].port)
    client = await stage.client(talk.lb)
    await client.get("/")
    next_one, _ = await talk.origins[1].accept_request()
    await next_one.serves(client, b"ok")


async def test_a_full_server_is_not_waited_for_when_the_lost_one_is_back_first(
    stage: Stage,
) -> None:
    talk = await Talk.begin(stage, each=[{}, {"max_connections": 1}])
    other = await stage.client(talk.lb)
    await other.get("/other")
    at_second, _ = await talk.origins[1].accept_request()
    talk.first.close()
    again, _ = await talk.taken_up(0)
    await talk.finish(again)
    await at_second.serves(other, b"ok")


async def hands_over(talk: Talk) -> int:
    await talk.first.send(chunk(HANDOVER) + LAST)
    second, _ = await talk.taken_up()
    await talk.finish(second)
    return 2


async def gone(talk: Talk) -> int:
    talk.first.close()
    second, _ = await talk.taken_up()
    await second.respond(b"", status=404)
    with pytest.raises(Ended):
        await talk.client.read_chunk()
    return 2


async def one_attempt_fails(talk: Talk) -> int:
    talk.first.close()
    second, _ = await talk.taken_up()
    await second.respond(b"", status=500)
    with pytest.raises(Ended):
        await talk.client.read_chunk()
    return 2


async def event_too_large(talk: Talk) -> int:
    await talk.first.send(chunk(b"id: 17-2\ndata: " + b"x" * 70_000))
    talk.first.close()
    await talk.client.read_until_cut()
    return 1


async def client_leaves(talk: Talk) -> int:
    talk.first.close()
    await talk.taken_up()
    talk.client.close()
    return 2


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        (hands_over, "handed_over"),
        (gone, "gone"),
        (one_attempt_fails, "gave_up"),
        (event_too_large, "not_resumable"),
        (client_leaves, "client_left"),
    ],
)
async def test_each_stream_that_is_lost_counts_once(stage: Stage, what: Any, outcome: str) -> None:
    talk = await Talk.begin(stage, route=ONCE)
    number = await what(talk)
    await stage.log_line(talk.lb)
    assert outcomes(server_of(talk.lb, number)) == {outcome: 1}
    assert not outcomes(server_of(talk.lb, 3 - number))


@pytest.mark.parametrize("head", [stream_head(), RESUMABLE])
async def test_a_stream_that_is_over_or_can_not_be_resumed_is_none_that_was_lost(
    stage: Stage, head: bytes
) -> None:
    origins = [await stage.origin() for _ in range(2)]
    lb = await balancer(stage, *origins, route={"sse_keep_alive": "1m"})
    client = await stage.client(lb)
    await client.get("/")
    first, _ = await origins[0].accept_request()
    await first.send(head + chunk(event(1, "done")) + (LAST if head is RESUMABLE else b""))
    first.close()
    await client.read_head()
    await stage.log_line(lb)
    assert not outcomes(server_of(lb, 1))
