"""Maxima, downtime and counters since the start, or since an operator has cleared them.

HAProxy's page has them, and its `clear counters`. The metrics are not cleared: Prometheus takes a
counter that falls for a restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.backends.server import IN_SERVICE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hermes_lb.backends import Pool, Server
    from hermes_lb.control.history import Key
    from hermes_lb.control.shapes import Tally

    Shown = Mapping[str, Any]

# Fields of a `_Record`, as they are handed to the next generation.
_FIELDS = (
    "since", "changed_at", "downs", "downtime", "max_in_flight", "max_queued", "max_rate",
)  # fmt: skip


class _Record:
    """Of one server or backend."""

    __slots__ = (*_FIELDS, "is_out", "looked_at", "state")

    def __init__(self, wall: float) -> None:
        self.since = wall
        self.changed_at: float | None = None
        self.downs = 0
        self.downtime = 0.0
        self.max_in_flight = 0
        self.max_queued = 0
        self.max_rate = 0.0
        self.state: str | None = None  # None: not seen yet
        self.is_out = False
        self.looked_at = wall

    def look(self, wall: float, state: str, *, is_out: bool, in_flight: int, queued: int) -> None:
        if self.is_out:
            self.downtime += max(0.0, wall - self.looked_at)
        self.looked_at = wall
        if state != self.state:
            if self.state is not None:
                self.changed_at = wall
                self.downs += is_out and not self.is_out
            self.state, self.is_out = state, is_out
        self.max_in_flight = max(self.max_in_flight, in_flight)
        self.max_queued = max(self.max_queued, queued)


class Tallies:
    """Call `look` about once a second, with the Unix time."""

    def __init__(self) -> None:
        self._records: dict[Key, _Record] = {}
        self._base: dict[Key, Shown] = {}  # the counters when they were cleared

    def look(self, pools: Mapping[str, Pool], wall: float) -> None:
        known, self._records = self._records, {}
        for name, pool in pools.items():
            up = False
            for server in pool.servers:
                self._look_at((name, server.name), server, known, wall)
                up = up or server.state in IN_SERVICE
            record = self._records[name, None] = known.get((name, None)) or _Record(wall)
            record.look(
                wall, "up" if up else "down", is_out=not up,
                in_flight=pool.in_flight, queued=pool.queue_length,
            )  # fmt: skip

    def _look_at(self, key: Key, server: Server, known: Mapping[Key, _Record], wall: float) -> None:
        record = self._records[key] = known.get(key) or _Record(wall)
        state = server.state
        record.look(
            wall, state, is_out=state not in IN_SERVICE,
            in_flight=server.in_flight, queued=server.queued,
        )  # fmt: skip

    def rate(self, key: Key, requests: float) -> None:
        """Requests a second, by the last sample; NaN: unknown."""
        record = self._records.get(key)
        if record is not None and requests > record.max_rate:
            record.max_rate = round(requests, 3)

    def of(self, key: Key) -> Tally | None:
        """None before the first look."""
        record = self._records.get(key)
        if record is None:
            return None
        return {
            "since": record.since,
            "changed_at": record.changed_at,
            "downs": record.downs,
            "downtime": round(record.downtime, 1),
            "max_in_flight": record.max_in_flight,
            "max_queued": record.max_queued,
            "max_rate": record.max_rate,
        }

    def clear(self, counters: Mapping[Key, Shown], wall: float) -> None:
        """Count from here; `counters` are those of now."""
        self._base = dict(counters)
        for key, record in self._records.items():
            fresh = self._records[key] = _Record(wall)
            fresh.state, fresh.is_out = record.state, record.is_out

    def since_cleared(self, key: Key, counters: dict[str, Any]) -> dict[str, Any]:
        """Counters without what was counted before; all, if they belong to a newer server."""
        base = self._base.get(key)
        if base is None:
            return counters
        less = {name: _less(value, base.get(name)) for name, value in counters.items()}
        return counters if any(map(_is_negative, less.values())) else less

    # For the next generation.

    def state(self) -> dict[str, Any]:
        """JSON for `restore`."""
        return {
            "records": [
                [*key, {field: getattr(record, field) for field in _FIELDS}]
                for key, record in self._records.items()
            ],
            "base": [[*key, dict(shown)] for key, shown in self._base.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Empty: of older code."""
        for backend, server, values in state.get("records", ()):
            record = self._records[backend, server] = _Record(values["since"])
            for field in _FIELDS:
                setattr(record, field, values[field])
        self._base = {(backend, server): shown for backend, server, shown in state.get("base", ())}


def _less(value: Any, base: Any) -> Any:
    if isinstance(value, dict):
        return {name: one - (base or {}).get(name, 0) for name, one in value.items()}
    return value - (base or 0)


def _is_negative(value: Any) -> bool:
    return any(one < 0 for one in value.values()) if isinstance(value, dict) else value < 0
