"""The tool ledger: whether a call may run, also after its worker has died."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.errors import LeaseLost
from agent_worker.sessions import Grant, SessionStore, ToolStart
from tests.support.agent.sessions import (
    HELLO,
    HI,
    ME,
    assistant,
    begin,
    commit,
    expiries,
    finish,
    key_of,
    lose_lease,
    result,
    unchanged,
    user,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from tests.support.agent.sessions import Backend

RUN, UNKNOWN = ToolStart("RUN"), ToolStart("UNKNOWN")
CALL = "1.0"
EFFECTS = ("read", "idempotent", "once")
SENT = result("mail", "sent")
IT_MAY_HAVE_BEEN_DONE = "unknown: interrupted; it may have been done, and is not repeated"


async def asking(store: SessionStore, *calls: str) -> Grant:
    """A turn whose first step, which is committed, asked for these tools."""
    sid = await store.create(ME, {})
    grant = await begin(store, sid, idempotency_key="k")
    await commit(store, grant, assistant("", *calls))
    return grant


async def may_run(
    store: SessionStore, grant: Grant, effect: str, attempt: str = "first", digest: str = "hash"
) -> ToolStart:
    return await store.tools.begin(grant.lease, CALL, effect, digest, attempt)


async def resumed(store: SessionStore, backend: Backend, dead: Grant) -> Grant:
    """The turn of a worker that died."""
    await lose_lease(backend, dead.lease.session_id)
    heir = await begin(store, dead.lease.session_id, idempotency_key="k")
    assert heir.outcome == "RESUME"
    return heir


@pytest.mark.parametrize("effect", EFFECTS)
async def test_a_call_runs(store: SessionStore, redis: Redis, effect: str) -> None:
    grant = await asking(store, "mail")
    assert await may_run(store, grant, effect) == RUN
    times = await expiries(redis, grant.lease.session_id)
    assert times["tools"] == times["meta"] > 0


@pytest.mark.parametrize("effect", EFFECTS)
async def test_a_call_that_is_done_gives_its_result_again(
    store: SessionStore, backend: Backend, effect: str
) -> None:
    grant = await asking(store, "mail")
    await may_run(store, grant, effect)
    await store.tools.end(grant.lease, CALL, "first", SENT)
    heir = await resumed(store, backend, grant)
    async with unchanged(backend, heir.lease.session_id):
        assert await may_run(store, heir, effect, "second") == ToolStart("REPLAY", SENT)


@pytest.mark.parametrize(
    ("effect", "verdict"), [("read", RUN), ("idempotent", RUN), ("once", UNKNOWN)]
)
async def test_a_call_that_a_dead_turn_began_runs_again_unless_it_is_once(
    store: SessionStore, backend: Backend, effect: str, verdict: ToolStart
) -> None:
    dead = await asking(store, "mail")
    await may_run(store, dead, effect)
    heir = await resumed(store, backend, dead)
    assert await may_run(store, heir, effect, "second") == verdict
    # The same for the worker after that one.
    heir = await resumed(store, backend, heir)
    assert await may_run(store, heir, effect, "third") == verdict


async def test_nobody_knows_about_a_second_attempt_under_the_same_lease_either(
    store: SessionStore,
) -> None:
    grant = await asking(store, "mail")
    await may_run(store, grant, "once")
    assert await may_run(store, grant, "once", "second") == UNKNOWN


@pytest.mark.parametrize("effect", EFFECTS)
async def test_the_same_attempt_may_ask_again(
    store: SessionStore, backend: Backend, effect: str
) -> None:
    grant = await asking(store, "mail")
    await may_run(store, grant, effect)
    async with unchanged(backend, grant.lease.session_id):
        assert await may_run(store, grant, effect) == RUN


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("effect", EFFECTS)
async def test_the_same_call_with_other_arguments_is_refused(
    store: SessionStore, backend: Backend, effect: str, is_done: bool
) -> None:
    grant = await asking(store, "mail")
    await may_run(store, grant, effect)
    if is_done:
        await store.tools.end(grant.lease, CALL, "first", SENT)
    async with unchanged(backend, grant.lease.session_id):
        verdict = await may_run(store, grant, effect, digest="another")
        assert verdict == ToolStart("ARGS_MISMATCH")


async def test_calls_of_one_step_are_apart(store: SessionStore) -> None:
    grant = await asking(store, "mail", "clock")
    for call in ("1.0", "1.1"):
        assert await store.tools.begin(grant.lease, call, "once", "hash", call) == RUN
    await store.tools.end(grant.lease, "1.0", "1.0", SENT)
    assert await store.tools.begin(grant.lease, "1.1", "once", "hash", "1.1") == RUN


async def test_a_call_that_has_not_run_after_all_may_run_later(
    store: SessionStore, backend: Backend
) -> None:
    grant = await asking(store, "mail")
    await may_run(store, grant, "once")
    await store.tools.not_run(grant.lease, CALL, "first")
    heir = await resumed(store, backend, grant)
    assert await may_run(store, heir, "once", "second") == RUN


@pytest.mark.parametrize("ends", ["end", "not_run"])
async def test_only_the_attempt_that_began_a_call_ends_it(
    store: SessionStore, backend: Backend, ends: str
) -> None:
    dead = await asking(store, "mail")
    await may_run(store, dead, "once")
    heir = await resumed(store, backend, dead)
    async with unchanged(backend, heir.lease.session_id):
        ending = {
            "end": lambda: store.tools.end(heir.lease, CALL, "second", SENT),
            "not_run": lambda: store.tools.not_run(heir.lease, CALL, "second"),
        }[ends]
        with pytest.raises(LeaseLost):
            await ending()


async def test_a_call_that_never_began_cannot_end(store: SessionStore, backend: Backend) -> None:
    grant = await asking(store, "mail")
    async with unchanged(backend, grant.lease.session_id):
        with pytest.raises(LeaseLost):
            await store.tools.end(grant.lease, CALL, "first", SENT)


async def test_a_zombie_neither_begins_nor_ends_a_call(
    store: SessionStore, backend: Backend
) -> None:
    zombie = await asking(store, "mail")
    await may_run(store, zombie, "read")
    await resumed(store, backend, zombie)
    async with unchanged(backend, zombie.lease.session_id):
        with pytest.raises(LeaseLost):
            await may_run(store, zombie, "read")
        with pytest.raises(LeaseLost):
            await store.tools.end(zombie.lease, CALL, "first", SENT)
        with pytest.raises(LeaseLost):
            await store.tools.not_run(zombie.lease, CALL, "first")


async def test_the_commit_of_the_results_settles_the_calls(
    store: SessionStore, redis: Redis
) -> None:
    grant = await asking(store, "mail", "clock")
    for call in ("1.0", "1.1"):
        await store.tools.begin(grant.lease, call, "once", "hash", "first")
    await store.tools.end(grant.lease, "1.0", "first", SENT)
    await commit(store, grant, SENT, expected_version=3, is_step=False, settled=["1.0"])
    assert set(await redis.hgetall(key_of(grant.lease.session_id, "tools"))) == {"1.1"}


# A turn that is not continued.


async def test_an_orphans_open_calls_get_what_the_ledger_knows(
    store: SessionStore, redis: Redis
) -> None:
    dead = await asking(store, "mail", "pay", "clock", "never")
    sid = dead.lease.session_id
    for place, effect in enumerate(("once", "once", "read")):
        await store.tools.begin(dead.lease, f"1.{place}", effect, "hash", "first")
    await store.tools.end(dead.lease, "1.0", "first", SENT)
    await lose_lease(redis, sid)
    heir = await begin(store, sid, "go on")
    assert heir.outcome == "ORPHAN"
    closed = [
        SENT,
        result("pay", IT_MAY_HAVE_BEEN_DONE),
        result("clock", "error: interrupted"),
        result("never", "error: interrupted"),
    ]
    asked = assistant("", "mail", "pay", "clock", "never")
    assert heir.history == [HELLO, asked, *closed, user("go on")]
    assert heir.of_turn == [user("go on")]
    assert not await redis.exists(key_of(sid, "tools"))
    await finish(store, heir)
    texts = await redis.lrange(key_of(sid, "msgs"), 0, -1)
    size = sum(len(text.encode()) for text in texts)
    assert await redis.hget(key_of(sid, "meta"), "bytes") == str(size)


async def test_an_orphans_call_that_was_found_unknown_stays_so(
    store: SessionStore, backend: Backend
) -> None:
    dead = await asking(store, "pay")
    await may_run(store, dead, "once")
    heir = await resumed(store, backend, dead)
    assert await may_run(store, heir, "once", "second") == UNKNOWN
    await store.release(heir.lease.session_id, ME, heir.lease.nonce)
    following = await begin(store, heir.lease.session_id, "go on")
    assert following.history[2] == result("pay", IT_MAY_HAVE_BEEN_DONE)


async def test_an_orphan_without_open_calls_gets_nothing(
    store: SessionStore, backend: Backend
) -> None:
    dead = await asking(store, "mail")
    sid = dead.lease.session_id
    await commit(store, dead, SENT, expected_version=3, is_step=False)
    await lose_lease(backend, sid)
    heir = await begin(store, sid, "go on")
    assert heir.history == [HELLO, assistant("", "mail"), SENT, user("go on")]


async def test_a_resumed_turns_calls_stay_open(store: SessionStore, backend: Backend) -> None:
    heir = await resumed(store, backend, await asking(store, "mail"))
    assert heir.history == [HELLO, assistant("", "mail")]
    await commit(store, heir, SENT, HI, expected_version=heir.version)
