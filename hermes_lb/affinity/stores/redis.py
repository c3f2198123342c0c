"""Pins that several balancers share through Redis."""

from __future__ import annotations

import asyncio
import logging
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from hermes_lb import config
    from hermes_lb.proxy.context import Context

logger = logging.getLogger("hermes_lb.affinity")

# Seconds. A store that does not answer in this time is taken for lost, and left alone for a while.
_PATIENCE, _LEFT_ALONE = 0.25, 1.0


class RedisPins:
    """Of the backend `name` (`pin_table.SharedPins`). Raises nothing: a loss is logged once."""

    def __init__(self, name: str, configured: config.Pins, context: Context) -> None:
        assert configured.redis is not None
        self._name = name
        self._context = context
        self._expire_ms = max(1, int(configured.expire * 1000))
        self._lost_until = 0.0
        self._is_lost = False
        self._redis = Redis.from_url(
            configured.redis,
            decode_responses=True,
            encoding_errors="replace",  # what others have written there names no server
            socket_timeout=_PATIENCE,
            socket_connect_timeout=_PATIENCE,
        )

    @property
    def is_reachable(self) -> bool:
        return self._context.clock() >= self._lost_until

    async def look_up(self, key: bytes) -> str | None:
        """That is a use of the key, which prolongs its life."""
        name: str | None = await self._ask("GETEX", self._key(key), "PX", self._expire_ms)
        return name

    def tell(self, key: bytes, name: str) -> asyncio.Task[bool]:
        return self._context.tasks.spawn(self._tell(key, name), name="pin")

    async def _tell(self, key: bytes, name: str) -> bool:
        reply = await self._ask("SET", self._key(key), name, "PX", self._expire_ms)
        return reply is not None

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, key: bytes) -> str:
        # Digested: it is a stranger's text, and as good as a password to some.
        return f"hermes-lb:pin:{self._name}:{blake2b(key, digest_size=16).hexdigest()}"

    async def _ask(self, *command: str | int) -> Any:
        """The reply, or None if there is none. A loss is logged once, and so is its end."""
        try:
            async with asyncio.timeout(_PATIENCE):
                reply = await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            self._lost_until = self._context.clock() + _LEFT_ALONE
            if not self._is_lost:
                self._is_lost = True
                why = str(error) or "it does not answer"
                logger.warning("%s: the shared pins cannot be reached: %s", self._name, why)
            return None
        if self._is_lost:
            self._is_lost = False
            logger.warning("%s: the shared pins are back", self._name)
        return reply
