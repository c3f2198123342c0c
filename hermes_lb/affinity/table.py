"""The pins of one backend: in memory, or shared by several processes or balancers.

What is known here is good for a while; then the shared store is asked again, which tells of what
others have changed, and tells the store that the key is in use. If it can't be reached, what is
not known here is unknown, and the strategy picks: a session that only another balancer has seen may
then meet a server that does not know it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Protocol

from hermes_lb.affinity.stores.memory import Pins
from hermes_lb.affinity.stores.redis import RedisPins

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from hermes_lb import config
    from hermes_lb.proxy.context import Context

# Seconds. What another balancer has changed meanwhile is seen after this long.
_TRUSTED = 5.0
# Of its life: a key that is in use here has to be known in use there well before it expires.
_TRUSTED_SHARE = 1 / 3


class SharedPins(Protocol):
    """Where several processes or balancers keep the pins of one backend."""

    @property
    def is_reachable(self) -> bool:
        """Whether it is worth asking now."""

    async def look_up(self, key: bytes) -> str | None:
        """The server's name; None if nobody knows, or nobody answers in time."""

    def tell(self, key: bytes, name: str) -> asyncio.Future[bool] | None:
        """This server has the session now -> whether whoever asks is told so, once that is known;
        None: that is so from now on."""

    async def close(self) -> None: ...


class PinTable:
    """`find` first, then `look_up` if `is_shared`; `pin` what a response told."""

    # Nobody else changes what is known here, unless it is shared.
    _trusted = inf

    def __init__(self, name: str, configured: config.Pins, context: Context) -> None:
        self._name = name
        self._context = context
        self._shared: SharedPins | None = None
        if configured.redis is not None:
            self._shared = RedisPins(name, configured, context)
            self._trusted = min(_TRUSTED, configured.expire * _TRUSTED_SHARE)
        elif context.shared_pins is not None:
            self._shared = context.shared_pins(name)
            self._trusted = configured.expire * _TRUSTED_SHARE
        self._pins = Pins(configured.size, configured.expire)

    def __repr__(self) -> str:
        return f"<PinTable of {self._name}: {self._pins!r}>"

    @property
    def is_shared(self) -> bool:
        """Whether it is worth asking `look_up`."""
        return self._shared is not None and self._shared.is_reachable

    def find(self, key: bytes, now: float) -> str | None:
        """The server's name, as far as this process knows; None if it has to ask, or can't."""
        return self._pins.find(key, now) if self._is_trusted(key, now) else None

    def _is_trusted(self, key: bytes, now: float) -> bool:
        return not self.is_shared or now - self._pins.as_of(key) < self._trusted

    async def look_up(self, key: bytes) -> str | None:
        """The server's name, as far as anybody knows; it has a deadline of its own."""
        assert self._shared is not None
        asked_at = self._context.clock()
        name = await self._shared.look_up(key)
        now = self._context.clock()
        known = self._pins.find(key, now)
        is_newer = self._pins.as_of(key) >= asked_at or not self._pins.is_told(key)
        if known is not None and (name is None or is_newer):
            # A response was faster, or nobody answers; or the store has lost it, or never had it.
            if name != known and self.is_shared:
                self._pin(key, known, now)
            return known
        if name is not None:
            self._pins.pin(key, name, now)
        return name

    def note(self, key: bytes, name: str) -> None:
        """What another process has learnt."""
        self._pins.pin(key, name, self._context.clock())

    def pin(self, keys: Iterable[bytes], name: str, now: float) -> Awaitable[object] | None:
        """This server has these sessions now -> what is over when others know of those that are
        new, or can't be told; None: they do."""
        awaited: list[Awaitable[object]] = []
        for key in keys:
            is_news = self._pins.find(key, now) != name
            if is_news or not self._is_trusted(key, now):
                told = self._pin(key, name, now)
                if told is not None and is_news:
                    awaited.append(told)
        return asyncio.gather(*awaited, return_exceptions=True) if awaited else None

    def _pin(self, key: bytes, name: str, now: float) -> Awaitable[object] | None:
        self._pins.pin(key, name, now)
        if self._shared is None:
            return None
        if not self._shared.is_reachable:
            self._pins.not_told(key, name)
            return None
        told = self._shared.tell(key, name)
        if told is not None:
            told.add_done_callback(partial(self._was_told, key, name))
        return told

    def _was_told(self, key: bytes, name: str, told: asyncio.Future[bool]) -> None:
        if told.cancelled() or told.exception() is not None or not told.result():
            self._pins.not_told(key, name)

    def take_over(self, other: PinTable) -> None:
        """What another table knows, whose settings were others."""
        self._pins.take_over(other._pins)

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()
