"""`GET .../events?turn=`: one turn to its end, on any worker, for any follower."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.errors import StoreUnavailable
from agent_worker.runtime import held_lease, holders
from agent_worker.sessions import session_keys
from agent_worker.tasks import spawn
from tests.support.agent.engines import GatedEngine, PlannedEngine
from tests.support.agent.runtime import (
    ANONYMOUS,
    PausedEngine,
    create,
    cut_off,
    die,
    post,
    speech,
    status,
    told,
)
from tests.support.agent.takeover import open_turn, resume
from tests.support.sse import Event, all_events, deltas, read_events
from tests.support.waiting import until

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from redis.asyncio import Redis

    from agent_worker.sessions import SessionStore
    from tests.agent_worker.conftest import StartWorker
    from tests.support.agent.running_worker import RunningWorker


async def resumed(worker: RunningWorker, path: str, after: str = "") -> list[Event]:
    async with resume(worker, path, after) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["X-Hermes-Resume"] == path
        return await all_events(response)


async def refusal(
    worker: RunningWorker, path: str, after: str = "", **headers: str
) -> tuple[int, str]:
    async with resume(worker, path, after, **headers) as response:
        return response.status, (await response.json())["error"]["code"]


async def finished(worker: RunningWorker, sid: str, **headers: str) -> tuple[str, list[Event]]:
    async with await open_turn(worker, sid, **headers) as response:
        return response.headers["X-Hermes-Resume"], await all_events(response)


# Events.


async def test_a_stream_names_its_turn_by_the_fence_of_its_begin(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("a"), speech("b")))
    sid = await create(worker)
    for _ in range(2):
        path, events = await finished(worker, sid)
        fence = events[0].id.partition("-")[0]
        assert path == f"/api/agent/sessions/{sid}/events?turn={fence}"


async def test_each_id_of_a_finished_turn_gives_the_rest_and_the_end(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("a", "b", "c")))
    other = await start_worker(engine=PlannedEngine())
    path, events = await finished(worker, await create(worker))
    assert await resumed(other, path) == events
    for at, event in enumerate(events):
        assert await resumed(other, path, event.id) == events[at + 1 :]


async def test_a_turn_with_another_behind_it_ends_where_it_ended(start_worker: StartWorker) -> None:
    engine = PlannedEngine(speech("a"), speech("b"), speech("c"))
    worker = await start_worker(engine=engine)
    sid = await create(worker)
    turns = [await finished(worker, sid) for _ in range(3)]
    for path, events in turns:
        assert await resumed(worker, path) == events
        assert await resumed(worker, path, events[-1].id) == []


async def test_a_replayed_answer_can_be_taken_up_too(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("a", "b"), speech("c")))
    sid = await create(worker)
    key = {"Idempotency-Key": "k"}
    original, events = await finished(worker, sid, **key)
    await finished(worker, sid)
    path, replayed = await finished(worker, sid, **key)
    assert path == original
    assert await resumed(worker, path, replayed[0].id) == replayed[1:] == events[-1:]


async def test_who_follows_a_living_turn_gets_it_live(start_worker: StartWorker) -> None:
    engine = PausedEngine([*speech("one "), None, *speech("two")])
    first, other = await start_worker(engine=engine), await start_worker(engine=PlannedEngine())
    sid = await create(first)
    async with await open_turn(first, sid) as turn:
        stream = read_events(turn)
        seen = await anext(stream)
        path = turn.headers["X-Hermes-Resume"]
        async with resume(other, path, seen.id) as response:
            engine.gate.set()
            rest = await all_events(response)
        assert rest == [event async for event in stream]
        assert [event.name for event in rest] == ["message.delta", "done"]


async def test_an_error_that_ended_the_turn_is_reported_and_the_turn_not_run_again(
    start_worker: StartWorker, store: SessionStore
) -> None:
    first = await start_worker(engine=PlannedEngine([*speech("one"), RuntimeError("boom")]))
    other = await start_worker(engine=PlannedEngine())
    sid = await create(first)
    path, events = await finished(first, sid)
    assert events[-1].data["code"] == "engine_failed"
    assert await resumed(other, path, events[0].id) == events[1:]
    assert await resumed(other, path, events[-1].id) == []
    assert await status(store, sid) == "interrupted"


@pytest.mark.parametrize("turn", ["", "0", "-1", "1-0", "x", "1" * 16])
async def test_what_is_no_turns_name_is_a_bad_request(start_worker: StartWorker, turn: str) -> None:
    worker = await start_worker(engine=PlannedEngine())
    path = f"/api/agent/sessions/{await create(worker)}/events?turn={turn}"
    assert await refusal(worker, path) == (400, "bad_request")


async def test_a_turn_that_never_was_is_gone(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("a")))
    sid = await create(worker)
    path, _ = await finished(worker, sid)
    assert await refusal(worker, path + "1") == (410, "events_gone")


async def test_events_that_are_not_kept_any_more_are_gone(
    start_worker: StartWorker, redis: Redis
) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("a", "b", "c")))
    sid = await create(worker)
    path, events = await finished(worker, sid)
    await redis.xtrim(session_keys(sid)[4], maxlen=2, approximate=False)
    assert await refusal(worker, path) == (410, "events_gone")
    assert await refusal(worker, path, events[0].id) == (410, "events_gone")
    assert await resumed(worker, path, events[-2].id) == events[-1:]


async def test_a_foreign_or_unknown_or_deleted_session_is_not_found(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("a")))
    sid = await create(worker, Authorization="Bearer mine")
    path, events = await finished(worker, sid, Authorization="Bearer mine")
    not_found = (404, "session_not_found")
    assert await refusal(worker, path, Authorization="Bearer other") == not_found
    assert await refusal(worker, path, events[0].id) == not_found
    unknown = path.replace(sid, sid[::-1])
    assert await refusal(worker, unknown, Authorization="Bearer mine") == not_found
    async with worker.delete(sid, headers={"Authorization": "Bearer mine"}) as gone:
        assert gone.status == 204
    assert await refusal(worker, path, Authorization="Bearer mine") == not_found


# Takeover.


async def begun_and_dead(
    worker: RunningWorker, redis: Redis, sid: str, count: int
) -> tuple[str, list[Event], ClientResponse]:
    """The path, the first events, and the stream of a worker that lost its lease and Redis."""
    turn = await open_turn(worker, sid)
    stream = read_events(turn)
    events = [await anext(stream) for _ in range(count)]
    await die(worker, redis, sid)
    return turn.headers["X-Hermes-Resume"], events, turn


async def test_of_several_followers_one_gets_the_turn_and_all_get_its_events(
    start_worker: StartWorker, redis: Redis, store: SessionStore
) -> None:
    dying = PausedEngine([*speech("one ", "two "), None])
    first = await start_worker(engine=dying)
    engines = [PausedEngine(speech("three"), can_continue=True) for _ in range(3)]
    others = [await start_worker(engine=engine) for engine in engines]
    sid = await create(first)
    path, seen, turn = await begun_and_dead(first, redis, sid, 2)
    follows = [resumed(other, path, seen[0].id) for other in others * 2]
    answers = await asyncio.gather(*follows)
    assert all(answer == answers[0] for answer in answers)
    assert deltas([seen[0], *answers[0]]) == "one two three"
    assert sum(len(engine.requests) for engine in engines) == 1
    assert await told(store, sid) == [("user", "go"), ("assistant", "one two three")]
    turn.close()


async def test_a_silent_holder_loses_its_turn_before_its_lease_runs_out(
    start_worker: StartWorker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders, "SILENT_S", 0.2)
    engine = PausedEngine([*speech("one "), None, *speech("never")])
    first = await start_worker(engine=engine)
    other = await start_worker(engine=PausedEngine(speech("two"), can_continue=True))
    sid = await create(first)
    async with await open_turn(first, sid) as turn:
        stream = read_events(turn)
        seen = await anext(stream)
        wake_up = cut_off(first)
        events = await resumed(other, turn.headers["X-Hermes-Resume"], seen.id)
        assert deltas([seen, *events]) == events[-1].data["content"] == "one two"
        wake_up()
        engine.gate.set()
        (error,) = [event async for event in stream]
    assert (error.id, error.data["code"]) == ("", "lease_lost")


@pytest.mark.slow
async def test_a_holder_whose_subscription_is_gone_loses_its_turn_sooner(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process has died: neither silence alone nor the end of the lease would do here."""
    monkeypatch.setattr(holders, "SILENT_S", 3600.0)
    first = await start_worker(lease_s=3600.0, engine=PausedEngine([*speech("one "), None]))
    other = await start_worker(engine=PausedEngine(speech("two"), can_continue=True))
    sid = await create(first)
    async with await open_turn(first, sid) as turn:
        seen = await anext(read_events(turn))
        cut_off(first)
        await first.worker.notifier.close()
        events = await resumed(other, turn.headers["X-Hermes-Resume"], seen.id)
    assert deltas([seen, *events]) == events[-1].data["content"] == "one two"


