"""Bells: what rings a worker when something happens elsewhere, over one connection to Redis.

A bell says only that it is time to look. One that was missed (Redis was away) is made good by
ringing all of them once it is back, and nobody waits for one without an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent_worker.sessions import Client

log = logging.getLogger(__name__)

# For the server to confirm; afterwards the channel is subscribed to as soon as it is there.
_SUBSCRIBE_TIMEOUT_S = 2.0


class Bell:
    """Rings for one listener. `said` is what the last ring brought along, "" if it was missed."""

    def __init__(self) -> None:
        self.said = ""
        self._rung = asyncio.Event()

    def ring(self, said: str) -> None:
        self.said = said
        self._rung.set()

    async def wait(self, timeout: float) -> bool:
        """Until it rings (or has since the last wait), or `timeout` seconds; whether it did."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._rung.wait()
        did_ring = self._rung.is_set()
        self._rung.clear()
        return did_ring


class Bells:
    """All bells of one worker."""

    def __init__(self, client: Client) -> None:
        self._subscriber = client.subscriber(on_message=self._ring, on_reconnected=self.ring_all)
        self._bells: defaultdict[str, set[Bell]] = defaultdict(set)
        self._commands: dict[str, Callable[[str], None]] = {}

    @contextlib.asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[Bell]:
        """A bell for what is published from now on."""
        bell = Bell()
        self._bells[channel].add(bell)
        try:
            await self._subscribe(channel)
            yield bell
        finally:
            self._bells[channel].discard(bell)
            if not self._bells[channel]:
                del self._bells[channel]
                await self._subscriber.unsubscribe(channel)

    async def obey(self, channel: str, command: Callable[[str], None]) -> None:
        """Call `command` with each message of `channel`, for as long as the worker runs."""
        self._commands[channel] = command
        await self._subscribe(channel)

    def ring_all(self) -> None:
        """Let everybody look."""
        for bells in self._bells.values():
            for bell in bells:
                bell.ring("")

    async def close(self) -> None:
        await self._subscriber.close()

    async def _subscribe(self, channel: str) -> None:
        # If Redis is away, whoever listens looks again after a while anyway.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_S):
                await self._subscriber.subscribe(channel)

    def _ring(self, channel: str, said: str) -> None:
        if command := self._commands.get(channel):
            command(said)
        for bell in self._bells.get(channel, ()):
            bell.ring(said)
