"""/api/v1/scaling: the load of each backend, as autoscalers read it (KEDA's `metrics-api`).

Flat objects of numbers, so that a path such as `agents.demand` finds one (KEDA's `valueLocation`).
The path and the names are stable: docs/kubernetes.md.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from hermes_lb.control import shapes
from hermes_lb.control.endpoints import get
from hermes_lb.control.history import available
from hermes_lb.control.operator import find_backend

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from hermes_lb.backends import Pool
    from hermes_lb.control.operator import Operator

# Seconds between two readings, and how many are kept: rates are of the last minute.
_STEP: Final = 5.0
_READINGS: Final = 13


class Reading(NamedTuple):
    """Sums over a backend's servers, since the start. `waited`: seconds in the queue."""

    at: float
    requests: int
    bytes_out: int
    waited: float


class Scaling:
    """Call `sample` once a second, with the data path's clock."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = pools
        self._readings: dict[str, deque[Reading]] = {}
        self._queued_since: dict[str, float] = {}  # of backends whose queue is not empty

    def sample(self, now: float) -> None:
        for name in self._readings.keys() - self._pools.keys():
            del self._readings[name]
        for name, pool in self._pools.items():
            readings = self._readings.setdefault(name, deque(maxlen=_READINGS))
            if not readings or now - readings[-1].at >= _STEP - 0.5:
                readings.append(_read(pool, now))
            if pool.queue_length:
                self._queued_since.setdefault(name, now)
            else:
                self._queued_since.pop(name, None)

    def describe(self, name: str, now: float) -> shapes.Scaling:
        """The numbers of one backend. Rates are 0 until there are two readings."""
        pool = self._pools[name]
        readings = self._readings.get(name, ())
        first, last = (readings[0], readings[-1]) if readings else (_read(pool, now),) * 2
        seconds = last.at - first.at or 1.0
        # Less than before: a server has left, and took its counters.
        requests = max(0, last.requests - first.requests)
        waited = max(0.0, last.waited - first.waited)
        queued = pool.queue_length
        since = self._queued_since.get(name, now) if queued else now
        return {
            "servers": len(pool.servers),
            "available": available(pool, now),
            "in_flight": pool.in_flight,
            "queued": queued,
            "demand": pool.in_flight + queued,
            "queued_for": round(max(0.0, now - since), 1),
            "queue_wait": round(waited / requests, 3) if requests else 0.0,
            "requests_per_second": round(requests / seconds, 3),
            "bytes_per_second": round(max(0, last.bytes_out - first.bytes_out) / seconds, 1),
        }


def _read(pool: Pool, now: float) -> Reading:
    tables = [pool.unserved, *(server.counters for server in pool.servers)]
    return Reading(
        now,
        sum(sum(table.responses) for table in tables),
        sum(table.bytes_out for table in tables),
        sum(table.waiting.total for table in tables),
    )


class ScalingApi:
    """The handlers. `scaling` has to be sampled."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self.scaling = Scaling(operator.observed.pools)

    @get(
        "scaling", "The load of each backend, for autoscalers",
        answers=dict[str, shapes.Scaling],
    )  # fmt: skip
    async def all(self, request: web.Request) -> dict[str, shapes.Scaling]:
        self._operator.observed.refresh()
        now = self._operator.now()
        return {name: self.scaling.describe(name, now) for name in self._operator.observed.pools}

    @get(
        "scaling/{backend}", "The load of one backend, for autoscalers",
        answers=shapes.Scaling, errors=(404,),
    )  # fmt: skip
    async def one(self, request: web.Request) -> shapes.Scaling:
        pool = find_backend(self._operator.observed.pools, request.match_info["backend"])
        self._operator.observed.refresh()
        return self.scaling.describe(pool.name, self._operator.now())
