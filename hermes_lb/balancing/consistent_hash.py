"""A ring of points, many for each server; a key belongs to the next point on it.

Karger et al., "Consistent Hashing and Random Trees" (1997); 160 points for each unit of weight, as
in libketama and nginx (`hash ... consistent`), though at other places. Costs a hash and a binary
search; the ring is built once, in about 1 us a point. Best where a server has something of its
client's: a cache, a session in memory. A server that leaves moves only its own keys, and they
spread over all others. Misleads where few keys make most of the requests (one NAT, one tenant), and
it spreads keys by about 8 % unevenly: `maglev` is evener.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from hashlib import blake2b
from math import gcd
from struct import unpack
from typing import TYPE_CHECKING, Final

from hermes_lb.balancing.hashing import CLIENT, STEPS, Hashed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.pool import Server

POINTS: Final = 160
# 1,600 servers of weight 1. Beyond, the points of all are reduced in proportion.
MOST_POINTS: Final = 256_000
_AT_ONCE: Final = 8  # points from one digest of 64 bytes


class ConsistentHash(Hashed):
    """Keys belong to names: the order of the servers does not matter, nor do their addresses."""

    def __init__(self, hash_on: str = CLIENT, load_factor: float = 1.25) -> None:
        super().__init__(hash_on, load_factor)
        self._points = array("Q")
        self._owners: list[Server] = []

    def _build(self, servers: list[Server]) -> None:
        # The configured weights', so that a change at run time moves no keys but that server's.
        unit = gcd(*(server.config.weight for server in servers))
        counts = points_by_weight([server.full_weight for server in servers], unit)
        ring = sorted(
            (point, place)
            for place, count in enumerate(counts)
            for point in _points(servers[place].name, count)
        )
        self._points = array("Q", [point for point, _ in ring])
        self._owners = [servers[place] for _, place in ring]

    def _preferred(self, hashed: int) -> Iterator[Server]:
        owners = self._owners
        place = bisect_left(self._points, hashed) - len(owners)  # from -n: the ring goes on at 0
        for step in range(min(STEPS, len(owners))):
            yield owners[place + step]


def points_by_weight(weights: list[int], unit: int) -> list[int]:
    """160 for each unit: `[1, 2]` -> `[160, 320]`, and `[10, 20]` too, by 10."""
    counts = [POINTS * weight // unit for weight in weights]
    total = sum(counts)
    if total <= MOST_POINTS:
        return counts
    return [max(1, count * MOST_POINTS // total) if count else 0 for count in counts]


def _points(name: str, count: int) -> list[int]:
    """The first `count` of an endless row: a greater weight only adds points."""
    points: list[int] = []
    for number in range(-(-count // _AT_ONCE)):
        points += unpack(">8Q", blake2b(f"{name}#{number}".encode()).digest())
    return points[:count]
