"""The invariants of a session under random interleavings, crashes and lost replies."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING

import pytest

from agent_worker.errors import AgentError, LeaseLost, TurnAbandoned, TurnBusy
from agent_worker.sessions import Grant, Replay, SessionStore, new_nonce, session_keys

if TYPE_CHECKING:
    from redis.asyncio import Redis

ME = "user:me"


async def one_turn(store: SessionStore, sid: str, content: str) -> None:
    """Begin (waiting while another runs), answer, commit."""
    while True:
        try:
            grant = await store.begin(sid, ME, content, nonce=new_nonce())
        except TurnBusy:
            await asyncio.sleep(0)
        else:
            break
    assert isinstance(grant, Grant)
    answer = {"role": "assistant", "content": f"answer to {content}"}
    await store.commit(
        grant.lease,
        expected_version=grant.version,
        commit_id=new_nonce(),
        messages=[answer],
        ends_turn=True,
    )


async def test_twenty_turns_at_once_lose_no_message(store: SessionStore) -> None:
    sid = await store.create(ME, {})
    await asyncio.gather(*(one_turn(store, sid, f"m{n}") for n in range(20)))
    view = await store.read(sid, ME)
    asked = [m["content"] for m in view.messages if m["role"] == "user"]
    assert sorted(asked) == sorted(f"m{n}" for n in range(20))
    # Serial: each question is followed by its own answer.
    for question, answer in zip(view.messages[::2], view.messages[1::2], strict=True):
        assert answer["content"] == f"answer to {question['content']}"
    assert (view.step, view.version) == (20, 1 + 2 * 20)


async def test_of_twenty_at_once_without_waiting_exactly_one_gets_the_lease(
    store: SessionStore,
) -> None:
    sid = await store.create(ME, {})
    results = await asyncio.gather(
        *(store.begin(sid, ME, f"m{n}", nonce=new_nonce()) for n in range(20)),
        return_exceptions=True,
    )
    (granted,) = [result for result in results if isinstance(result, Grant)]
    assert sum(isinstance(result, TurnBusy) for result in results) == 19
    assert (await store.read(sid, ME)).messages == granted.history


class ChaoticClient:
    """A worker that pauses, crashes, loses its lease and repeats what it sent."""

    def __init__(self, store: SessionStore, redis: Redis, sid: str, seed: str) -> None:
        self.store, self.redis, self.sid = store, redis, sid
        self.rng = random.Random(seed)
        self.accepted: list[str] = []
        self.fences: list[int] = []
        self.answered: set[str] = set()

    async def run(self, name: str) -> None:
        for number in range(4):
            await self.turn(f"{name}.{number}")

    async def turn(self, content: str) -> None:
        for _ in range(200):
            await self.pause()
            nonce = new_nonce()
            try:
                granted = await self.begin(content, nonce)
            except TurnBusy:
                continue
            except TurnAbandoned:
                return
            if isinstance(granted, Replay):
                assert granted.answer.content == f"answer to {content}"
                return
            if granted.outcome != "RESUME" and content not in self.accepted:
                self.accepted.append(content)
            self.fences.append(granted.lease.fence)
            try:
                if await self.work(content, granted):
                    return
            except LeaseLost:
                pass

    async def begin(self, content: str, nonce: str) -> Grant | Replay:
        arguments = {"nonce": nonce, "idempotency_key": f"key {content}"}
        granted = await self.store.begin(self.sid, ME, content, **arguments)
        if self.rng.random() < 0.2:
            # The reply was lost, and the client library asks again.
            again = await self.repeated(self.store.begin(self.sid, ME, content, **arguments))
            assert again in (None, granted)
        return granted

    async def work(self, content: str, grant: Grant) -> bool:
        """True when the turn is finished."""
        await self.pause()
        if self.rng.random() < 0.2:
            # Paused beyond the lease, or dead: somebody else may go on.
            lease = session_keys(self.sid)[1]
            if await self.redis.get(lease) == grant.lease.value:
                await self.redis.delete(lease)
            if self.rng.random() < 0.5:
                return False
        elif self.rng.random() < 0.1:
            await self.store.release(self.sid, ME, grant.lease.nonce)
            return False
        await self.pause()
        commit = {
            "expected_version": grant.version,
            "commit_id": new_nonce(),
            "messages": [{"role": "assistant", "content": f"answer to {content}"}],
            "ends_turn": True,
        }
        done = await self.store.commit(grant.lease, **commit)
        assert done[0] == grant.version + 1
        self.answered.add(content)
        if self.rng.random() < 0.2:
            assert await self.repeated(self.store.commit(grant.lease, **commit)) in (None, done)
        return True

    async def repeated(self, attempt):
        """What a repetition returns; None when others went on meanwhile."""
        try:
            return await attempt
        except AgentError:
            return None

    async def pause(self) -> None:
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(6))
async def test_the_invariants_hold_under_chaos(
    store: SessionStore, redis: Redis, seed: int
) -> None:
    sid = await store.create(ME, {})
    clients = [ChaoticClient(store, redis, sid, f"{seed}/{n}") for n in range(8)]
    await asyncio.gather(*(client.run(str(n)) for n, client in enumerate(clients)))
    view = await store.read(sid, ME)
    messages = [(m["role"], m["content"]) for m in view.messages]

    accepted = [content for client in clients for content in client.accepted]
    asked = [content for role, content in messages if role == "user"]
    assert sorted(asked) == sorted(accepted), "every accepted message exactly once"

    answered = {content for client in clients for content in client.answered}
    replies = [content for role, content in messages if role == "assistant"]
    assert sorted(replies) == sorted(f"answer to {content}" for content in answered)
    # A serial concatenation of turns: an answer directly follows its question.
    for before, (role, content) in itertools.pairwise(messages):
        if role == "assistant":
            assert before == ("user", content.removeprefix("answer to "))

    fences = [fence for client in clients for fence in client.fences]
    assert len(set(fences)) == len(fences), "no two grants share a fence"
    assert view.step == len(answered)
