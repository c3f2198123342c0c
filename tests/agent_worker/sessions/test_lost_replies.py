"""Lost replies: a repeated operation has no second effect, and returns the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.errors import LeaseLost, SessionNotFound
from agent_worker.sessions import (
    Grant,
    Queued,
    RedisBackend,
    SessionStore,
    new_nonce,
    new_session_id,
    session_keys,
)
from agent_worker.sessions.scripts import load_scripts
from tests.support.agent.sessions import (
    HELLO,
    HI,
    ME,
    YOU,
    assistant,
    begin,
    busy_session,
    commit,
    delta,
    finish,
    key_of,
    lose_lease,
    result,
    take_waiting,
    unchanged,
    user,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from redis.asyncio import Redis

    from agent_worker.sessions.scripts import Script
    from tests.support.agent.sessions import Backend

    Operation = Callable[[SessionStore, str, Grant], Awaitable[object]]


async def _begin(
    store: SessionStore, sid: str, grant: Grant, content: str = "next", **options: Any
) -> object:
    """A new turn, after a release of the running one, which is repeated as well."""
    await store.release(sid, ME, grant.lease.nonce)
    return await store.begin(sid, ME, user(content), nonce="again", **options)


async def _take_over(store: SessionStore, sid: str, grant: Grant) -> object:
    turn = str(grant.lease.fence)
    return await store.take_over(sid, ME, turn, nonce="again", silent_s=0)


OPERATIONS: dict[str, Operation] = {
    "begin": _begin,
    "begin with a key": lambda store, sid, grant: _begin(store, sid, grant, idempotency_key="n"),
    "resume": lambda store, sid, grant: _begin(store, sid, grant, "hello", idempotency_key="k"),
    "begin with what waits": lambda store, sid, grant: _begin(store, sid, grant, policy="enqueue"),
    "enqueue": lambda store, sid, grant: store.begin(
        sid, ME, user("too"), nonce="again", policy="enqueue"
    ),
    "enqueue with a key": lambda store, sid, grant: store.begin(
        sid, ME, user("too"), nonce="again", policy="enqueue", idempotency_key="n"
    ),
    "commit": lambda store, sid, grant: commit(
        store,
        grant,
        result("mail", "sent"),
        expected_version=3,
        commit_id="again",
        events=[delta(grant, 2, "!")],
        settled=["1.0"],
        notes={"colour": "blue"},
    ),
    "end": lambda store, sid, grant: finish(
        store, grant, HI, expected_version=3, commit_id="again", events=[delta(grant, 2, "!")]
    ),
    "renew": lambda store, sid, grant: store.renew(grant.lease),
    "take over": lambda store, sid, grant: _take_over(store, sid, grant),
    "hand over": lambda store, sid, grant: store.hand_over(grant.lease, kept_s=5),
    "release": lambda store, sid, grant: store.release(sid, ME, grant.lease.nonce),
    "interrupt": lambda store, sid, grant: _is_asked(store, sid),
    "append": lambda store, sid, grant: store.events.append(
        grant.lease, [delta(grant, 2, "!"), delta(grant, 3, "!")]
    ),
    "tool_begin": lambda store, sid, grant: store.tools.begin(
        grant.lease, "1.1", "once", "hash", "again"
    ),
    "tool_begin by another": lambda store, sid, grant: store.tools.begin(
        grant.lease, "1.0", "once", "hash", "again"
    ),
    "tool_end": lambda store, sid, grant: store.tools.end(
        grant.lease, "1.0", "attempt", result("mail", "sent")
    ),
    "not_run": lambda store, sid, grant: store.tools.not_run(grant.lease, "1.0", "attempt"),
    "read": lambda store, sid, grant: store.read(sid, ME),
    "events": lambda store, sid, grant: store.events.page(sid, ME, None),
    "orphan": lambda store, sid, grant: store.index.look(sid),
    "archived": lambda store, sid, grant: store.outbox.archived(sid, 1, fence=grant.lease.fence),
}


async def _is_asked(store: SessionStore, sid: str) -> bool:
    return await store.interrupt(sid, ME) is not None


@pytest.mark.parametrize("name", OPERATIONS)
async def test_an_operation_again_has_no_second_effect(
    store: SessionStore, backend: Backend, name: str
) -> None:
    sid, grant = await busy_session(store)
    first = await OPERATIONS[name](store, sid, grant)
    async with unchanged(backend, sid):
        assert await OPERATIONS[name](store, sid, grant) == first


class LosesReplies:
    """Runs every script twice, like a client whose first reply was lost."""

    def __init__(self, client: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self._run = client.run
        monkeypatch.setattr(client, "run", self.run)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[object]) -> object:
        self.ran.append(script.name)
        await self._run(script, keys, args)
        return await self._run(script, keys, args)


async def test_a_session_of_lost_replies_is_as_any_other(
    store: SessionStore, redis: Redis, client: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    lossy = LosesReplies(client, monkeypatch)
    sid, grant = await busy_session(store)
    await store.renew(grant.lease)
    await store.interrupt(sid, ME)
    await store.tools.end(grant.lease, "1.0", "attempt", result("mail", "sent"))
    version, _, _ = await commit(
        store, grant, result("mail", "sent"), expected_version=3, settled=["1.0"]
    )
    assert (await finish(store, grant, expected_version=version))[2] == 1
    following = await begin(store, sid, "next")
    turn = str(following.lease.fence)
    await store.hand_over(following.lease, kept_s=5)
    taken = await store.take_over(sid, ME, turn, nonce=new_nonce(), silent_s=3600)
    assert isinstance(taken, Grant)
    assert (await store.events.of_turn(sid, ME, turn, None)).state == "held"
    assert await store.release(sid, ME, taken.lease.nonce) == 0
    view = await store.read(sid, ME)
    assert view.messages == [
        HELLO,
        assistant("I shall", "mail"),
        result("mail", "sent"),
        HI,
        user("later"),
        user("next"),
    ]
    assert (view.version, view.waiting) == (9, 0)
    assert [event.id for event in (await store.events.page(sid, ME, None)).events] == []
    assert await redis.xlen(key_of(sid, "ev")) == 1
    found = await store.outbox.read(sid)
    assert await store.outbox.archived(sid, 6, fence=found.fence) == 0
    await store.index.enter(sid, "worker.nonce")
    assert (await store.index.look(sid)).state == "over"
    await store.check(sid, ME)
    await store.delete(sid, ME)
    assert {*lossy.ran, "append", "tool_begin"} == set(load_scripts())


# Late repetitions.


async def test_a_begin_whose_turn_is_over_does_not_begin_another(
    store: SessionStore, backend: Backend
) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid, nonce="again")
    await lose_lease(backend, sid)
    async with unchanged(backend, sid):
        with pytest.raises(LeaseLost):
            await begin(store, sid, nonce="again")
    sid = await store.create(ME, {})
    grant = await begin(store, sid, nonce="again")
    await finish(store, grant)
    async with unchanged(backend, sid):
        with pytest.raises(LeaseLost):
            await begin(store, sid, nonce="again")


async def test_a_begin_behind_other_turns_does_not_begin_another(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    await finish(store, await begin(store, sid, nonce="worker.again"))
    for content in ("one", "two"):
        await finish(store, await begin(store, sid, content))
        async with unchanged(backend, sid):
            with pytest.raises(LeaseLost):
                await begin(store, sid, nonce="worker.again")


async def test_the_last_commit_again_gives_what_it_gave_though_the_next_turn_runs(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    grant = await begin(store, sid)
    last = await finish(store, grant, commit_id="again")
    await begin(store, sid, "next")
    async with unchanged(backend, sid):
        assert await finish(store, grant, commit_id="again") == last


@pytest.mark.parametrize("turns", [1, 10])
async def test_the_last_commit_again_gives_what_it_gave_though_others_have_committed_since(
    store: SessionStore, backend: Backend, turns: int, sid: str
) -> None:
    grant = await begin(store, sid)
    # One id is the beginning of another.
    first = await commit(store, grant, HI, commit_id="again-")
    last = await finish(store, grant, commit_id="again", expected_version=first[0])
    for content in range(turns):
        await finish(store, await begin(store, sid, f"{content}"))
    async with unchanged(backend, sid):
        assert await finish(store, grant, commit_id="again", expected_version=first[0]) == last
        assert await commit(store, grant, HI, commit_id="again-") == first


async def test_no_more_commits_are_remembered_than_anybody_repeats(
    store: SessionStore, redis: Redis, sid: str
) -> None:
    grant = await begin(store, sid)
    version = grant.version
    for number in range(40):
        version, _, _ = await commit(
            store, grant, HI, commit_id=f"c{number}", expected_version=version
        )
    kept = (await redis.hget(key_of(sid, "meta"), "commits")).split()
    assert [each.split("|")[0] for each in kept] == [f"c{n}" for n in reversed(range(8, 40))]
    with pytest.raises(LeaseLost):
        await commit(store, grant, HI, commit_id="c7", expected_version=version - 1)


async def test_a_release_again_does_not_free_what_others_hold(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    grant = await begin(store, sid)
    await store.release(sid, ME, grant.lease.nonce)
    heir = await begin(store, sid, "next")
    async with unchanged(backend, sid):
        assert await store.release(sid, ME, grant.lease.nonce) is None
    await finish(store, heir)
    assert await store.release(sid, ME, grant.lease.nonce) is None


# Create and delete name no attempt: the store makes one for each.


async def run_raw(
    client: RedisBackend, name: str, sid: str, principal: str, *args: str | int
) -> Sequence[str]:
    day = 24 * 3600 * 1000
    common = [principal, sid, day, day]
    reply: Sequence[str] = await client.run(
        load_scripts()[name], session_keys(sid), [*common, *args]
    )
    return reply


async def test_create_again_makes_the_same_session(client: RedisBackend, redis: Redis) -> None:
    sid = new_session_id()
    assert await run_raw(client, "create", sid, ME, "nonce", "{}") == ["OK"]
    async with unchanged(redis, sid):
        assert await run_raw(client, "create", sid, ME, "nonce", "{}") == ["OK"]


@pytest.mark.parametrize(("principal", "nonce"), [(ME, "another"), (YOU, "nonce")])
async def test_create_does_not_take_a_session_that_is_there(
    client: RedisBackend, redis: Redis, principal: str, nonce: str
) -> None:
    sid = new_session_id()
    await run_raw(client, "create", sid, ME, "nonce", "{}")
    async with unchanged(redis, sid):
        assert await run_raw(client, "create", sid, principal, nonce, "{}") == ["EXISTS"]


async def test_create_again_does_not_bring_back_what_was_deleted(
    store: SessionStore, client: RedisBackend, redis: Redis
) -> None:
    sid = new_session_id()
    await run_raw(client, "create", sid, ME, "nonce", "{}")
    await store.delete(sid, ME)
    async with unchanged(redis, sid):
        assert await run_raw(client, "create", sid, ME, "nonce", "{}") == ["EXISTS"]


async def test_delete_again_is_known_as_such(
    store: SessionStore, client: RedisBackend, redis: Redis
) -> None:
    sid, _ = await busy_session(store)
    assert await run_raw(client, "delete", sid, ME, "nonce", 3_600_000) == ["OK"]
    async with unchanged(redis, sid):
        assert await run_raw(client, "delete", sid, ME, "nonce", 3_600_000) == ["OK"]
        assert await run_raw(client, "delete", sid, ME, "another", 3_600_000) == ["GONE"]
        assert await run_raw(client, "delete", sid, YOU, "nonce", 3_600_000) == ["FORBIDDEN"]
    with pytest.raises(SessionNotFound):
        await store.delete(sid, ME)


async def test_a_message_that_was_queued_is_known_again_when_its_turn_runs(
    store: SessionStore, sid: str
) -> None:
    """The reply was lost, and the turn that ran has ended meanwhile."""
    grant = await begin(store, sid)
    enqueue = {"nonce": "w.again", "policy": "enqueue"}
    assert await store.begin(sid, ME, user("too"), **enqueue) == Queued(1)  # type: ignore[arg-type]
    await commit(store, grant, HI, ends_turn=True)
    await take_waiting(store, sid)
    assert await store.begin(sid, ME, user("too"), **enqueue) == Queued(0)  # type: ignore[arg-type]
    assert [m["content"] for m in (await store.read(sid, ME)).messages] == ["hello", "hi", "too"]
