"""Detects worker processes that are alive but stuck."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.observe.usage import usage_of
from hermes_lb.workers.shared_memory import HEARTBEAT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_lb.workers.child import Child
    from hermes_lb.workers.shared_memory import SharedMemory

# Checks without a heartbeat after which a worker counts as stuck: 10 s. Not seconds: after a pause
# of the machine or container all heartbeats are old, and no worker is stuck.
_MOST_LOOKS = 20


class Heartbeats:
    """The workers' clocks in the shared memory, written several times a second."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        # By pid: the last heartbeat, and checks since it changed.
        self._last: dict[int, tuple[float | None, int]] = {}

    def stuck(self, children: Iterable[Child]) -> list[Child]:
        """Workers without a heartbeat for a while, each returned once. Call every half second.

        During a start the heartbeat is the CPU time used, since a start takes as long as the
        machine is busy. That of a process which hangs before its first clock tick stays 0.0, which
        is detected, too.
        """
        seen: dict[int, tuple[float | None, int]] = {}
        found = []
        for child in children:
            sign = self._memory.regions[child.number].gauges[HEARTBEAT] or None
            if sign is None and not child.serves:
                sign = _cpu_seconds(child.pid)
            last, looks = self._last.get(child.pid, (None, 0))
            looks = looks + 1 if sign == last and sign is not None else 0
            seen[child.pid] = sign, looks
            if looks == _MOST_LOOKS:
                found.append(child)
        self._last = seen
        return found


def _cpu_seconds(pid: int) -> float | None:
    """None if unknown."""
    usage = usage_of(pid)
    return usage.cpu_seconds if usage is not None else None