async def test_the_turn_of_a_follower_that_leaves_goes_on_with_the_next(
    start_worker: StartWorker, redis: Redis, store: SessionStore
) -> None:
    engines = [PausedEngine([*speech(word), None], can_continue=True) for word in ("1 ", "2 ")]
    workers = [await start_worker(engine=engine) for engine in engines]
    last = await start_worker(engine=PausedEngine(speech("3"), can_continue=True))
    sid = await create(workers[0])
    path, seen, turn = await begun_and_dead(workers[0], redis, sid, 1)
    async with resume(workers[1], path, seen[-1].id) as response:
        seen.append(await anext(read_events(response)))
        waiting = spawn(resumed(last, path, seen[-1].id), name="follower")
        response.close()
    rest = await waiting
    assert deltas([*seen, *rest]) == rest[-1].data["content"] == "1 2 3"
    await until(lambda: len(workers[1].worker.turns) == 0)
    turn.close()


async def test_a_client_that_broke_off_can_take_its_turn_up_at_once(
    start_worker: StartWorker,
) -> None:
    """The connection to its worker was lost, and the worker has cancelled the turn."""
    first = await start_worker(engine=(engine := GatedEngine()))
    other = await start_worker(engine=PausedEngine(speech("two"), can_continue=True))
    sid = await create(first)
    turn = await open_turn(first, sid)
    seen = await anext(read_events(turn))
    turn.close()
    await engine.closed.wait()
    events = await resumed(other, turn.headers["X-Hermes-Resume"], seen.id)
    assert deltas([seen, *events]) == "one two"


