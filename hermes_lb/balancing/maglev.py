"""A table of 65,537 entries, which the servers fill in turn; a key belongs to one entry.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section
3.4; weights as in Envoy's `maglev_lb.cc`: a server with half of the largest weight takes every
second turn. Costs a hash and one look-up; the table is built once, in about 0.1 s. Best for an even
spread of many keys: the servers' shares of the table differ by one entry. Misleads like any hash
where few keys make most of the requests; and another set of servers moves some keys without need:
0.3 % of all with ten servers, 0.6 to 0.9 % with hundreds, whatever the weights are.

A server that is down keeps its entries, and their keys go on to others in steps that depend on the
key: so a failure moves only the keys of the failed server, and the table is not rebuilt.
"""

from __future__ import annotations

from functools import lru_cache
from heapq import heapify, heapreplace
from typing import TYPE_CHECKING, ClassVar

from hermes_lb.balancing.hashing import DEFAULTS, STEPS, Hashed, HashOptions, hash64

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.backends import Server


class Maglev(Hashed):
    """`balance = "maglev"`. `size` is a prime, more than 100 times the number of servers for shares
    within 1 %."""

    rule = "the key's own server, or its next entry while one is over the bound"

    size: ClassVar[int] = 65_537

    def __init__(self, options: HashOptions = DEFAULTS) -> None:
        super().__init__(options)
        self._entries: list[Server] = []

    def _build(self, servers: list[Server]) -> None:
        # By name: the first of equals chooses first, and the order in the file must not matter.
        owners = sorted((s for s in servers if s.full_weight), key=lambda server: server.name)
        weighted = tuple((server.name, server.full_weight) for server in owners)
        self._entries = [owners[place] for place in table(weighted, self.size)]

    def _preferred(self, hashed: int) -> Iterator[Server]:
        entries = self._entries
        size = len(entries)
        if not size:
            return
        rest, entry = divmod(hashed, size)
        yield entries[entry]
        step = rest % (size - 1) + 1  # of a prime size: each entry comes once
        for _ in range(STEPS - 1):
            entry = (entry + step) % size
            yield entries[entry]


@lru_cache(maxsize=16)
def table(servers: tuple[tuple[str, int], ...], size: int) -> tuple[int, ...]:
    """(name, weight) of each -> the index of each entry's owner; empty without servers."""
    if not servers:
        return ()
    permutations = [permutation(name, size) for name, _ in servers]
    return fill(permutations, [weight for _, weight in servers], size)


def permutation(name: str, size: int) -> tuple[int, int]:
    """Offset and skip: the server prefers the entries offset, offset + skip, ... (mod size)."""
    offset = hash64(b"offset " + name.encode()) % size
    return offset, hash64(b"skip " + name.encode()) % (size - 1) + 1


def fill(permutations: list[tuple[int, int]], weights: list[int], size: int) -> tuple[int, ...]:
    """Figure 5 of the paper: in turn, each takes its most preferred of the entries left."""
    entries = [-1] * size
    following = [offset for offset, _ in permutations]
    skips = [skip for _, skip in permutations]
    most = max(weights)
    # (time, place): the k-th turn of a server comes at k x (the largest weight / its own).
    turns = [(most / weight, place) for place, weight in enumerate(weights)]
    taken = [1] * len(weights)
    heapify(turns)
    for _ in range(size):
        place = turns[0][1]
        entry, skip = following[place], skips[place]
        while entries[entry] >= 0:
            entry = (entry + skip) % size
        entries[entry] = place
        following[place] = (entry + skip) % size
        taken[place] = turn = taken[place] + 1
        heapreplace(turns, (most * turn / weights[place], place))
    return tuple(entries)
