"""The keys in the store: whether each expires, and whether the quotas are given back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from bench.chaos.waiting import NeverCame, until
from bench.chaos_sessions.backends import look

if TYPE_CHECKING:
    from bench.chaos_sessions.tally import Tally
    from bench.chaos_turns.stores import Durable, Failover

_EVERY = 0.5  # s
_AT_ONCE = 500
_NEVER_EXPIRES = -1
# Seconds: a sweep repairs what a dead process has left.
_REPAIRED_WITHIN = 60.0
_IN_USE = ("live", "waiting")


async def watch_expiries(store: Durable | Failover, tally: Tally, is_over: asyncio.Event) -> None:
    """Until `is_over`. Not until a cancellation: redis-py may turn one into its own timeout."""
    while not is_over.is_set():
        with contextlib.suppress(RedisError, OSError):
            await check_expiries(store, tally)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EVERY):
                await is_over.wait()


async def check_expiries(store: Durable | Failover, tally: Tally) -> None:
    async with _looking(store) as client:
        keys = [key async for key in client.scan_iter(count=_AT_ONCE)]
        for first in range(0, len(keys), _AT_ONCE):
            some = keys[first : first + _AT_ONCE]
            async with client.pipeline(transaction=False) as pipeline:
                for key in some:
                    pipeline.pttl(key)
                for key, left in zip(some, await pipeline.execute(), strict=True):
                    tally.check("ttl", left != _NEVER_EXPIRES, f"{key} never expires")


async def check_quotas(store: Durable | Failover, tally: Tally) -> None:
    """Nothing is live and nothing waits, within the time of a sweep."""
    found: dict[str, dict[str, str]] = {}

    async def are_given_back() -> bool:
        nonlocal found
        with contextlib.suppress(RedisError, OSError):
            async with _looking(store) as client:
                keys = [key async for key in client.scan_iter(match="*:use", count=_AT_ONCE)]
                found = {key: await client.hgetall(key) for key in keys}
                return not any(_used(fields) for fields in found.values())
        return False

    with contextlib.suppress(NeverCame):
        await until(are_given_back, "quotas are given back", patience=_REPAIRED_WITHIN)
    for key, fields in found.items():
        tally.check("quotas", not _used(fields), f"{key}: {fields}")


async def settled(store: Durable | Failover) -> dict[str, int]:
    """How many turns are in each state, as the store has them."""
    counts: dict[str, int] = {}
    async with _looking(store) as client:
        async for key in client.scan_iter(match="*:turn:*", count=_AT_ONCE):
            state = str(await client.hget(key, "state"))
            counts[state] = counts.get(state, 0) + 1
    return counts


def _used(fields: dict[str, str]) -> bool:
    return any(int(fields.get(name, 0)) for name in _IN_USE)


@contextlib.asynccontextmanager
async def _looking(store: Durable | Failover) -> Any:
    client = look(store.port)
    try:
        yield client
    finally:
        await client.aclose()
