"""Faults by schedules: each kind has its own, drawn from the seed and its name."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path


class Fault(NamedTuple):
    inflict: Callable[[Any, random.Random], Coroutine[Any, Any, None]]
    #: The next one may begin before this one is over.
    overlaps: bool = False


class Schedule:
    """`run` until `stop`; then all is as it was. Raises what went wrong with the faults."""

    #: By their names: methods of the subclass.
    faults: ClassVar[Mapping[str, Fault]]

    def __init__(self, figures: Counter[str], log: Path) -> None:
        """`log`: what happened when."""
        self.figures = figures
        self._log = log
        self._noted: list[tuple[float, str]] = []
        self._is_calm = asyncio.Event()

    async def run(self, names: Mapping[str, float], seed: str) -> None:
        """`names` of `faults`, each with the seconds between two of its kind, on average."""
        async with asyncio.TaskGroup() as group:
            for name, every in names.items():
                rng = random.Random(f"{seed}/{name}")
                group.create_task(self._repeat(self.faults[name], every, rng))

    def stop(self) -> None:
        """`run` begins nothing new, and returns when all is as it was."""
        self._is_calm.set()

    async def _repeat(self, fault: Fault, every: float, rng: random.Random) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await self._pause(every * rng.uniform(0.7, 1.3))
                if self._is_calm.is_set():
                    return
                if fault.overlaps:
                    group.create_task(fault.inflict(self, rng))
                else:
                    await fault.inflict(self, rng)

    async def _pause(self, seconds: float) -> None:
        """Shorter, if it is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_calm.wait()

    def _count(self, what: str, which: str = "") -> None:
        self.figures[what] += 1
        self._note(f"{what}: {which}")

    def _note(self, what: str) -> None:
        now = time.time()
        self._noted.append((now, what))
        with self._log.open("a") as log:
            log.write(f"{now:.2f} {what}\n")

    def between(self, began: float, ended: float) -> list[str]:
        """What happened from shortly before `began` until `ended` (`time.time()`)."""
        return [
            f"{what} at {at - began:+.1f}" for at, what in self._noted if began - 1.0 < at < ended
        ]
