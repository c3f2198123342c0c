"""An engine's answer is interrupted: the stream of the client continues."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.errors import EngineCut
from agent_worker.runtime import loop
from agent_worker.tools import Toolbox
from tests.support.agent.engines import FunctionTool
from tests.support.agent.runtime import PausedEngine, asks, create, die, speech, told
from tests.support.agent.takeover import ACCEPTS, Client, open_turn, resume
from tests.support.sse import deltas, read_events

if TYPE_CHECKING:
    from typing import Any

    from aiohttp import ClientSession
    from redis.asyncio import Redis

    from agent_worker.sessions import SessionStore
    from tests.agent_worker.conftest import StartWorker


async def _look(arguments: Any, context: Any) -> str:
    return "seen"


BOX = Toolbox([FunctionTool("look", _look)])


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "jittered", lambda *bounds: 0.0)


@pytest.mark.parametrize("can_continue", [True, False])
async def test_a_stream_whose_engine_is_cut_goes_on(
    http: ClientSession, start_worker: StartWorker, store: SessionStore, can_continue: bool
) -> None:
    """In its second step: the first one is kept."""
    again = speech("see.") if can_continue else speech("We ", "see.")
    engine = PausedEngine(
        [*speech("I look. "), asks("look")],
        [*speech("I "), EngineCut()],
        again,
        can_continue=can_continue,
    )
    worker = await start_worker(engine=engine, toolbox=BOX)
    client = Client(http, [worker.url], await create(worker))
    await client.say("go")
    last = "I see." if can_continue else "We see."
    assert client.check()["content"] == "I look. " + last
    assert (await told(store, client.sid))[-1] == ("assistant", last)
    rewinds = [event.data for event in client.events if event.name == "rewind"]
    step = next(event.id for event in client.events if event.name == "tool.completed")
    assert rewinds == ([] if can_continue else [{"id": step}])


async def test_who_resumes_behind_a_rewind_gets_what_stands(
    http: ClientSession, start_worker: StartWorker, redis: Redis, store: SessionStore
) -> None:
    """The worker dies during the second answer, and the next worker continues that."""
    engine = PausedEngine([*speech("void ", "words"), EngineCut()], [*speech("it "), None])
    first = await start_worker(engine=engine)
    other = await start_worker(engine=PausedEngine(speech("stands"), can_continue=True))
    client = Client(http, [other.url], await create(first))
    turn = await open_turn(first, client.sid, **ACCEPTS)
    client.path = turn.headers["X-Hermes-Resume"]
    stream = read_events(turn)
    client.events = [await anext(stream) for _ in range(4)]
    assert [event.name for event in client.events][2] == "rewind"
    await die(first, redis, client.sid)
    await client.follow(other.url)
    assert client.check()["content"] == "it stands"
    assert await told(store, client.sid) == [("user", "go"), ("assistant", "it stands")]
    turn.close()
    # So does a client that has only the void part.
    async with resume(other, client.path, client.events[0].id) as response:
        rest = [event async for event in read_events(response)]
    assert rest == client.events[1:]


async def test_a_stream_whose_engine_stays_cut_ends_with_its_error(
    start_worker: StartWorker,
) -> None:
    engine = PausedEngine(*[[*speech("a "), EngineCut()]] * 5, can_continue=True)
    worker = await start_worker(engine=engine)
    sid = await create(worker)
    async with await open_turn(worker, sid) as turn:
        events = [event async for event in read_events(turn)]
    assert deltas(events) == "a " * 5
    assert (events[-1].name, events[-1].data["code"]) == ("error", "engine_failed")