async def test_a_turn_stopped_for_another_message_is_not_taken_over(
    start_worker: StartWorker, redis: Redis, store: SessionStore
) -> None:
    first = await start_worker(engine=PausedEngine([*speech("one"), None]))
    other = await start_worker(engine=PlannedEngine())
    sid = await create(first)
    turn = await open_turn(first, sid)
    seen = await anext(read_events(turn))
    cut_off(first)  # it does not get the notification, and dies
    assert await store.interrupt(sid, ANONYMOUS) is not None
    await redis.delete(session_keys(sid)[1])
    (error,) = await resumed(other, turn.headers["X-Hermes-Resume"], seen.id)
    assert (error.id, error.name, error.data["code"]) == ("", "error", "turn_interrupted")
    turn.close()


async def test_a_dead_turn_that_another_one_followed_is_over(
    start_worker: StartWorker, redis: Redis
) -> None:
    first = await start_worker(engine=PausedEngine([*speech("one ", "more"), None]))
    other = await start_worker(engine=PlannedEngine(speech("two")))
    sid = await create(first)
    path, seen, turn = await begun_and_dead(first, redis, sid, 2)
    assert (await post(other, sid, "never mind")).status == 200
    rest = await resumed(other, path, seen[0].id)
    assert rest[:-1] == seen[1:]
    assert (rest[-1].id, rest[-1].data["code"]) == ("", "turn_interrupted")
    turn.close()


async def test_who_follows_a_session_that_is_deleted_is_notified(start_worker: StartWorker) -> None:
    first = await start_worker(engine=PausedEngine([*speech("one"), None]))
    other = await start_worker(engine=PlannedEngine())
    sid = await create(first)
    turn = await open_turn(first, sid)
    seen = await anext(read_events(turn))
    async with resume(other, turn.headers["X-Hermes-Resume"], seen.id) as response:
        async with other.delete(sid) as gone:
            assert gone.status == 204
        (error,) = await all_events(response)
    assert (error.id, error.data["code"]) == ("", "session_not_found")
    turn.close()


async def test_what_waits_begins_behind_a_turn_that_was_taken_over(
    start_worker: StartWorker, redis: Redis, store: SessionStore
) -> None:
    first = await start_worker(engine=PausedEngine([*speech("one "), None]))
    engine = PausedEngine(speech("two"), speech("three"), can_continue=True)
    other = await start_worker(engine=engine)
    sid = await create(first)
    turn = await open_turn(first, sid)
    seen = await anext(read_events(turn))
    assert (await post(first, sid, "later", "enqueue")).status == 202
    await die(first, redis, sid)
    events = await resumed(other, turn.headers["X-Hermes-Resume"], seen.id)
    assert events[-1].data["content"] == "one two"

    async def is_all_told() -> bool:
        return len(await told(store, sid)) == 4 and await status(store, sid) == "idle"

    await until(is_all_told)
    messages = [("user", "go"), ("assistant", "one two"), ("user", "later"), ("assistant", "three")]
    assert await told(store, sid) == messages
    turn.close()


