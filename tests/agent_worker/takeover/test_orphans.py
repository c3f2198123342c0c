"""Orphaned turns, without a follower: other workers find and finish them."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.runtime import admission, holders, orphans
from agent_worker.sessions import Part, SessionStore, new_nonce, session_keys
from agent_worker.sessions.turn_index import INDEX
from agent_worker.tasks import cancel_and_wait, spawn
from tests.agent_worker.takeover.staged_worker import FIRST, LAST
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
    user,
)
from tests.support.agent.takeover import Process, new_session, open_turn, resume
from tests.support.sse import all_events, deltas, read_events
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import ClientSession
    from redis.asyncio import Redis

    from agent_worker.redis_server import RedisServer
    from tests.agent_worker.conftest import StartWorker
    from tests.support.agent.running_worker import RunningWorker

STAGED = "tests.agent_worker.takeover.staged_worker"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast heartbeats, whose absence is detected early."""
    monkeypatch.setattr(orphans, "_BEAT_S", 0.02)
    monkeypatch.setattr(orphans, "_STALE_S", 0.5)
    monkeypatch.setattr(orphans, "SILENT_S", 0.2)


async def orphan(redis: Redis, worker: RunningWorker, engine: PausedEngine, **headers: str) -> str:
    """A session whose turn has lost this worker."""
    sid = await create(worker)
    turn = spawn(post(worker, sid, "go", **headers), name="turn")
    turn.add_done_callback(lambda task: task.cancelled() or task.exception())
    await engine.paused.wait()

    async def is_logged() -> bool:
        return await redis.xlen(session_keys(sid)[4]) > 0

    await until(is_logged)
    await die(worker, redis, sid)
    return sid


def is_idle(store: SessionStore, sid: str) -> Any:
    async def ask() -> bool:
        return await status(store, sid) == "idle"

    return ask


async def entries(redis: Redis) -> set[str]:
    return {entry.partition(" ")[0] for entry in await redis.zrange(INDEX, 0, -1)}


def recorded_beats(worker: RunningWorker) -> list[int]:
    """The number of entries that each later heartbeat of this worker may claim."""
    beats: list[int] = []
    index = worker.worker.store.index
    beat = index.beat

    async def recorded(*, stale_s: float, most: int) -> list[str]:
        beats.append(most)
        return await beat(stale_s=stale_s, most=most)

    index.beat = recorded  # type: ignore[method-assign]
    return beats


# Found turns.


async def test_a_turn_that_nobody_asks_for_is_finished(
    start_worker: StartWorker, redis: Redis, store: SessionStore, quick: None
) -> None:
    dying = PausedEngine([*speech("one "), None])
    sid = await orphan(redis, await start_worker(engine=dying), dying)
    other = await start_worker(engine=PausedEngine(speech("two"), can_continue=True))
    await until(is_idle(store, sid))
    assert await told(store, sid) == [("user", "go"), ("assistant", "one two")]

    async def is_forgotten() -> bool:
        return sid not in await entries(redis)

    # Both entries: of the worker that died, and of the one that continued.
    await until(is_forgotten)
    await until(lambda: not len(other.worker.orphans))


