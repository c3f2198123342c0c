"""Wakes tasks of this worker when something happens elsewhere: one pub/sub connection to Redis.

A notification is a hint to read the store again. Those that were missed while Redis was away are
made up for by waking every listener after the reconnection, and no listener waits without a
timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent_worker.sessions import PubSub

# For the server's confirmation; without it the subscription is made as soon as Redis answers.
_SUBSCRIBE_TIMEOUT_S = 2.0


class Wakeup:
    """Wakes one listener. `payload` is that of the last notification, "" after missed ones."""

    def __init__(self) -> None:
        self.payload = ""
        self._is_set = asyncio.Event()

    def set(self, payload: str = "") -> None:
        self.payload = payload
        self._is_set.set()

    async def wait(self, timeout: float) -> bool:
        """Whether `set` was called since the last wait, or is within `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._is_set.wait()
        was_set = self._is_set.is_set()
        self._is_set.clear()
        return was_set


class Notifier:
    """The subscriptions of one worker."""

    def __init__(self, pubsub: PubSub) -> None:
        self._subscriber = pubsub.subscriber(on_message=self._notify, on_reconnected=self.wake_all)
        self._wakeups: defaultdict[str, set[Wakeup]] = defaultdict(set)
        self._callbacks: dict[str, Callable[[str], None]] = {}

    @property
    def live_s(self) -> float:
        """As of `Subscriber`."""
        return self._subscriber.live_s

    @contextlib.asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[Wakeup]:
        """A wakeup that each message of `channel` sets."""
        wakeup = Wakeup()
        self._wakeups[channel].add(wakeup)
        try:
            await self._subscribe(channel)
            yield wakeup
        finally:
            self._wakeups[channel].discard(wakeup)
            if not self._wakeups[channel]:
                del self._wakeups[channel]
                await self._subscriber.unsubscribe(channel)

    async def subscribe(self, channel: str, callback: Callable[[str], None]) -> None:
        """Call `callback` with each message of `channel` until the notifier is closed."""
        self._callbacks[channel] = callback
        await self._subscribe(channel)

    def wake_all(self) -> None:
        for wakeups in self._wakeups.values():
            for wakeup in wakeups:
                wakeup.set()

    async def close(self) -> None:
        await self._subscriber.close()

    async def _subscribe(self, channel: str) -> None:
        # Listeners poll as well, so they do not depend on the confirmation.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_S):
                await self._subscriber.subscribe(channel)

    def _notify(self, channel: str, payload: str) -> None:
        if callback := self._callbacks.get(channel):
            callback(payload)
        for wakeup in self._wakeups.get(channel, ()):
            wakeup.set(payload)
