"""Samples of the last minutes: rates, queues and percentiles; and state changes with reasons.

Taken from the counters, at no cost for the data path. Memory is bounded: 44 bytes per sample of a
server, 29 kB for all of its samples, and 7 kB for the counters of the last ones.
"""

from __future__ import annotations

import math
from array import array
from base64 import b64decode, b64encode
from collections import deque
from operator import add, sub
from typing import TYPE_CHECKING, Any, NamedTuple

from hermes_lb.backends.counters import FINE_BOUNDS
from hermes_lb.backends.histogram import quantiles
from hermes_lb.backends.server import STATES
from hermes_lb.control.tally import Tallies

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hermes_lb.backends import Pool, RequestCounters, Server

Key = tuple[str, str | None]  # backend and server; None: the whole backend

QUANTILES = (0.5, 0.95, 0.99)
FIELDS = (
    "requests",  # ended, per second
    "errors",  # responses of 500 or above, or streams cut by the server, per second
    "in_flight",
    "queued",
    "state",  # index into SHOWN_STATES; of a backend: the number of available servers
    "latency_p50", "latency_p95", "latency_p99",  # seconds; NaN if no request ended
    "first_byte_p50", "first_byte_p95", "first_byte_p99",
)  # fmt: skip
"""Fields of a sample, each a float32; NaN is shown as `None`."""

# By name: seconds between samples, and the number kept.
SPANS = {"5m": (1.0, 300), "1h": (10.0, 360)}

_FINEST = 1.0

# A server that is up by default only, as no active check has had a result, is "unchecked".
SHOWN_STATES = (*STATES, "unchecked")

# Why a server without checks is up again, by the state that it leaves.
_RETURNS = {"failing": "it has answered a request", "ejected": "its time is over"}

_MOST_CHANGES = 200


class Totals(NamedTuple):
    """Counters since the start."""

    requests: int
    errors: int
    latency: list[int]  # by bucket
    first_byte: list[int]

    @classmethod
    def of(cls, counters: RequestCounters) -> Totals:
        # Most streams cut by a server have status 200, and most other aborts also a response of
        # 502. The larger of both numbers avoids counting twice.
        return cls(
            sum(counters.responses),
            max(counters.responses[5], counters.aborted_by_server),
            list(counters.duration.counts),
            list(counters.first_byte.counts),
        )

    def __add__(self, other: object) -> Totals:
        if not isinstance(other, Totals):
            return NotImplemented
        return Totals(
            self.requests + other.requests,
            self.errors + other.errors,
            list(map(add, self.latency, other.latency)),
            list(map(add, self.first_byte, other.first_byte)),
        )