async def test_the_key_of_a_turn_that_was_taken_over_gives_its_answer(
    start_worker: StartWorker, redis: Redis
) -> None:
    first = await start_worker(engine=PausedEngine([*speech("one "), None]))
    other = await start_worker(engine=PausedEngine(speech("two"), can_continue=True))
    sid = await create(first)
    turn = await open_turn(first, sid, **{"Idempotency-Key": "k"})
    seen = await anext(read_events(turn))
    await die(first, redis, sid)
    await resumed(other, turn.headers["X-Hermes-Resume"], seen.id)
    reply = await post(other, sid, "go", Idempotency_Key="k")
    assert (reply.body["content"], reply.headers["Idempotency-Replayed"]) == ("one two", "true")
    turn.close()


async def test_a_follower_that_runs_the_turn_gets_its_failure(
    start_worker: StartWorker, redis: Redis
) -> None:
    first = await start_worker(engine=PausedEngine([*speech("one "), None]))
    engine = PausedEngine([*speech("two"), RuntimeError("boom")], can_continue=True)
    other = await start_worker(engine=engine)
    sid = await create(first)
    path, seen, turn = await begun_and_dead(first, redis, sid, 1)
    events = await resumed(other, path, seen[0].id)
    assert [event.name for event in events] == ["message.delta", "error"]
    assert events[-1].id
    assert events[-1].data["code"] == "engine_failed"
    assert len(engine.requests) == 1
    turn.close()


async def test_a_turn_whose_worker_lost_redis_has_not_ended_for_others(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if Redis is reachable again for its last event."""
    gate = asyncio.Event()
    engine = PausedEngine([*speech("one "), gate, *speech("unheard"), None])
    first = await start_worker(engine=engine, lease_s=0.5)
    other = await start_worker(engine=PausedEngine(speech("two"), can_continue=True))
    sid = await create(first)
    async with await open_turn(first, sid) as stream:
        path, events = stream.headers["X-Hermes-Resume"], read_events(stream)
        seen = await anext(events)
        store, append = first.worker.store, first.worker.store.events.append

        async def is_away(lease: Any, said: Any = ()) -> bool:
            if said and said[-1].name == "error":
                return await append(lease, said)
            raise StoreUnavailable

        monkeypatch.setattr(store.events, "append", is_away)
        monkeypatch.setattr(store, "renew", is_away)
        gate.set()
        (error,) = [event async for event in events]
    assert (error.id, error.data["code"]) == ("", "store_unavailable")
    rest = await resumed(other, path, seen.id)
    assert deltas([seen, *rest]) == rest[-1].data["content"] == "one two"


# Heartbeats.


async def silence(store: SessionStore, sid: str, path: str) -> float:
    page = await store.events.of_turn(sid, ANONYMOUS, path.partition("=")[2], None)
    assert page.state == "held"
    return page.silent_s


async def test_a_turn_that_says_nothing_is_heard_of(
    start_worker: StartWorker, redis: Redis, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_lease, "_RENEWAL_S", 0.05)
    worker = await start_worker(engine=PausedEngine([None]))
    sid = await create(worker)
    async with await open_turn(worker, sid) as stream:
        for _ in range(2):
            await redis.pexpire(session_keys(sid)[1], 10_000)  # of 30 s

            async def is_heard_of() -> bool:
                return await silence(store, sid, stream.headers["X-Hermes-Resume"]) < 10

            await until(is_heard_of)


async def test_what_a_turn_says_is_a_sign_of_life_as_well(
    start_worker: StartWorker, redis: Redis, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_lease, "_RENEWAL_S", 3600.0)
    gate, end = asyncio.Event(), asyncio.Event()
    engine = PausedEngine([*speech("a"), gate, *speech("b"), end])
    worker = await start_worker(engine=engine, lease_s=36_000.0)
    sid = await create(worker)
    async with await open_turn(worker, sid) as stream:
        path = stream.headers["X-Hermes-Resume"]
        events = read_events(stream)
        await anext(events)
        await redis.pexpire(session_keys(sid)[1], 1_800_000)
        assert await silence(store, sid, path) > 30_000
        gate.set()
        await anext(events)
        assert await silence(store, sid, path) < 30_000
