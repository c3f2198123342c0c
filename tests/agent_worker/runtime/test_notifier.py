"""Notifications wake listeners, and missed ones are made up for."""

from __future__ import annotations

import pytest

from agent_worker.runtime import Notifier
from tests.agent_worker.sessions.memory import MemoryBackend


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


async def test_a_message_wakes_the_listeners_of_its_channel(backend: MemoryBackend) -> None:
    notifier = Notifier(backend)
    channels = [notifier.listen(channel) for channel in ("a", "a", "b")]
    async with channels[0] as first, channels[1] as second, channels[2] as other:
        backend.publish("a", "news")
        assert await first.wait(60)
        assert (first.payload, second.payload, other.payload) == ("news", "news", "")
        assert not await first.wait(0)


async def test_after_a_reconnection_every_listener_is_woken(backend: MemoryBackend) -> None:
    notifier = Notifier(backend)
    async with notifier.listen("a") as first, notifier.listen("b") as second:
        backend.publish("a", "news")
        assert await first.wait(60)
        notifier.wake_all()
        for wakeup in (first, second):
            assert await wakeup.wait(0)
            assert wakeup.payload == ""


async def test_a_channel_without_listeners_is_dropped(backend: MemoryBackend) -> None:
    notifier = Notifier(backend)
    async with notifier.listen("a"):
        assert await backend.subscribers("a") == 1
    assert await backend.subscribers("a") == 0
