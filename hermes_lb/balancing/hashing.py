"""The same key goes to the same server: what the strategies that hash have in common.

A key is hashed by BLAKE2b without a secret, so that several balancers with the same servers agree.
That also means that a client which chooses its key can choose its server; the bound on loads keeps
what that can do small.
"""

from __future__ import annotations

from hashlib import blake2b
from math import log
from typing import TYPE_CHECKING, Final

from hermes_lb.http.keys import key_finder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.base import Request

    KeySource = Callable[[Request], bytes]

CLIENT: Final = "client"
# How far a key looks for a server that can take it before all candidates are listed, in O(n).
STEPS: Final = 64


def hash64(key: bytes) -> int:
    """From 0 to 2^64 - 1."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def key_source(hash_on: str) -> KeySource:
    """`"client"`, `"header:NAME"`, `"cookie:NAME"` or `"query:NAME"` -> what finds the key.

    A request without it, or with an empty one, is hashed by its client's address.
    """
    if hash_on == CLIENT:
        return _client_address
    find = key_finder(hash_on)

    def key(request: Request) -> bytes:
        return find(request.request_head) or _client_address(request)

    return key


def _client_address(request: Request) -> bytes:
    return request.client_address.encode()


class Hashed:
    """A key's servers in the order of its preference; the first that can take the request gets it.

    With a `load_factor` of 1.25 none gets more than 1.25 times its share of what is in flight, by
    weight and rounded up (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads",
    2017): over that the key's next server is asked. 0: no bound.
    """

    def __init__(self, hash_on: str = CLIENT, load_factor: float = 1.25) -> None:
        self._key = key_source(hash_on)
        self._factor = load_factor
        self._up: list[Server] = []
        self._weight_up: float = 0
        self._weights: tuple[int, ...] | None = None

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        if pool.weights is not self._weights:
            self._weights = pool.weights
            self._build(pool.primaries)
        if pool.up is not self._up:
            self._up = pool.up
            self._weight_up = sum(server.weight for server in pool.up)
        hashed = hash64(self._key(request))
        if self._weight_up:
            # in_flight < ceil(x) is in_flight < x. Products, as quotients would be rounded.
            total = self._weight_up
            allowed = self._factor * (pool.in_flight + 1) or float("inf")
            tried = request.tried
            for server in self._preferred(hashed):
                if (
                    server.can_take(now)
                    and server.in_flight * total < allowed * server.weight
                    and server not in tried
                ):
                    return server
        return self._among(pool.candidates(request.tried, now), hashed)

    def owner(
        self,
        pool: Pool,
        key: bytes,
        now: float,
        *,
        is_strict: bool = False,
        tried: Collection[Server] = (),
    ) -> Server | None:
        """Whose the key is, loads aside: of those that may serve, or of all (`is_strict`), without
        those `tried`. If none of these may serve, of those that only their failures keep out.
        None: there is none whose weight is not 0.

        Each key has an order of all servers, the backups behind the primaries, in which its owner
        is the first. It goes by full weights, so that a slow start moves no key.
        """
        if pool.weights is not self._weights:
            self._weights = pool.weights
            self._build(pool.primaries)
        hashed = hash64(key)
        for server in self._preferred(hashed):
            if server not in tried and (is_strict or server.may_serve(now)):
                return server
        weighted = [s for s in (*pool.primaries, *pool.backups) if s.full_weight and s not in tried]
        fit = weighted if is_strict else [s for s in weighted if s.may_serve(now)]
        if not fit:
            fit = [s for s in weighted if s.is_able]
            for server in self._preferred(hashed):
                if server in fit:
                    return server
        first = [s for s in fit if not s.config.backup] or fit
        return _by_rendezvous(((s, s.full_weight) for s in first), hashed)

    def _build(self, servers: list[Server]) -> None:
        """Prepare for these servers, which may be down; weights of 0 have no share."""
        raise NotImplementedError

    def _preferred(self, hashed: int) -> Iterator[Server]:
        """At most `STEPS` servers, the key's own first; the same one may come again."""
        raise NotImplementedError

    def _among(self, candidates: list[Server], hashed: int) -> Server | None:
        """Of servers on no table, or too far on it; the bound is that of these alone."""
        total = sum(server.weight for server in candidates)
        allowed = self._factor * (sum(s.in_flight for s in candidates) + 1) or float("inf")
        return _by_rendezvous(
            ((s, s.weight) for s in candidates if s.in_flight * total < allowed * s.weight),
            hashed,
        )


def _by_rendezvous(weighted: Iterable[tuple[Server, float]], hashed: int) -> Server | None:
    """The key's first of these (server, weight), by a hash of key and name: it needs no table.

    Each is first as often as its weight says (Schindelhauer, Schomaker, 2005).
    """

    def score(one: tuple[Server, float]) -> float:
        server, weight = one
        drawn = hash64(server.name.encode() + hashed.to_bytes(8, "big"))
        return weight / -log((drawn + 0.5) / 2.0**64)

    first = max(weighted, key=score, default=None)
    return first[0] if first is not None else None
