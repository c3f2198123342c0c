"""The pins of one backend: in memory, or shared by several processes or balancers.

If the shared store can't be reached, what is not known here is unknown, and the strategy picks: a
session that only another balancer has seen may then meet a server that does not know it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hermes_lb.affinity.pins import Pins
from hermes_lb.proxy.redis_pins import RedisPins

if TYPE_CHECKING:
    from hermes_lb import config
    from hermes_lb.proxy.context import Context

# Seconds. What another balancer has changed meanwhile is seen after this long.
_REMEMBER_SHARED = 5.0


class SharedPins(Protocol):
    """Where several processes or balancers keep the pins of one backend."""

    @property
    def is_reachable(self) -> bool:
        """Whether it is worth asking now."""

    async def look_up(self, key: bytes) -> str | None:
        """The server's name; None if nobody knows, or nobody answers in time."""

    def tell(self, key: bytes, name: str) -> None:
        """This server has the session now. It never waits."""

    async def close(self) -> None: ...


class PinTable:
    """`find` first, then `look_up` if `is_shared`; `pin` what a response told."""

    def __init__(self, name: str, configured: config.Pins, context: Context) -> None:
        self._name = name
        self._context = context
        self._shared: SharedPins | None = None
        remember = configured.expire
        if configured.redis is not None:
            self._shared = RedisPins(name, configured, context)
            remember = min(remember, _REMEMBER_SHARED)
        elif context.shared_pins is not None:
            self._shared = context.shared_pins(name)
        self._pins = Pins(configured.size, remember)

    def __repr__(self) -> str:
        return f"<PinTable of {self._name}: {self._pins!r}>"

    @property
    def is_shared(self) -> bool:
        """Whether it is worth asking `look_up`."""
        return self._shared is not None and self._shared.is_reachable

    def find(self, key: bytes, now: float) -> str | None:
        """The server's name, as far as this process knows."""
        return self._pins.find(key, now)

    async def look_up(self, key: bytes) -> str | None:
        """The server's name, as far as anybody knows; within a quarter of a second."""
        assert self._shared is not None
        name = await self._shared.look_up(key)
        if name is not None:
            self.note(key, name)
        return name

    def note(self, key: bytes, name: str) -> None:
        """What another process has learnt."""
        self._pins.pin(key, name, self._context.clock())

    def pin(self, key: bytes, name: str, now: float) -> None:
        """This server has the session now."""
        is_news = self._pins.find(key, now) != name
        self._pins.pin(key, name, now)
        if is_news and self._shared is not None and self._shared.is_reachable:
            self._shared.tell(key, name)

    def take_over(self, other: PinTable) -> None:
        """What another table knows, whose settings were others."""
        self._pins.take_over(other._pins)

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()
