"""What the workers of one balancer learn about sessions: the supervisor knows all of it.

A worker tells its pin before it sends the response that names the session, and the supervisor
answers a question only after it has read what all workers had told by then. So nobody can come back
with a session before it is known. While the supervisor's image is replaced, whoever asks waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.affinity.stores.base import SharedStore
from hermes_lb.affinity.stores.memory import MemoryStore
from hermes_lb.workers.channel import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.config import Config
    from hermes_lb.workers.channel import Channel, Message

# Seconds for an answer, and how often a question is asked anew while the supervisor's image is
# replaced: 10 s, several times what that takes on a busy machine.
_PATIENCE = 0.25
_MOST_TIMES = 40


class ChannelPins(SharedStore):
    """A worker's view of one backend's session table, which the supervisor keeps.

    `is_replaced` tells whether the supervisor's image is being replaced.
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
                    continue  # the last image may have heard it, and be no more
                return None
            name: str | None = answer["server"]
            return name
        return None

    def announce(self, key: bytes, name: str) -> None:
        self._channel.send(
            {"do": "pin", "backend": self._backend, "key": key.hex(), "server": name}
        )

    async def close(self) -> None:
        """The channel is the worker's."""


class AllPins:
    """What the supervisor knows: the pins of all backends that learn, by all workers."""

    def __init__(self) -> None:
        self._pins: dict[str, MemoryStore] = {}

    def reconfigure(self, config: Config) -> None:
        """Keep those of backends that still learn, and not in Redis."""
        before, self._pins = self._pins, {}
        for name, backend in config.backends.items():
            if not backend.pins.has_store and any(stick.learn for stick in backend.stick):
                self._pins[name] = pins = MemoryStore(backend.pins.size, backend.pins.expire)
                if name in before:
                    pins.take_over(before[name])

    def note(self, message: Message, now: float) -> bool:
        """A worker has learnt -> whether it is to be kept."""
        pins = self._pins.get(message["backend"])
        if pins is None:
            return False
        pins.store(bytes.fromhex(message["key"]), message["server"], now)
        return True

    def find(self, message: Message, now: float) -> str | None:
        """The server's name."""
        pins = self._pins.get(message["backend"])
        return pins.find(bytes.fromhex(message["key"]), now) if pins is not None else None

    def state(self) -> list[Message]:
        """For the program's next image."""
        return [
            {"backend": backend, "key": key.hex(), "server": name}
            for backend, pins in self._pins.items()
            for key, name in pins.items()
        ]

    def restore(self, state: list[Message], now: float) -> None:
        for message in state:
            self.note(message, now)
