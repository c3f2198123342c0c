"""Which other processes are dead, by their beats.

A process is dead if its key had no other value (or was missing) for a whole lease, on the monotonic
clock of the observer, while the store could be reached all the time. No time that is stored in the
store decides: after an outage of the store all of them would be over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.store.incarnation import RETIRED
from hermes_lb.turns.store.keys import alive_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.turns.store.client import StoreClient
    from hermes_lb.turns.store.timing import Timing

logger = logging.getLogger("hermes_lb.turns")

# Seconds without a question after which an incarnation is not observed any more. Followers and
# waiters ask every 2 s.
_KEPT: Final = 30.0


class _Sighting:
    __slots__ = ("asked_at", "sampled_at", "since", "value")

    def __init__(self, now: float) -> None:
        self.asked_at = now
        self.sampled_at = self.since = -1.0  # of no sample
        self.value: bytes | None = None


class Observer:
    """`run` it as a task."""

    def __init__(self, client: StoreClient, timing: Timing, clock: Callable[[], float]) -> None:
        self._client = client
        self._timing = timing
        self._clock = clock
        self._sightings: dict[str, _Sighting] = {}
        self._has_new = asyncio.Event()

    def is_dead(self, incarnation: str) -> bool:
        """As far as is known; the first question starts the observation. Repeat it.

        "" stands for no process: its turns have been left.
        """
        if not incarnation:
            return True
        now = self._clock()
        sighting = self._sightings.get(incarnation)
        if sighting is None:
            self._sightings[incarnation] = _Sighting(now)
            self._has_new.set()
            return False
        sighting.asked_at = now
        if sighting.since < 0:
            return False
        # Up to the last sample: the time since then has not been observed.
        return sighting.value == RETIRED or (
            sighting.sampled_at - sighting.since >= self._timing.lease
        )

    async def has_died(self, incarnation: str) -> bool:
        """The same, but one that is retired is seen by the first question. Raises StoreAway."""
        if incarnation and incarnation not in self._sightings:
            self.is_dead(incarnation)
            await self._sample(incarnation)
        return self.is_dead(incarnation)

    async def run(self) -> None:
        while True:
            self._has_new.clear()
            try:
                await self.sample()
            except Exception:  # without samples no turn of a dead process would end
                logger.exception("the observation of other balancers failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.poll):
                    await self._has_new.wait()

    async def sample(self) -> None:
        """Look at all of them once. An outage of the store begins all observations again."""
        now = self._clock()
        for incarnation in [
            each for each, seen in self._sightings.items() if now - seen.asked_at > _KEPT
        ]:
            del self._sightings[incarnation]
        try:
            for incarnation in list(self._sightings):
                await self._sample(incarnation)
        except StoreAway:
            for sighting in self._sightings.values():
                sighting.since = -1.0

    async def _sample(self, incarnation: str) -> None:
        key = alive_key(incarnation)
        asked = self._clock()
        value = await self._client.ask(key, "GET", key)
        sighting = self._sightings.get(incarnation)
        if sighting is not None:
            self._note(sighting, value, asked)

    def _note(self, sighting: _Sighting, value: bytes | None, asked: float) -> None:
        # After a longer pause this process was stopped, and has not observed the store.
        has_gap = asked - sighting.sampled_at > self._timing.lease / 2
        # A key that has expired is not a heartbeat.
        has_beaten = value is not None and value != sighting.value
        if sighting.since < 0 or has_beaten or has_gap:
            sighting.since = self._clock()
        if has_beaten:
            sighting.value = value
        sighting.sampled_at = asked
