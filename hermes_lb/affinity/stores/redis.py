"""A session table that several balancers share through Redis."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from hermes_lb.affinity.stores.base import SharedStore
from hermes_lb.affinity.stores.memory import pin_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.tasks import Tasks

logger = logging.getLogger("hermes_lb.affinity")

# Seconds. A store that does not answer in this time counts as lost, and is not asked for a while.
_PATIENCE, _LEFT_ALONE = 0.25, 1.0

# Of a pin that is known: what an operator has cleared is not written over -> 0.
_REFRESH: Final = """
if redis.call('GET', KEYS[1]) == '' then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


def connected(url: str, patience: float, **options: Any) -> Redis:
    """Connects with the first command; `patience` in seconds bounds connect, read and write."""
    return Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # foreign bytes name no server
        socket_timeout=patience,
        socket_connect_timeout=patience,
        **options,
    )


def redis_key(backend: str, pin: str) -> str:
    """Of a pin in Redis, by its id; its value is the name of its server, or CLEARED."""
    return f"hermes-lb:pin:{backend}:{pin}"


class RedisStore(SharedStore):
    """Of the backend `name`, with `expire` in seconds. A loss is logged once, and so is its end."""

    freshness = 5.0  # what another balancer has changed is seen after this time

    def __init__(
        self, name: str, url: str, expire: float, clock: Callable[[], float], tasks: Tasks
    ) -> None:
        self._name = name
        self._clock = clock
        self._tasks = tasks
        self._expire_ms = max(1, int(expire * 1000))
        self._lost_until = 0.0
        self._is_lost = False
        self._redis = connected(url, _PATIENCE)

    @property
    def is_reachable(self) -> bool:
        return self._clock() >= self._lost_until

    async def look_up(self, key: bytes) -> str | None:
        name: str | None = await self._ask("GETEX", self._key(key), "PX", self._expire_ms)
        return name  # CLEARED is the empty string there, too

    def announce(self, key: bytes, name: str) -> asyncio.Task[bool]:
        return self._tasks.spawn(self._set(key, name), name="store a session's server")

    async def _set(self, key: bytes, name: str) -> bool:
        reply = await self._ask("SET", self._key(key), name, "PX", self._expire_ms)
        return reply is not None

    def refresh(self, key: bytes, name: str) -> asyncio.Task[bool]:
        return self._tasks.spawn(self._keep(key, name), name="keep a session's server")

    async def _keep(self, key: bytes, name: str) -> bool:
        reply = await self._ask("EVAL", _REFRESH, 1, self._key(key), name, self._expire_ms)
        return reply is None or bool(reply)

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, key: bytes) -> str:
        return redis_key(self._name, pin_id(key))

    async def _ask(self, *command: str | int) -> Any:
        """The reply, or None without one in time."""
        try:
            async with asyncio.timeout(_PATIENCE):
                reply = await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            self._lost_until = self._clock() + _LEFT_ALONE
            if not self._is_lost:
                self._is_lost = True
                why = str(error) or "it does not answer"
                logger.warning("%s: the shared pins cannot be reached: %s", self._name, why)
            return None
        if self._is_lost:
            self._is_lost = False
            logger.warning("%s: the shared pins are back", self._name)
        return reply
