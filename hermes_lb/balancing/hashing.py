"""Consistent hashing with bounded loads: the base of the strategies that hash a key.

A key is hashed by BLAKE2b without a secret, so that several balancers with the same servers agree.
A client that chooses its key can therefore choose its server; the bound on loads limits the damage.
"""

from __future__ import annotations

from hashlib import blake2b
from math import ceil, log
from typing import TYPE_CHECKING, ClassVar, Final

from pydantic import Field, field_validator

from hermes_lb.balancing.base import Strategy, StrategyOptions
from hermes_lb.balancing.explanation import Explanation, hindrance, names
from hermes_lb.http.keys import HASH_ON, key_finder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.explanation import View
    from hermes_lb.balancing.request import Request

    KeySource = Callable[[Request], bytes]

CLIENT: Final = "client"
# Servers that are tried for a key before all candidates are listed, in O(n).
STEPS: Final = 64


def hash64(key: bytes) -> int:
    """From 0 to 2^64 - 1."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def key_source(hash_on: str) -> KeySource:
    """`"client"`, `"header:NAME"`, `"cookie:NAME"` or `"query:NAME"` -> a function that returns the
    key of a request, or its client's address if it has no such key or an empty one."""
    if hash_on == CLIENT:
        return _client_address
    find = key_finder(hash_on)

    def key(request: Request) -> bytes:
        return find(request.request_head) or _client_address(request)

    return key


def _client_address(request: Request) -> bytes:
    return request.client_address.encode()


class KeyOptions(StrategyOptions):
    hash_on: str = Field(CLIENT, pattern=HASH_ON)

    @property
    def header_keys(self) -> tuple[str, ...]:
        kind, _, name = self.hash_on.partition(":")
        return (name,) if kind == "header" else ()


class HashOptions(KeyOptions):
    # Envoy and HAProxy have no bound by default. A tighter one sends more keys to other servers.
    load_factor: float = Field(1.25, ge=0.0, le=1000.0)

    @field_validator("load_factor")
    @classmethod
    def _leaves_room(cls, factor: float) -> float:
        if 0.0 < factor < 1.0:
            raise ValueError("write 1.0 or more, or 0.0 for no bound")
        return factor


DEFAULTS: Final = HashOptions()


class Hashed(Strategy):
    """A key has an order of all servers; the first that can take the request gets it.

    With a `load_factor` of 1.25 a server has at most 1.25 times its share of the requests in
    flight, by weight and rounded up (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with
    Bounded Loads", 2017); a key whose server is over the bound goes to its next one. 0: no bound.
    """

    options: ClassVar[type[StrategyOptions]] = HashOptions

    def __init__(self, options: HashOptions = DEFAULTS) -> None:
        self._key = key_source(options.hash_on)
        self._factor: float = options.load_factor
        self._up: list[Server] = []
        self._weight_up = 0.0
        self._weights: tuple[int, ...] | None = None

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        self._prepare(pool)
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
        """The key's server, whatever the loads are: of those that may serve, or of all
        (`is_strict`), without those `tried`. None: there is no server with a weight above 0.
        If none of these may serve, of those that only their failures keep out.

        Each key has an order of all servers, the backups after the primaries, in which its owner
        is the first. It depends on full weights, so that a slow start moves no key.
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

    def _prepare(self, pool: Pool) -> None:
        """Follow the pool's servers and their weights."""
        if pool.weights is not self._weights:
            self._weights = pool.weights
            self._build(pool.primaries)
        if pool.up is not self._up:
            self._up = pool.up
            self._weight_up = sum(server.weight for server in pool.up)

    def _build(self, servers: list[Server]) -> None:
        """Prepare for these servers, which may be down; weights of 0 have no share."""
        raise NotImplementedError

    def _preferred(self, hashed: int) -> Iterator[Server]:
        """At most `STEPS` servers, the key's own first, with repetition."""
        raise NotImplementedError

    def _among(self, candidates: list[Server], hashed: int) -> Server | None:
        """A server that is in no table, or too far in it; the bound is that of these alone."""
        total = sum(server.weight for server in candidates)
        allowed = self._factor * (sum(s.in_flight for s in candidates) + 1) or float("inf")
        return _by_rendezvous(
            ((s, s.weight) for s in candidates if s.in_flight * total < allowed * s.weight),
            hashed,
        )

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        return lambda picked: self._explanation(view, picked)

    def _explanation(self, view: View, picked: Server) -> Explanation:
        pool, key = view.pool, self._key(view.request)
        total = sum(server.weight for server in pool.up)
        allowed = self._factor * (pool.in_flight + 1) or float("inf")
        asked: list[Server] = []
        rows: list[tuple[Server, str]] = []
        while picked not in asked:
            server = self.owner(pool, key, view.now, is_strict=True, tried=asked)
            if server is None:
                break
            asked.append(server)
            text = hindrance(server, view)
            if not text and self._factor:
                text = f", bound {ceil(allowed * server.weight / total)}"
                text += ": no room" if server.in_flight * total >= allowed * server.weight else ""
            rows.append((server, text))
        fact = (
            f"the key belongs to {names(asked[:1]) or 'no server'}, by the hash of "
            f"{key.decode(errors='replace')}; "
            "the bound is the most a server may have in flight, with this request"
        )
        if picked not in asked:
            because = (
                "is the choice of rendezvous hashing among all that can: none of the key's own can"
            )
        elif len(asked) == 1:
            because = "is the key's own server"
        else:
            because = (
                f"is the first of the key's servers with room; {len(asked) - 1} came before it"
            )
        return Explanation(rows, because, fact)


def _by_rendezvous(weighted: Iterable[tuple[Server, float]], hashed: int) -> Server | None:
    """The key's first of these (server, weight), by a hash of key and name: it needs no table.

    Each is first in proportion to its weight (Schindelhauer, Schomaker, 2005).
    """

    def score(one: tuple[Server, float]) -> float:
        server, weight = one
        drawn = hash64(server.name.encode() + hashed.to_bytes(8, "big"))
        return weight / -log((drawn + 0.5) / 2.0**64)

    first = max(weighted, key=score, default=None)
    return first[0] if first is not None else None
