"""The pins of one backend: in memory, or shared by several balancers through Redis.

If Redis can't be reached, what is not known here is unknown, and the strategy picks: a session
that only another balancer has seen may then meet a server that does not know it.
"""

from __future__ import annotations

import asyncio
import logging
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from hermes_lb.affinity.pins import Pins

if TYPE_CHECKING:
    from hermes_lb import config
    from hermes_lb.proxy.context import Context

logger = logging.getLogger("hermes_lb.affinity")

# Seconds. What another balancer has changed meanwhile is seen after this long.
_REMEMBER_SHARED = 5.0
# A store that does not answer in this time is taken for lost, and left alone for a while.
_PATIENCE, _LEFT_ALONE = 0.25, 1.0


class PinTable:
    """`find` first, then `look_up` if `is_shared`; `pin` what a response told."""

    def __init__(self, name: str, configured: config.Pins, context: Context) -> None:
        self._name = name
        self._context = context
        self._expire_ms = max(1, int(configured.expire * 1000))
        shared = configured.redis is not None
        remember = min(configured.expire, _REMEMBER_SHARED) if shared else configured.expire
        self._pins = Pins(configured.size, remember)
        self._redis: Redis | None = None
        self._lost_until = 0.0
        self._is_lost = False
        if configured.redis is not None:
            self._redis = Redis.from_url(
                configured.redis,
                decode_responses=True,
                socket_timeout=_PATIENCE,
                socket_connect_timeout=_PATIENCE,
            )

    def __repr__(self) -> str:
        return f"<PinTable of {self._name}: {self._pins!r}>"

    @property
    def is_shared(self) -> bool:
        """Whether it is worth asking `look_up`."""
        return self._redis is not None and self._context.clock() >= self._lost_until

    def find(self, key: bytes, now: float) -> str | None:
        """The server's name, as far as this balancer knows."""
        return self._pins.find(key, now)

    async def look_up(self, key: bytes) -> str | None:
        """The server's name, as far as any balancer knows; within a quarter of a second."""
        name: str | None = await self._ask("GETEX", self._key(key), "PX", self._expire_ms)
        if name is not None:
            self._pins.pin(key, name, self._context.clock())
        return name

    def pin(self, key: bytes, name: str, now: float) -> None:
        """This server has the session now."""
        is_news = self._pins.find(key, now) != name
        self._pins.pin(key, name, now)
        if is_news and self.is_shared:
            tell = self._ask("SET", self._key(key), name, "PX", self._expire_ms)
            self._context.tasks.spawn(tell, name="pin")

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    def _key(self, key: bytes) -> str:
        # Digested: it is a stranger's text, and as good as a password to some.
        return f"hermes-lb:pin:{self._name}:{blake2b(key, digest_size=16).hexdigest()}"

    async def _ask(self, *command: str | int) -> Any:
        """The reply, or None if there is none. A loss is logged once, and so is its end."""
        assert self._redis is not None
        try:
            async with asyncio.timeout(_PATIENCE):
                reply = await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            self._lost_until = self._context.clock() + _LEFT_ALONE
            if not self._is_lost:
                self._is_lost = True
                why = error or type(error).__name__
                logger.warning("%s: the shared pins cannot be reached: %s", self._name, why)
            return None
        if self._is_lost:
            self._is_lost = False
            logger.warning("%s: the shared pins are back", self._name)
        return reply