async def test_many_are_spread_over_the_workers_and_each_is_finished_once(
    start_worker: StartWorker,
    redis: Redis,
    store: SessionStore,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each heartbeat claims two, and each worker has room for three that hang."""
    monkeypatch.setattr(orphans, "_MAX_CLAIMED", 2)
    monkeypatch.setattr(orphans, "_MAX_ADOPTED", 3)
    sids = []
    for _ in range(7):
        dying = PausedEngine([*speech("one "), None])
        sids.append(await orphan(redis, await start_worker(engine=dying), dying))
    engines = [
        PausedEngine(*[[None, *speech("two")] for _ in sids], can_continue=True) for _ in range(2)
    ]
    workers = [await start_worker(engine=engine) for engine in engines]
    await until(lambda: [len(worker.worker.orphans) for worker in workers] == [3, 3])
    for engine in engines:
        engine.gate.set()
    for sid in sids:
        await until(is_idle(store, sid))
        assert await told(store, sid) == [("user", "go"), ("assistant", "one two")]
    assert sum(len(engine.requests) for engine in engines) == len(sids)


async def test_a_worker_that_leaves_adopts_nothing(
    start_worker: StartWorker, redis: Redis, store: SessionStore, quick: None
) -> None:
    dying = PausedEngine([*speech("one "), None])
    sid = await orphan(redis, await start_worker(engine=dying), dying)
    leaving = await start_worker(engine=PlannedEngine())
    beats = recorded_beats(leaving)
    await leaving.worker.drain()
    # Long enough to claim stale entries.
    await until(lambda: len(beats) > 50)
    assert set(beats) == {0}
    other = await start_worker(engine=PausedEngine(speech("two"), can_continue=True))
    await until(is_idle(store, sid))
    assert len(leaving.worker.orphans) == 0
    assert len(other.worker.engine.requests) == 1  # type: ignore[attr-defined]


async def test_a_living_turn_and_one_that_was_given_back_are_left_alone(
    start_worker: StartWorker, store: SessionStore, quick: None
) -> None:
    """A client that left has cancelled its turn: it is not an orphan."""
    engine = GatedEngine()
    first = await start_worker(engine=engine)
    living, left = await create(first), await create(first)
    stream = await open_turn(first, living)
    async with await open_turn(first, left) as turn:
        await anext(read_events(turn))
    await engine.closed.wait()
    other = await start_worker(engine=PlannedEngine())
    beats = other.worker.store.index

    async def has_watched() -> bool:
        return beats.steady_s > 0 and await status(store, left) == "interrupted"

    await until(has_watched)
    await asyncio.sleep(1.0)  # twice the time until an entry is stale
    assert len(other.worker.orphans) == 0
    assert [await status(store, sid) for sid in (living, left)] == ["running", "interrupted"]
    engine.gate.set()
    assert deltas(await all_events(stream)) == "one two"


async def test_a_worker_that_is_asked_to_end_leaves_its_turns_to_others(
    start_worker: StartWorker, store: SessionStore, quick: None
) -> None:
    """Also that of a client that cannot resume elsewhere: the drain timeout is over."""
    first = await start_worker(engine=(engine := PausedEngine([*speech("one "), None])))
    sid = await create(first)
    turn = spawn(post(first, sid, "go", Idempotency_Key="k"), name="turn")
    turn.add_done_callback(lambda task: task.cancelled() or task.exception())
    await engine.paused.wait()
    await first.worker.drain()
    await first.worker.turns.cancel_all()
    assert await status(store, sid) == "interrupted"
    other = await start_worker(engine=PausedEngine(speech("uno")))
    await until(is_idle(store, sid))
    assert await told(store, sid) == [("user", "go"), ("assistant", "uno")]
    reply = await post(other, sid, "go", Idempotency_Key="k")
    assert reply.headers["Idempotency-Replayed"] == "true"


async def test_what_waits_for_a_dead_turn_is_served(
    start_worker: StartWorker, redis: Redis, store: SessionStore, quick: None
) -> None:
    """The worker that has queued it is dead as well."""
    dying = PausedEngine([*speech("one "), None])
    first = await start_worker(engine=dying)
    sid = await create(first)
    stream = await open_turn(first, sid)
    await anext(read_events(stream))
    assert (await post(first, sid, "later", "enqueue")).status == 202
    await die(first, redis, sid)
    await start_worker(engine=PausedEngine(speech("two"), speech("three"), can_continue=True))

    async def is_all_told() -> bool:
        return len(await told(store, sid)) == 4

    await until(is_all_told)
    messages = [("user", "go"), ("assistant", "one two"), ("user", "later"), ("assistant", "three")]
    assert await told(store, sid) == messages
    stream.close()


async def test_what_waits_behind_a_turn_that_ended_is_served(
    start_worker: StartWorker, store: SessionStore, quick: None
) -> None:
    """Its worker died between the end of one turn and the begin of the next."""
    sid = await store.create(ANONYMOUS, {})
    nonce = f"dead.{new_nonce()}"
    await store.index.enter(sid, nonce)
    grant: Any = await store.begin(sid, ANONYMOUS, user("go"), nonce=nonce)
    await store.begin(sid, ANONYMOUS, user("later"), nonce=new_nonce(), policy="enqueue")
    await store.commit(
        grant.lease,
        Part([{"role": "assistant", "content": "one"}], ends_turn=True),
        expected_version=grant.version,
        commit_id="c",
    )
    await start_worker(engine=PlannedEngine(speech("two")))

    async def is_all_told() -> bool:
        return len(await told(store, sid)) == 4

    await until(is_all_told)


async def test_after_an_interruption_nobody_is_taken_for_dead_at_once(
    start_worker: StartWorker, redis: Redis, store: SessionStore, quick: None
) -> None:
    """All heartbeats are as late as Redis was."""
    worker = await start_worker(engine=PlannedEngine())
    index = worker.worker.store.index
    wake_up = cut_off(worker)
    await until(lambda: index.steady_s < 0.1)
    await redis.zadd(INDEX, {"s" * 32 + " dead.nonce": 1})
    wake_up()
    woke_at = asyncio.get_running_loop().time()

    async def is_claimed() -> bool:
        return "s" * 32 not in await entries(redis)

    beats = recorded_beats(worker)
    await until(is_claimed)
    assert asyncio.get_running_loop().time() - woke_at >= orphans._STALE_S
    assert set(beats[: beats.index(8)]) == {0}


async def test_an_attempt_is_in_the_index_before_it_begins(
    start_worker: StartWorker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a worker that dies after `begin` would leave a turn that is not found."""
    worker = await start_worker(engine=PlannedEngine(speech("one")))
    sid = await create(worker)
    begin = worker.worker.store.begin
    seen: list[set[str]] = []

    async def watched(*args: Any, **options: Any) -> Any:
        seen.append(await entries(redis))
        return await begin(*args, **options)

    monkeypatch.setattr(worker.worker.store, "begin", watched)
    assert (await post(worker, sid, "go")).status == 200
    assert [sid in found for found in seen] == [True]


# A turn that kills its workers.


@pytest.mark.slow
async def test_a_turn_that_kills_its_workers_is_given_up(
    start_worker: StartWorker, redis: Redis, store: SessionStore, quick: None
) -> None:
    """Each worker says the same word, and dies."""
    dying = PausedEngine([*speech("one "), None])
    first = await start_worker(engine=dying)
    sid = await create(first)
    stream = await open_turn(first, sid, **{"Idempotency-Key": "k"})
    path, seen = stream.headers["X-Hermes-Resume"], await anext(read_events(stream))
    await die(first, redis, sid)
    for number in range(5):
        engine = PausedEngine([*speech("one "), None])
        worker = await start_worker(engine=engine)
        await until(lambda w=worker: len(w.worker.orphans))
        await engine.paused.wait()

        async def has_said(count: int = 2 * number + 3) -> bool:
            return await redis.xlen(session_keys(sid)[4]) == count

        await until(has_said)
        await die(worker, redis, sid)
    last = await start_worker(engine=PlannedEngine())

    async def is_over() -> bool:
        return bool((await store.index.look(sid)).state == "over")

    await until(is_over)
    async with resume(last, path, seen.id) as response:
        events = await all_events(response)
    assert (events[-1].name, events[-1].data["code"]) == ("error", "turn_given_up")
    assert events[-1].id
    reply = await post(last, sid, "go", Idempotency_Key="k")
    assert (reply.status, reply.error) == (500, "turn_given_up")
    # The conversation itself continues.
    last.worker.engine.steps.append(speech("fine"))  # type: ignore[attr-defined]
    assert (await post(last, sid, "something else")).status == 200
    stream.close()


# Retries with the key.


async def test_the_retry_of_a_key_takes_over_what_is_silent(
    start_worker: StartWorker, redis: Redis, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the bound of silence, with its first request; the lease has half a minute left."""
    monkeypatch.setattr(orphans, "_STALE_S", 3600.0)
    monkeypatch.setattr(holders, "SILENT_S", 1.5)
    first = await start_worker(engine=PausedEngine([*speech("one "), None]))
    other = await start_worker(engine=PausedEngine(speech("two"), can_continue=True))
    sid = await create(first)
    stream = await open_turn(first, sid, **{"Idempotency-Key": "k"})
    await anext(read_events(stream))
    cut_off(first)
    reply = await post(other, sid, "go", Idempotency_Key="k")
    assert (reply.status, reply.body["content"]) == (200, "one two")
    assert await told(store, sid) == [("user", "go"), ("assistant", "one two")]
    stream.close()


async def test_the_retry_of_a_key_takes_over_from_a_process_that_has_died(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither silence alone nor the end of the lease would do here."""
    monkeypatch.setattr(orphans, "_STALE_S", 3600.0)
    monkeypatch.setattr(holders, "SILENT_S", 3600.0)
    first = await start_worker(lease_s=3600.0, engine=PausedEngine([*speech("one "), None]))
    other = await start_worker(engine=PausedEngine(speech("two"), can_continue=True))
    sid = await create(first)
    stream = await open_turn(first, sid, **{"Idempotency-Key": "k"})
    await anext(read_events(stream))
    cut_off(first)
    await cancel_and_wait(*first.worker._background)
    await first.worker.notifier.close()
    reply = await post(other, sid, "go", Idempotency_Key="k")
    assert (reply.status, reply.body["content"]) == (200, "one two")
    stream.close()


async def test_the_retry_of_a_key_whose_turn_lives_is_refused(start_worker: StartWorker) -> None:
    """As soon as its holder sends a heartbeat."""
    first = await start_worker(engine=(engine := PausedEngine([None, *speech("one")])))
    other = await start_worker(engine=PlannedEngine())
    sid = await create(first)
    turn = spawn(post(first, sid, "go", Idempotency_Key="k"), name="turn")
    await engine.paused.wait()
    reply = await post(other, sid, "go", Idempotency_Key="k")
    assert (reply.status, reply.error) == (409, "turn_in_progress")
    engine.gate.set()
    assert (await turn).status == 200


async def test_the_retry_of_a_key_whose_turn_ends_meanwhile_gets_its_answer(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_HEARTBEAT_LOOK_S", 60.0)
    monkeypatch.setattr(holders, "SILENT_S", 60.0)
    first = await start_worker(engine=(engine := PausedEngine([None])))
    other = await start_worker(engine=PlannedEngine())
    sid = await create(first)
    turn = spawn(post(first, sid, "go", Idempotency_Key="k"), name="turn")
    await engine.paused.wait()
    again = spawn(post(other, sid, "go", Idempotency_Key="k"), name="again")
    await until(lambda: other.worker.notifier._wakeups)
    engine.gate.set()
    reply = await again
    assert (reply.status, reply.headers["Idempotency-Replayed"]) == (200, "true")
    assert reply.body == (await turn).body


async def test_a_message_takes_the_place_of_a_silent_turn(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead worker does not get the notification."""
    monkeypatch.setattr(holders, "SILENT_S", 0.5)
    monkeypatch.setattr(admission, "_LOOK_S", 0.1)
    first = await start_worker(engine=(engine := PausedEngine([*speech("one "), None])))
    other = await start_worker(engine=PlannedEngine(speech("two")))
    sid = await create(first)
    stream = await open_turn(first, sid)
    await engine.paused.wait()
    cut_off(first)
    await first.worker.notifier.close()
    reply = await post(other, sid, "stop that", "interrupt")
    assert (reply.status, reply.body["content"]) == (200, "two")
    stream.close()


# Real workers.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "moment", "result"),
    [
        ("killed", "in-tool", "unknown: it may have been done, and is not repeated"),
        ("stopped", "amid-last", "seen"),
    ],
    ids=["killed", "stopped"],
)
async def test_a_turn_of_a_lost_process_is_finished_without_its_client(
    redis_server: RedisServer,
    http: ClientSession,
    store: SessionStore,
    redis: Redis,
    tmp_path: Path,
    how: str,
    moment: str,
    result: str,
) -> None:
    """Its `once` tool runs once. A worker that was only stopped resumes, and changes nothing."""
    await redis.delete(INDEX)
    runs = tmp_path / "runs"
    options = (str(runs), "once", "continues")
    async with (
        Process(redis_server.url, moment, *options, module=STAGED) as one,
        Process(redis_server.url, "none", *options, module=STAGED),
    ):
        sid = await new_session(http, one.url)
        url = f"{one.url}/api/agent/sessions/{sid}/messages"
        turn = spawn(http.post(url, json={"content": "go"}), name="turn")  # type: ignore[arg-type]
        turn.add_done_callback(lambda task: task.cancelled() or task.exception())
        assert await one.line() == "standing still"
        if how == "killed":
            await one.kill()
        else:
            one.send(signal.SIGSTOP)
        await until(is_idle(store, sid))
        messages = await told(store, sid)
        held = await redis.xrange(session_keys(sid)[4])
        if how == "stopped":
            one.send(signal.SIGCONT)
            async with await turn as response:
                assert (await response.json())["error"]["code"] == "lease_lost"
        assert await told(store, sid) == messages
        assert await redis.xrange(session_keys(sid)[4]) == held
    text = "".join(FIRST + LAST)
    assert "".join(content for role, content in messages if role == "assistant") == text
    assert [content for role, content in messages if role == "tool"] == [result]
    assert len(runs.read_text().splitlines()) == 1


async def test_the_entry_of_a_chat_without_a_session_is_dropped(
    start_worker: StartWorker, redis: Redis, quick: None
) -> None:
    """Its journal is not a session, and only its client continues it."""
    worker = await start_worker(engine=PlannedEngine())
    chats = worker.worker.chat_turns._store
    sid = await chats.create(ANONYMOUS, {})
    grant: Any = await chats.begin(sid, ANONYMOUS, user("go"), nonce="dead.1")
    assert chats.index is worker.worker.store.index
    await redis.zadd(INDEX, {f"{sid} dead.1": 1})

    async def is_dropped() -> bool:
        return sid not in await entries(redis)

    await until(is_dropped)
    assert (await chats.read(sid, ANONYMOUS)).messages == grant.history
    assert len(worker.worker.orphans) == 0
