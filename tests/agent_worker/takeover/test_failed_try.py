"""A turn that failed and was retried by its client: a follower gets its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.agent.engines import PlannedEngine
from tests.support.agent.runtime import PausedEngine, create, die, speech, told
from tests.support.agent.takeover import open_turn, resume
from tests.support.sse import all_events, deltas, read_events

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from agent_worker.sessions import SessionStore
    from tests.agent_worker.conftest import StartWorker

KEY = {"Idempotency-Key": "k"}


async def test_the_error_of_a_failed_try_does_not_end_the_next_one(
    start_worker: StartWorker, redis: Redis, store: SessionStore
) -> None:
    """The worker of the second attempt dies before its first word."""
    engine = PausedEngine([RuntimeError("boom")], [None])
    first = await start_worker(engine=engine)
    other = await start_worker(engine=PlannedEngine(speech("here")))
    sid = await create(first)
    async with await open_turn(first, sid, **KEY) as failed:
        (error,) = await all_events(failed)
    assert (error.name, error.data["code"]) == ("error", "engine_failed")
    again = await open_turn(first, sid, **KEY)
    path = again.headers["X-Hermes-Resume"]
    assert path == failed.headers["X-Hermes-Resume"]
    await engine.paused.wait()
    await die(first, redis, sid)
    async with resume(other, path) as response:
        events = await all_events(response)
    assert [event.name for event in events] == ["message.delta", "done"]
    assert await told(store, sid) == [("user", "go"), ("assistant", "here")]
    again.close()
    # The same afterwards.
    for after, rest in (("", events), (error.id, events), (events[0].id, events[1:])):
        async with resume(other, path, after) as response:
            assert await all_events(response) == rest


async def test_who_follows_gets_the_error_of_the_last_try(start_worker: StartWorker) -> None:
    engine = PausedEngine([RuntimeError("one")], [*speech("so far"), None, RuntimeError("two")])
    first = await start_worker(engine=engine)
    other = await start_worker(engine=PlannedEngine())
    sid = await create(first)
    async with await open_turn(first, sid, **KEY) as failed:
        (old,) = await all_events(failed)
    async with await open_turn(first, sid, **KEY) as again:
        stream = read_events(again)
        seen = await anext(stream)
        async with resume(other, again.headers["X-Hermes-Resume"]) as response:
            engine.gate.set()
            events = await all_events(response)
        rest = [event async for event in stream]
    assert events == [seen, *rest]
    assert deltas(events) == "so far"
    assert (events[-1].name, events[-1].data["code"]) == ("error", "engine_failed")
    assert events[-1].id != old.id
