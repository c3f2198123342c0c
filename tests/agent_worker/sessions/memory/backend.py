"""All sessions of a test, and notifications."""

from __future__ import annotations

import asyncio
import copy
import math
import time
from typing import TYPE_CHECKING

from agent_worker.sessions.options import DEFAULT_OPTIONS
from tests.agent_worker.sessions.memory.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.sessions import StoreOptions
    from agent_worker.sessions.turn_index import TurnIndex
    from tests.agent_worker.sessions.memory.session import Session


class MemoryBackend:
    """Sessions of all workers of a test, which are in this process."""

    def __init__(self, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self.now_ms = now_ms
        self.sessions: dict[tuple[str, str], Session] = {}
        self.index: dict[str, int] = {}
        self.hints: set[str] = set()
        self.scanned_until = 0
        self.connections: list[MemorySubscriber] = []
        self.beats: dict[str, int] = {}

    def session_store(
        self, options: StoreOptions = DEFAULT_OPTIONS, *, index: TurnIndex | None = None
    ) -> MemoryStore:
        return MemoryStore(self, options, index)

    def subscriber(
        self, *, on_message: Callable[[str, str], None], on_reconnected: Callable[[], None]
    ) -> MemorySubscriber:
        return MemorySubscriber(self, on_message)

    async def subscribers(self, channel: str) -> int:
        return sum(channel in subscriber.channels for subscriber in self.connections)

    async def beat(self, worker: str) -> None:
        self.beats[worker] = self.now_ms()

    async def beat_age_s(self, worker: str) -> float | None:
        return (self.now_ms() - self.beats[worker]) / 1000 if worker in self.beats else None

    def publish(self, channel: str, payload: str) -> None:
        for subscriber in self.connections:
            if channel in subscriber.channels:
                asyncio.get_running_loop().call_soon(subscriber.on_message, channel, payload)

    def find(self, sid: str, space: str = "hermes") -> Session | None:
        session = self.sessions.get((space, sid))
        return session if session is not None and self.now_ms() < session.expires else None

    def drop_lease(self, sid: str) -> None:
        """As if the lease had expired."""
        session = self.sessions["hermes", sid]
        assert session.holder(self.now_ms())
        session.lease = ""

    def snapshot(self, sid: str) -> Session | None:
        """Everything that is stored of the session, without times of expiry."""
        if (session := copy.deepcopy(self.find(sid))) is not None:
            session.lease = session.holder(self.now_ms())
            session.expires = session.lease_until = 0
            session.events_expire = None
        return session


class MemorySubscriber:
    def __init__(self, backend: MemoryBackend, on_message: Callable[[str, str], None]) -> None:
        self._backend = backend
        self.on_message = on_message
        self.channels: set[str] = set()
        self.live_s = math.inf
        backend.connections.append(self)

    async def subscribe(self, channel: str) -> None:
        self.channels.add(channel)

    async def unsubscribe(self, channel: str) -> None:
        self.channels.discard(channel)

    async def close(self) -> None:
        self._backend.connections.remove(self)
