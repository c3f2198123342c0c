"""A ring of points, many for each server; a key belongs to the next point on it.

Karger et al., "Consistent Hashing and Random Trees" (1997); 160 points for each unit of weight, as
in libketama and nginx (`hash ... consistent`), though at other places. Costs a hash and a binary
search; the ring is built once, in about 1 us a point. Best where a server keeps something for its
clients: a cache, a session in memory. A server that leaves moves only its own keys, and they spread
over all others; more keys move only if the unit of weight changes (`unit_of`). Misleads
where few keys make most of the requests (one NAT, one tenant), and it spreads keys by about 8 %
unevenly (160 points): `maglev` is evener.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hermes_lb.balancing.hashing import DEFAULTS, STEPS, Hashed, HashOptions
from hermes_lb.balancing.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.backends import Server

POINTS: Final = 160
# The usual weight is up to 7 units, so it has 112 to 1,120 points. Far from 10 and 100, which
# people write: 7 servers of 50 may be joined by 2 of 100, and 5 of 100 by 5 of weight 1.
MOST_UNITS: Final = 7
# 1,600 servers of weight 1, built in 0.3 s. Beyond, the unit is doubled.
MOST_POINTS: Final = 256_000


class ConsistentHash(Hashed):
    """`balance = "consistent_hash"`. Keys belong to names, whatever the order of the servers and
    their addresses."""

    rule = "the key's own server, or the next on the ring while one is over the bound"

    def __init__(self, options: HashOptions = DEFAULTS) -> None:
        super().__init__(options)
        self._ring = Ring([], [])

    def _build(self, servers: list[Server]) -> None:
        weights = [server.full_weight for server in servers]
        counts = points_by_weight(weights, [server.config.weight for server in servers])
        self._ring = Ring(servers, counts)

    def _preferred(self, hashed: int) -> Iterator[Server]:
        return self._ring.preferred(hashed, STEPS)


def points_by_weight(weights: list[int], configured: list[int]) -> list[int]:
    """160 for each unit of the weights at present, rounded half up; at least 1, but 0 for 0."""
    unit = unit_of(weights, configured)
    return [max(1, (2 * POINTS * w + unit) // (2 * unit)) if w else 0 for w in weights]


def unit_of(weights: list[int], configured: list[int]) -> int:
    """The weight that has 160 points; a change of it moves the keys of all servers.

    It is the least power of ten of which the usual weight has 7 at most; the usual weight is the
    mean of the heavier two thirds of the configured ones, so that no canary counts. A step as
    coarse as that is crossed seldom when servers join or leave. (The weights' common divisor
    changes with any one of them, the most frequent weight where two are about as frequent.)

    For too many points the unit is doubled. Weights at run time count there only where they exceed
    the configured ones: to lower one, or to restore it, moves that server's keys only.
    """
    heavier = sorted(configured)[len(configured) // 3 :]
    unit = 1
    while sum(heavier) > MOST_UNITS * unit * len(heavier):
        unit *= 10
    total = sum(map(max, weights, configured))
    while POINTS * total > MOST_POINTS * unit:
        unit *= 2
    return unit