class Span:
    """A ring buffer of samples at equal distances."""

    def __init__(self, step: float, size: int) -> None:
        self.step = step
        self._size = size
        self._count = 0  # samples ever finished
        self._sampled_at = -math.inf
        self.wall = 0.0  # Unix time of the last finished sample
        self._times = array("d", [math.nan]) * size
        self._samples: dict[Key, list[array[float]]] = {}
        self._totals: dict[Key, Totals] = {}

    def is_due(self, now: float) -> bool:
        """Half of the finest step early is due, as timers are inexact."""
        return now - self._sampled_at >= self.step - 0.5

    def begin(self, now: float, wall: float, keys: set[Key]) -> float:
        """Start a sample -> seconds since the previous one (0 for the first).

        It is invisible until `finish`, as readers may run while it is made.
        """
        seconds = 0.0 if self._count == 0 else now - self._sampled_at
        self._sampled_at = now
        self._times[self._count % self._size] = wall
        for gone in self._samples.keys() - keys:
            del self._samples[gone]
            self._totals.pop(gone, None)  # absent after a `restore`
        return seconds

    def add(self, key: Key, seconds: float, totals: Totals, gauges: Sequence[float]) -> float:
        """`gauges`: in_flight, queued and state -> requests a second; NaN: unknown."""
        before = self._totals.get(key)
        self._totals[key] = totals
        rates = (math.nan, math.nan)
        times = [math.nan] * 6
        # Counters that decreased belong to a new server under an old name.
        if before is not None and seconds > 0 and totals.requests >= before.requests:
            ended = totals.requests - before.requests
            rates = (ended / seconds, max(0, totals.errors - before.errors) / seconds)
            if ended:
                for n, (old, new) in enumerate(zip(before[2:], totals[2:], strict=True)):
                    counts = list(map(sub, new, old))
                    if sum(counts):
                        times[3 * n : 3 * n + 3] = quantiles(FINE_BOUNDS, counts, QUANTILES)
        columns = self._samples.get(key)
        if columns is None:
            columns = [array("f", [math.nan]) * self._size for _ in FIELDS]
            self._samples[key] = columns
        slot = self._count % self._size
        for column, value in zip(columns, (*rates, *gauges, *times), strict=True):
            column[slot] = value
        return rates[0]

    def finish(self) -> None:
        """Make the sample visible."""
        self.wall = round(self._times[self._count % self._size], 1)
        self._count += 1

    def times(self) -> list[float]:
        """Unix seconds of the samples, oldest first."""
        return [round(time, 1) for time in self._in_order(self._times)]

    def read(self, key: Key, fields: Sequence[str]) -> dict[str, list[float | None]]:
        """The columns of one server or backend, aligned with `times`."""
        columns = self._samples.get(key)
        if columns is None:
            return {}
        return {f: [_shown(v) for v in self._in_order(columns[FIELDS.index(f)])] for f in fields}

    def latest(self, key: Key) -> dict[str, float | None]:
        """The last sample; empty before the first."""
        columns = self._samples.get(key)
        if columns is None or self._count == 0:
            return {}
        slot = (self._count - 1) % self._size
        return {field: _shown(column[slot]) for field, column in zip(FIELDS, columns, strict=True)}

    def state(self) -> dict[str, Any]:
        """All but the totals: after counters restart, the first sample has no rates."""
        return {
            "count": self._count,
            "sampled_at": self._sampled_at,
            "wall": self.wall,
            "times": _packed(self._times),
            "samples": [
                [*key, [_packed(column) for column in columns]]
                for key, columns in self._samples.items()
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self._count, self._sampled_at = state["count"], state["sampled_at"]
        self.wall = state["wall"]
        self._times = _unpacked("d", state["times"])
        for backend, server, columns in state["samples"]:
            self._samples[backend, server] = [_unpacked("f", column) for column in columns]

    def _in_order(self, column: array[float]) -> array[float]:
        if self._count <= self._size:
            return column[: self._count]
        slot = self._count % self._size
        return column[slot:] + column[:slot]


class Change(NamedTuple):
    """A change of a server's state."""

    number: int  # from 1, in order
    time: float  # Unix seconds
    backend: str
    server: str
    state: str
    because: str


class Drain(NamedTuple):
    """A drain in progress."""

    since: float  # Unix seconds
    at_start: int  # requests when it began


class History:
    """Call `sample` about once a second, and `look` right after a manual change."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = pools
        self.spans = {name: Span(*span) for name, span in SPANS.items()}
        self.changes: deque[Change] = deque(maxlen=_MOST_CHANGES)
        self.drains: dict[Key, Drain] = {}
        self.tallies = Tallies()
        self._states: dict[Key, tuple[str, str]] = {}  # actual and administrative
        self._totals: dict[Key, Totals] = {}  # of servers; of requests without one: ""
        self._sums: dict[str, tuple[Sequence[Totals], Totals]] = {}  # of backends, and their parts

    def state(self) -> dict[str, Any]:
        """JSON for the next generation's `restore`, 39 kB a server."""
        return {
            "layout": _layout(),
            "spans": {name: span.state() for name, span in self.spans.items()},
            "changes": [list(change) for change in self.changes],
            "drains": [[*key, *drain] for key, drain in self.drains.items()],
            "tallies": self.tallies.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Call before the first sample. A state with another layout (other code) is ignored."""
        if state.get("layout") != _layout():
            return
        for name, span in self.spans.items():
            span.restore(state["spans"][name])
        self.changes.extend(Change(*change) for change in state["changes"])
        for backend, server, *drain in state["drains"]:
            self.drains[backend, server] = Drain(*drain)
        self.tallies.restore(state.get("tallies", {}))

    def sample(self, now: float, wall: float) -> Iterator[None]:
        """Take the samples that are due. Yields between servers, so that others can run.

        `now` is the data path's clock, `wall` the Unix time.
        """
        self.look(wall)
        keys: set[Key] = {(p.name, s.name) for p in self._pools.values() for s in p.servers}
        keys |= {(name, None) for name in self._pools}
        due = [span for span in self.spans.values() if span.is_due(now)]
        since = [span.begin(now, wall, keys) for span in due]
        for pool in list(self._pools.values()):
            name, servers = pool.name, list(pool.servers)
            parts = [self._totals_of((name, ""), pool.unserved)]
            for server in servers:
                totals = self._totals_of((name, server.name), server.counters)
                parts.append(totals)
                gauges = (server.in_flight, server.queued, SHOWN_STATES.index(shown_state(server)))
                self._add(due, since, (name, server.name), totals, gauges)
                yield
            known, total = self._sums.get(name, ((), parts[0]))
            if parts != known:
                total = parts[0]
                for part in parts[1:]:
                    total += part
                    yield
                self._sums[name] = parts, total
            gauges = (pool.in_flight, pool.queue_length, available(pool, now))
            self._add(due, since, (name, None), total, gauges)
        for span in due:
            span.finish()
        self._totals = {
            key: one for key, one in self._totals.items() if (key[0], key[1] or None) in keys
        }
        self._sums = {name: one for name, one in self._sums.items() if (name, None) in keys}

    def _add(
        self,
        due: Sequence[Span],
        since: Sequence[float],
        key: Key,
        totals: Totals,
        gauges: Sequence[float],
    ) -> None:
        for span, seconds in zip(due, since, strict=True):
            rate = span.add(key, seconds, totals, gauges)
            if span.step == _FINEST:
                self.tallies.rate(key, rate)

    def _totals_of(self, key: Key, counters: RequestCounters) -> Totals:
        """Of the last sample, if no request has ended since."""
        known = self._totals.get(key)
        if known is None or known.requests != sum(counters.responses):
            known = self._totals[key] = Totals.of(counters)
        return known

    def look(self, wall: float) -> None:
        """Record state changes since the last look, and drains that have begun."""
        states: dict[Key, tuple[str, str]] = {}
        for pool in self._pools.values():
            for server in pool.servers:
                key = (pool.name, server.name)
                states[key] = (server.state, server.admin)
                self._note_change(pool.name, server, wall)
                self._note_drain(key, server, wall)
        self.drains = {key: drain for key, drain in self.drains.items() if key in states}
        self._states = states
        self.tallies.look(self._pools, wall)

    def _note_change(self, backend: str, server: Server, wall: float) -> None:
        before, admin = self._states.get((backend, server.name), (server.state, server.admin))
        if before != server.state:
            because = reason(server) if server.admin == admin else f"set to {server.admin}"
            if server.state == "up" and not server.is_checked:
                because = _RETURNS.get(before, because)
            number = self.changes[-1].number + 1 if self.changes else 1
            self.changes.append(Change(number, wall, backend, server.name, server.state, because))

    def _note_drain(self, key: Key, server: Server, wall: float) -> None:
        # The actual state may rank above it: ejected or down.
        if not (server.is_draining or server.admin == "maint"):
            self.drains.pop(key, None)
        elif key not in self.drains:
            self.drains[key] = Drain(wall, server.in_flight + server.queued)


def available(pool: Pool, now: float) -> int:
    """The number of servers of a backend that may get new requests."""
    return sum(server.is_in_rotation and server.may_serve(now) for server in pool.servers)


def shown_state(server: Server) -> str:
    """One of `SHOWN_STATES`."""
    return "unchecked" if server.state == "up" and not server.is_checked else server.state


def reason(server: Server) -> str:
    """The reason of a server's state."""
    if server.state == "ejected":
        return server.ejected_because
    if server.state == "failing":
        failures = "1 failure" if server.fails == 1 else f"{server.fails} failures"
        is_needed = server.in_panic or server.is_only_server
        others = ", but no other server is left" if is_needed else ""
        return f"{failures}{others}: {server.failed_because}"
    if server.state == server.admin:
        return f"set to {server.admin}"
    if server.state == "drain":
        return "leaves, by its discovery" if server.config.leaves else "announced by itself"
    return server.last_check or "not checked"


def _layout() -> list[Any]:
    """Identifies the layout of `state`, as it comes back from JSON."""
    spans = [[name, *span] for name, span in SPANS.items()]
    return [spans, list(FIELDS), list(SHOWN_STATES), list(Change._fields), list(Drain._fields)]


def _packed(column: array[float]) -> str:
    return b64encode(column.tobytes()).decode()


def _unpacked(kind: str, text: str) -> array[float]:
    return array(kind, b64decode(text))


def _shown(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
