"""What else may happen while a turn awaits its store, its tools or the end of another turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.errors import StoreUnavailable, TurnInterrupted
from agent_worker.runtime import TurnRequest, held_lease
from agent_worker.runtime.journal import Journal
from agent_worker.sessions import Lease, Nothing, Queued
from agent_worker.tasks import cancel_and_wait, spawn
from agent_worker.tools import Effect, Toolbox
from tests.agent_worker.sessions.memory import MemoryBackend
from tests.support.agent.engines import FunctionTool
from tests.support.agent.harness import Harness
from tests.support.agent.runtime import PausedEngine, asks, speech
from tests.support.agent.sessions import ME, open_store, user
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    from agent_worker.sessions import SessionStore
    from agent_worker.tools import ToolContext


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def store(backend: MemoryBackend) -> SessionStore:
    return open_store(backend)


async def enqueue(worker: Harness, sid: str, content: str) -> None:
    async with worker.turns.open(TurnRequest(sid, ME, content, policy="enqueue")) as queued:
        assert queued == Queued(1)


async def contents(store: SessionStore, sid: str) -> list[str]:
    return [message["content"] for message in (await store.read(sid, ME)).messages]


class PausedTool(FunctionTool):
    """Begins, and returns when `gate` is set."""

    def __init__(self, name: str, effect: Effect = Effect.READ) -> None:
        self.begun, self.gate = asyncio.Event(), asyncio.Event()
        super().__init__(name, self._wait, effect)

    async def _wait(self, arguments: dict[str, Any], context: ToolContext) -> str:
        self.begun.set()
        await self.gate.wait()
        return "done"


# Queued messages.


async def test_a_message_queued_while_the_inbox_was_found_empty_gets_its_turn(
    backend: MemoryBackend, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, was_empty, reply_arrives = store.begin, asyncio.Event(), asyncio.Event()

    async def late_reply(*arguments: Any, **options: Any) -> Any:
        reply = await begin(*arguments, **options)
        if isinstance(reply, Nothing) and not was_empty.is_set():
            was_empty.set()
            await reply_arrives.wait()
        return reply

    monkeypatch.setattr(store, "begin", late_reply)
    worker = Harness(backend, store, engine := PausedEngine([*speech("one"), None], speech("two")))
    sid = await store.create(ME, {})
    worker.turns.serve_inbox(sid, ME)
    await was_empty.wait()
    turn = spawn(worker.turn(sid, "first"), name="turn")
    await engine.paused.wait()
    await enqueue(worker, sid, "second")
    engine.gate.set()
    await turn
    reply_arrives.set()
    await until(lambda: len(engine.requests) == 2)
    await until(lambda: not worker.turns._inboxes)


async def test_a_drain_waits_for_all_that_is_queued_behind_its_turns(
    backend: MemoryBackend, store: SessionStore
) -> None:
    later = asyncio.Event()
    engine = PausedEngine([*speech("one"), None], [*speech("two"), later], speech("three"))
    worker = Harness(backend, store, engine)
    sid = await store.create(ME, {})
    turn = spawn(worker.turn(sid, "first"), name="turn")
    await engine.paused.wait()
    await enqueue(worker, sid, "second")
    idle = spawn(worker.turns.wait_idle(), name="drain")
    engine.gate.set()
    await turn
    await until(lambda: len(engine.requests) == 2)
    await enqueue(worker, sid, "third")
    later.set()
    await idle
    assert await contents(store, sid) == ["first", "one", "second", "two", "third", "three"]


async def test_a_client_that_leaves_at_the_end_of_its_turn_takes_no_queued_message_with_it(
    backend: MemoryBackend, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = PausedEngine([*speech("one"), None], speech("two"))
    worker = Harness(backend, store, engine, has_archive=True)
    sid = await store.create(ME, {})
    announced, announces = store.outbox.announce, asyncio.Event()

    async def announce(*session_ids: str) -> None:
        announces.set()
        await turns()
        await announced(*session_ids)

    monkeypatch.setattr(store.outbox, "announce", announce)
    turn = spawn(worker.turn(sid, "first"), name="turn")
    await engine.paused.wait()
    # By a worker that has died since.
    await store.begin(sid, ME, user("second"), nonce="dead.nonce", policy="enqueue")
    engine.gate.set()
    await announces.wait()
    await cancel_and_wait(turn)
    await until(lambda: len(engine.requests) == 2)
    await worker.turns.wait_idle()
    assert worker.active() == 0


# The end of a turn.


async def test_a_turn_stopped_before_its_last_commit_is_stored_says_nothing_of_being_done(
    backend: MemoryBackend, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, failed = store.commit, asyncio.Event()

    async def fail_at_the_end(lease: Lease, *arguments: Any, **options: Any) -> Any:
        failed.set()
        raise StoreUnavailable

    monkeypatch.setattr(held_lease, "_STORE_RETRY_S", store.lease_s / 2)
    worker = Harness(backend, store, PausedEngine(speech("one")))
    sid = await store.create(ME, {})
    monkeypatch.setattr(store, "commit", fail_at_the_end)
    turn = spawn(worker.turn(sid, "first"), name="turn")
    await failed.wait()
    monkeypatch.setattr(store, "commit", commit)
    [running] = worker.turns._running.values()
    running.stop()
    with pytest.raises(TurnInterrupted):
        await turn
    log = await store.events.page(sid, ME, "0-0")
    assert [event.name for event in log.events] == ["message.delta", "error"]
    assert [event.name for event in worker.events] == ["message.delta", "error"]


async def test_a_turn_that_finishes_a_call_before_it_ends_is_no_dead_one(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(backend, lease_s=0.3)
    mail = PausedTool("mail", Effect.ONCE)
    worker = Harness(backend, store, PausedEngine([asks("mail")]), Toolbox([mail]))
    sid = await store.create(ME, {})
    renew, renewed = store.renew, asyncio.Event()

    async def watched(lease: Lease) -> bool:
        renewed.set()
        return await renew(lease)

    turn = spawn(worker.turn(sid, "first"), name="turn")
    await mail.begun.wait()
    [running] = worker.turns._running.values()
    running.stop()
    await turns()
    monkeypatch.setattr(store, "renew", watched)
    await renewed.wait()
    mail.gate.set()
    with pytest.raises(TurnInterrupted):
        await turn


async def test_a_turn_that_has_to_stay_after_all_is_not_handed_over(
    backend: MemoryBackend, store: SessionStore
) -> None:
    look = PausedTool("look")
    engine = PausedEngine([asks("look")], [*speech("seen"), None], can_continue=True)
    worker = Harness(backend, store, engine, Toolbox([look]))
    sid = await store.create(ME, {})
    turn = spawn(worker.turn(sid, "first", accepts_handover=True), name="turn")
    await look.begun.wait()
    [running] = worker.turns._running.values()
    running.hand_over()
    await turns()
    running.keep_here()
    look.gate.set()
    await engine.paused.wait()
    await turns()
    engine.gate.set()
    assert (await turn).content == "seen"


async def test_a_journal_is_given_up_once(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(lease: Lease) -> bool:
        await turns()
        raise StoreUnavailable

    monkeypatch.setattr(store, "renew", fail)
    journal = Journal(store, lease := Lease("s" * 16, ME, 1, "nonce"))
    given_up: list[Journal] = []
    journal.on_lost = lambda: given_up.append(journal)
    await asyncio.gather(journal.renew(lease), journal.renew(lease))
    assert given_up == [journal]
