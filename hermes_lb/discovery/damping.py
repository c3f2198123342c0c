"""Which changes of a source take effect, and when. No I/O; `now` is monotonic, in seconds.

- An answer without servers takes effect after `empty_after`: the last servers stay until then.
- A server that has left `_FLAPS` times, each within `_FLAP_WINDOW` of the one before, comes back
  when it has been there for `flap_hold`; unless no other server is up.
- Of more than `max_servers` the rest is left out.
- At most `BATCH` servers change at once, so a large answer takes several steps of the loop.

Otherwise a change takes effect at once. The cost is that of the changes, not of the servers.
"""

from __future__ import annotations

import logging
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.options.units import format_duration

if TYPE_CHECKING:
    from hermes_lb.discovery.sources.base import Answer, Endpoint

logger = logging.getLogger("hermes_lb.discovery")

BATCH = 256

_FLAPS = 3
_FLAP_WINDOW = 60.0
# Servers whose departures are remembered.
_MOST_DEPARTED = 4_096


class Changes(NamedTuple):
    """What takes effect now. `due`: the time of the next look; None: when the source says more."""

    present: dict[str, Endpoint]
    gone: list[str]
    due: float | None


class Damper:
    """The servers of one backend: `answered` takes what a source says, `take` gives the changes."""

    def __init__(
        self, backend: str, *, empty_after: float, flap_hold: float, max_servers: int
    ) -> None:
        self._backend = backend
        self._empty_after = empty_after
        self._flap_hold = flap_hold
        self._max = max_servers
        self._wanted: dict[str, Endpoint] = {}
        self.applied: dict[str, Endpoint] = {}
        self._up = 0  # of those applied, which do not leave
        self._dirty: dict[str, None] = {}  # names that may differ, in order
        self._empty_since: float | None = None
        self._departed: dict[str, tuple[int, float]] = {}  # how often in a row, and when last
        self._came: dict[str, float] = {}  # when those that are held came
        self._said: set[str] = set()  # those whose hold was logged
        self._has_said_empty = False
        self._is_over = False  # there are more than `max_servers`

    def __repr__(self) -> str:
        return f"<Damper of {self._backend}, {len(self.applied)} servers>"

    @property
    def is_holding(self) -> bool:
        """The source has no servers, and the last ones are kept."""
        return self._empty_since is not None and bool(self.applied)

    def start_with(self, servers: dict[str, Endpoint]) -> None:
        """Those of before, until the first answer."""
        self.applied = dict(servers)
        self._up = sum(not endpoint.leaves for endpoint in servers.values())
        self._wanted = dict(servers)

    def answered(self, answer: Answer, now: float) -> None:
        """Take an answer of the source."""
        if answer.is_complete:
            gone = [name for name in self._wanted if name not in answer.present]
        else:
            gone = [name for name in answer.gone if name in self._wanted]
        for name in gone:
            del self._wanted[name]
            self._came.pop(name, None)
            self._dirty[name] = None
        for name, endpoint in answer.present.items():
            if self._wanted.get(name) != endpoint:
                self._wanted[name] = endpoint
                self._dirty[name] = None
        if self._wanted:
            if self.is_holding:
                logger.info("%s: there are servers again", self._backend)
            self._empty_since, self._has_said_empty = None, False
        elif self._empty_since is None:
            self._empty_since = now
            if self.applied:
                kept = format_duration(self._empty_after)
                logger.warning(
                    "%s: the discovery has no servers; the last %d stay for %s",
                    self._backend, len(self.applied), kept,
                )  # fmt: skip

    def take(self, now: float) -> Changes:
        """The changes that take effect now."""
        if self._empty_since is not None and self.applied:
            ends = self._empty_since + self._empty_after
            if now < ends:
                return Changes({}, [], ends)
            if not self._has_said_empty:
                self._has_said_empty = True
                logger.error("%s: the discovery still has no servers: none is left", self._backend)
            self._dirty = dict.fromkeys(self.applied)
        present: dict[str, Endpoint] = {}
        gone: list[str] = []
        held: dict[str, None] = {}
        due: float | None = None
        names = list(islice(self._dirty, BATCH))
        # First those that leave: they make room.
        for name in names:
            if name not in self._wanted and name in self.applied:
                self._leave(name, now)
                gone.append(name)
        for name in names:
            del self._dirty[name]
            endpoint, before = self._wanted.get(name), self.applied.get(name)
            if endpoint is None or endpoint == before:
                continue
            if before is None:
                held_until = self._held_until(name, now)
                if held_until is not None:
                    held[name] = None
                    due = held_until if due is None else min(due, held_until)
                    continue
                if len(self.applied) >= self._max:
                    self._overflow()
                    continue
            else:
                self._up -= not before.leaves
            self._up += not endpoint.leaves
            self.applied[name] = present[name] = endpoint
        if self._is_over and gone:
            self._refill()
        if self._dirty:
            due = now
        self._dirty.update(held)
        return Changes(present, gone, due)

    def _leave(self, name: str, now: float) -> None:
        self._up -= not self.applied.pop(name).leaves
        times, last = self._departed.pop(name, (0, now))
        self._departed[name] = (times + 1 if now - last <= _FLAP_WINDOW else 1), now
        if len(self._departed) > _MOST_DEPARTED:
            del self._departed[next(iter(self._departed))]

    def _held_until(self, name: str, now: float) -> float | None:
        """Until when a server that comes back is left out; None: it is not."""
        times, last = self._departed.get(name, (0, 0.0))
        if times < _FLAPS or not self._flap_hold:
            return None
        if name not in self._came:
            self._came[name] = now
            if self._up and now - last <= _FLAP_WINDOW and name not in self._said:
                if len(self._said) >= _MOST_DEPARTED:
                    self._said.clear()
                self._said.add(name)
                logger.warning(
                    "%s: %s has left %d times in a short time: it comes back when it has stayed "
                    "for %s", self._backend, name, times, format_duration(self._flap_hold),
                )  # fmt: skip
        until = self._came[name] + self._flap_hold
        if now >= until or now - last > _FLAP_WINDOW or not self._up:
            del self._came[name]
            self._said.discard(name)
            return None
        return until

    def _overflow(self) -> None:
        if not self._is_over:
            self._is_over = True
            logger.warning(
                "%s: the discovery has more than %d servers (max_servers): the rest is left out",
                self._backend, self._max,
            )  # fmt: skip

    def _refill(self) -> None:
        """Servers have left: those that were left out may come in."""
        self._is_over = len(self._wanted) > self._max
        self._dirty.update((name, None) for name in self._wanted if name not in self.applied)
