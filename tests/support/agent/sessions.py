"""Shared by the store's tests: a turn in one call, and a look at everything that is stored."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from agent_worker.sessions import (
    Event,
    Grant,
    Lease,
    Part,
    RedisBackend,
    StoreOptions,
    new_nonce,
    session_keys,
)
from agent_worker.sessions.keys import KINDS
from tests.agent_worker.sessions.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from redis.asyncio import Redis

    from agent_worker.sessions import Message, SessionBackend, SessionStore

    Backend = RedisBackend | MemoryBackend

ME, YOU = "user:me", "user:you"


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str, *calls: str) -> Message:
    """A message of the model; `calls` are the names of the tools that it asks for, and the ids."""
    message: Message = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [{"id": name, "name": name, "arguments": {}} for name in calls]
    return message


def result(name: str, content: str) -> Message:
    return {"role": "tool", "tool_call_id": name, "name": name, "content": content}


HELLO, HI = user("hello"), assistant("hi")


def key_of(sid: str, kind: str) -> str:
    return session_keys(sid)[KINDS.index(kind)]


def open_store(backend: SessionBackend, **options: Any) -> SessionStore:
    return backend.session_store(StoreOptions(**options))


async def begin(store: SessionStore, sid: str, content: str = "hello", **options: Any) -> Grant:
    """A turn, which must be granted."""
    grant = await store.begin(sid, ME, user(content), **{"nonce": new_nonce(), **options})
    assert isinstance(grant, Grant)
    return grant


async def take_waiting(store: SessionStore, sid: str) -> Grant:
    """A turn of the queued messages."""
    grant = await store.begin(sid, ME, None, nonce=new_nonce())
    assert isinstance(grant, Grant)
    return grant


async def commit(
    store: SessionStore, grant: Grant, *messages: Message, **options: Any
) -> tuple[int, int, int]:
    """`options` are those of the store, and the fields of the Part."""
    of_store = {"expected_version": grant.version, "commit_id": new_nonce()}
    for name in ("events", *of_store):
        if name in options:
            of_store[name] = options.pop(name)
    return await store.commit(grant.lease, Part(messages, **options), **of_store)


async def finish(
    store: SessionStore, grant: Grant, *messages: Message, **options: Any
) -> tuple[int, int, int]:
    return await commit(store, grant, *(messages or [HI]), ends_turn=True, **options)


async def lose_lease(backend: Backend | Redis, sid: str) -> None:
    """As if the lease had expired."""
    if isinstance(backend, MemoryBackend):
        backend.drop_lease(sid)
    else:
        assert await _raw(backend).delete(key_of(sid, "lease")) == 1


async def lose_session(backend: Backend, sid: str) -> None:
    """As if the session had expired."""
    if isinstance(backend, MemoryBackend):
        backend.sessions["hermes", sid].expires = 0
    else:
        await backend.raw.delete(*session_keys(sid))


def _raw(backend: RedisBackend | Redis) -> Redis:
    return backend.raw if isinstance(backend, RedisBackend) else backend


def event(lease: Lease | Grant, number: int, name: str = "message.delta", **data: Any) -> Event:
    fence = (lease.lease if isinstance(lease, Grant) else lease).fence
    return Event(f"{fence}-{number}", name, json.dumps(data))


def delta(lease: Lease | Grant, number: int, content: str) -> Event:
    return event(lease, number, content=content)


async def everything(backend: Backend | Redis, sid: str) -> Any:
    """All that is stored of the session, without times of expiry; of Redis by kind of key."""
    if isinstance(backend, MemoryBackend):
        return backend.snapshot(sid) or {}
    pipe = _raw(backend).pipeline()
    for kind in KINDS:
        key = key_of(sid, kind)
        if kind in {"msgs", "inbox"}:
            pipe.lrange(key, 0, -1)
        else:
            {"lease": pipe.get, "ev": pipe.xrange}.get(kind, pipe.hgetall)(key)
    held = {kind: found for kind, found in zip(KINDS, await pipe.execute(), strict=True) if found}
    for kind in {"tools", "req"} & held.keys():
        # The order of fields in their JSON varies.
        held[kind] = {name: json.loads(text) for name, text in held[kind].items()}
    return held


@asynccontextmanager
async def unchanged(backend: Backend | Redis, sid: str) -> AsyncIterator[None]:
    """The block changes nothing that is stored of the session."""
    before = await everything(backend, sid)
    yield
    assert await everything(backend, sid) == before


async def expiries(backend: Backend | Redis, sid: str) -> dict[str, int]:
    """When each key that exists expires, ms since the epoch; -1: never."""
    if isinstance(backend, MemoryBackend):
        session = backend.sessions["hermes", sid]
        return {"meta": session.expires, "lease": session.lease_until}
    pipe = _raw(backend).pipeline()
    for key in session_keys(sid):
        pipe.pexpiretime(key)
    times = zip(KINDS, await pipe.execute(), strict=True)
    return {kind: at for kind, at in times if at != -2}


async def _commit_under(store: SessionStore, lease: Lease, **options: Any) -> object:
    return await store.commit(lease, Part([HI], **options), expected_version=3, commit_id="late")


async def _begin_by(
    store: SessionStore, lease: Lease, message: Message | None, **options: Any
) -> object:
    options = {"nonce": "other.nonce", **options}
    return await store.begin(lease.session_id, lease.principal, message, **options)


# Every operation under the session's lease, by name. Those that need none use it as the name of
# a session and of a principal.
OPERATIONS: dict[str, Callable[[SessionStore, Lease], Awaitable[object]]] = {
    "commit": _commit_under,
    "end": lambda store, lease: _commit_under(store, lease, ends_turn=True),
    "renew": lambda store, lease: store.renew(lease),
    "append": lambda store, lease: store.events.append(lease, [delta(lease, 9, "!")]),
    "tool_begin": lambda store, lease: store.tools.begin(lease, "1.1", "once", "hash", "attempt"),
    "tool_end": lambda store, lease: store.tools.end(
        lease, "1.0", "attempt", result("mail", "sent")
    ),
    "not_run": lambda store, lease: store.tools.not_run(lease, "1.0", "attempt"),
    "begin": lambda store, lease: _begin_by(store, lease, HELLO),
    "begin again": lambda store, lease: _begin_by(store, lease, HELLO, nonce=lease.nonce),
    "begin with its key": lambda store, lease: _begin_by(store, lease, HELLO, idempotency_key="k"),
    "enqueue": lambda store, lease: _begin_by(store, lease, HELLO, policy="enqueue"),
    "take what waits": lambda store, lease: _begin_by(store, lease, None),
    "take over": lambda store, lease: store.take_over(
        lease.session_id, lease.principal, str(lease.fence), nonce="other.nonce", silent_s=0
    ),
    "hand over": lambda store, lease: store.hand_over(lease, kept_s=5),
    "release": lambda store, lease: store.release(lease.session_id, lease.principal, lease.nonce),
    "interrupt": lambda store, lease: store.interrupt(lease.session_id, lease.principal),
    "events": lambda store, lease: store.events.page(lease.session_id, lease.principal, None),
    "events of a turn": lambda store, lease: store.events.of_turn(
        lease.session_id, lease.principal, str(lease.fence), None
    ),
    "read": lambda store, lease: store.read(lease.session_id, lease.principal),
    "check": lambda store, lease: store.check(lease.session_id, lease.principal),
    "delete": lambda store, lease: store.delete(lease.session_id, lease.principal),
}
# Those that need the lease.
UNDER_A_LEASE = (
    "commit",
    "end",
    "renew",
    "append",
    "tool_begin",
    "tool_end",
    "not_run",
    "hand over",
)


async def busy_session(store: SessionStore) -> tuple[str, Grant]:
    """A session with data under each of its keys: a step that asked for a tool, which has begun."""
    sid = await store.create(ME, {"title": "größer"})
    grant = await begin(store, sid, idempotency_key="k")
    await commit(store, grant, assistant("I shall", "mail"))
    await store.events.append(grant.lease, [delta(grant, 1, "I shall")])
    await store.tools.begin(grant.lease, "1.0", "once", "hash", "attempt")
    await store.begin(sid, ME, user("later"), nonce=new_nonce(), policy="enqueue")
    return sid, grant
