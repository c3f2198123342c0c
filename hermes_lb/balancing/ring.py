"""The points of servers on a ring, in order: a key belongs to the next point."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from hashlib import blake2b
from struct import unpack
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from hermes_lb.backends import Server

_AT_ONCE: Final = 8  # points from one digest of 64 bytes
_BITS: Final = 64  # of a point
# Points of one part of the ring, by a power of 2. A search is of one part: 5 steps and not 17.
_PART_BITS: Final = 5


class Ring:
    """Immutable. `counts`: how many points each of the servers has.

    A place counts from the end (-n), so that the ring goes on at 0.
    """

    def __init__(self, servers: list[Server], counts: list[int]) -> None:
        owners: dict[int, Server] = {}
        for server, count in zip(servers, counts, strict=True):
            owners.update(dict.fromkeys(_points(server.name, count), server))
        ring = sorted(owners)
        self.points = array("Q", ring)
        self.owners = [owners[point] for point in ring]
        bits = max(0, len(ring).bit_length() - _PART_BITS)
        self._shift = _BITS - bits
        # Where each part begins, by the first bits of its points; and the end.
        starts = [bisect_left(ring, part << self._shift) for part in range(1 << bits)]
        self._starts = [*starts, len(ring)]

    def preferred(self, hashed: int, steps: int) -> Iterator[Server]:
        """At most `steps` servers, the key's own first, with repetition."""
        owners, starts, part = self.owners, self._starts, hashed >> self._shift
        place = bisect_left(self.points, hashed, starts[part], starts[part + 1]) - len(owners)
        for step in range(min(steps, len(owners))):
            yield owners[place + step]

    def first(
        self, hashed: int, steps: int, other: Server | None, tried: Collection[Server], now: float
    ) -> Server | None:
        """The first of `preferred` that can take the request, and is not the `other`; without the
        cost of a generator."""
        owners, starts, part = self.owners, self._starts, hashed >> self._shift
        place = bisect_left(self.points, hashed, starts[part], starts[part + 1]) - len(owners)
        for step in range(min(steps, len(owners))):
            server = owners[place + step]
            if server is not other and server.can_take(now) and server not in tried:
                return server
        return None


def _points(name: str, count: int) -> list[int]:
    """The first `count` of an endless sequence: a greater weight only adds points."""
    points: list[int] = []
    for number in range(-(-count // _AT_ONCE)):
        points += unpack(">8Q", blake2b(f"{name}#{number}".encode()).digest())
    return points[:count]
