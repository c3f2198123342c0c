"""Sessions learned by the workers of one balancer, collected by the supervisor.

A worker sends its pin before the response that names the session, and the supervisor answers a
look-up only after it has read all messages sent before. So no client can come back with a session
that is not known yet. During an upgrade look-ups are retried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.affinity.stores.base import SharedStore
from hermes_lb.affinity.stores.memory import MemoryStore, pin_id
from hermes_lb.control.operator import KeptPin
from hermes_lb.workers.channel import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.config import Config
    from hermes_lb.workers.channel import Channel, Message

# Seconds for an answer, and attempts during an upgrade: 10 s in all, several times what the exec
# takes on a busy machine.
_PATIENCE = 0.25
_MOST_TIMES = 40


class ChannelPins(SharedStore):
    """A worker's view of one backend's session table, which the supervisor keeps.

    `is_replaced` returns True while the supervisor executes new code.
    """

    def __init__(
        self, channel: Channel, backend: str, is_replaced: Callable[[], bool] = lambda: False
    ) -> None:
        self._channel = channel
        self._backend = backend
        self._is_replaced = is_replaced

    @property
    def is_reachable(self) -> bool:
        return not self._channel.is_closed

    async def look_up(self, key: bytes) -> str | None:
        question = {"do": "find", "backend": self._backend, "key": key.hex()}
        for _ in range(_MOST_TIMES):
            was_replaced = self._is_replaced()
            try:
                answer = await self._channel.ask(question, timeout=_PATIENCE)
            except ChannelClosed:
                return None
            except TimeoutError:
                if was_replaced or self._is_replaced():
                    continue  # the previous generation may have read it without answering
                return None
            name: str | None = answer["server"]
            return name
        return None

    def announce(self, key: bytes, name: str) -> None:
        self._channel.send(
            {"do": "pin", "backend": self._backend, "key": key.hex(), "server": name}
        )

    def refresh(self, key: bytes, name: str) -> None:
        self.announce(key, name)

    async def close(self) -> None:
        """Nothing to close: the channel is the worker's."""


class AllPins:
    """The supervisor's tables: pins of all learning backends, from all workers."""

    def __init__(self) -> None:
        self._pins: dict[str, MemoryStore] = {}

    def reconfigure(self, config: Config) -> None:
        """Keep tables of backends that still learn, and not in Redis."""
        before, self._pins = self._pins, {}
        for name, backend in config.backends.items():
            if not backend.pins.has_store and any(stick.learn for stick in backend.stick):
                self._pins[name] = pins = MemoryStore(backend.pins.size, backend.pins.expire)
                if name in before:
                    pins.take_over(before[name])

    def note(self, message: Message, now: float) -> bool:
        """Add a worker's pin -> False if the backend does not learn."""
        pins = self._pins.get(message["backend"])
        if pins is None:
            return False
        pins.store(bytes.fromhex(message["key"]), message["server"], now)
        return True

    def find(self, message: Message, now: float) -> str | None:
        """The name of the server, if the key is known."""
        pins = self._pins.get(message["backend"])
        return pins.find(bytes.fromhex(message["key"]), now) if pins is not None else None

    def listed(self) -> list[KeptPin]:
        """For an operator."""
        return [
            KeptPin(pin_id(key), backend, name)
            for backend, pins in self._pins.items()
            for key, name in pins.items()
        ]

    def clear(self, backend: str | None, server: str | None, pin: str | None) -> int:
        """Forget those that fit -> their number."""
        return sum(
            pins.clear(server, pin) for name, pins in self._pins.items() if backend in (None, name)
        )

    def state(self) -> list[Message]:
        """For the next generation."""
        return [
            {"backend": backend, "key": key.hex(), "server": name}
            for backend, pins in self._pins.items()
            for key, name in pins.items()
        ]

    def restore(self, state: list[Message], now: float) -> None:
        for message in state:
            self.note(message, now)
