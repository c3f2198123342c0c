"""Signals of the supervisor."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from hermes_lb.tasks import Tasks
from hermes_lb.workers.run import _mind_signals


class Busy:
    """A supervisor whose reload and upgrade never return."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.is_draining = False

    async def reload(self) -> None:
        self.begun.append("reload")
        await asyncio.Event().wait()

    async def upgrade(self) -> None:
        self.begun.append("upgrade")
        await asyncio.Event().wait()


async def test_a_signal_does_not_wait_for_what_another_has_begun() -> None:
    """Signals still queued would be lost in the exec of an upgrade."""
    supervisor: Any = Busy()
    tasks = Tasks()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGHUP, signal.SIGUSR2):
        signals.put_nowait(number)
    minding = Tasks().spawn(_mind_signals(supervisor, signals, tasks), name="signals")
    while len(supervisor.begun) < 2:  # noqa: ASYNC110 - a few turns
        await asyncio.sleep(0)
    assert supervisor.begun == ["reload", "upgrade"]
    assert not supervisor.is_draining
    signals.put_nowait(signal.SIGTERM)
    await minding
    assert supervisor.is_draining
    await tasks.cancel_all()
