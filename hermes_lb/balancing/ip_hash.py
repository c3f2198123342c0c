"""The same client address goes to the same server, by nginx's own hash.

nginx, `ngx_http_upstream_ip_hash_module.c`: the key is the first three octets of an IPv4 address
or all of an IPv6 one. A server that is down keeps its share of the hash, so that the rest of the
mapping stays; each further try hashes on. After 21 tries round-robin takes over.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from ipaddress import IPv4Address, ip_address
from itertools import accumulate
from typing import TYPE_CHECKING

from hermes_lb.balancing.base import NO_OPTIONS, StrategyOptions
from hermes_lb.balancing.explanation import Explanation, explain_turns, hindrance, names
from hermes_lb.balancing.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.explanation import View
    from hermes_lb.balancing.request import Request

_SEED = 89
_MODULUS = 6271
# nginx gives up at `if (++iphp->tries > 20)`: at the 21st refusal. A retry starts again here, where
# nginx goes on from its last pick; the picks are the same, as the tried ones are refused.
_MOST_TRIES = 21


@lru_cache(maxsize=8192)  # 2 MB; a miss costs 2 us
def hash_key(client_address: str) -> bytes:
    """`"10.0.1.7"` -> 3 bytes; an IPv6 address -> 16 bytes; anything else -> 3 zero bytes."""
    try:
        address = ip_address(client_address)
    except ValueError:
        return bytes(3)
    return address.packed[:3] if isinstance(address, IPv4Address) else address.packed


class IpHash(RoundRobin):
    """`balance = "ip_hash"`: affinity without cookies, for clients that keep their address."""

    rule = "the hash of the client's network, whatever the loads are"

    def __init__(self, options: StrategyOptions = NO_OPTIONS) -> None:
        super().__init__(options)
        self._weights: tuple[int, ...] = ()
        self._sums: list[int] = []  # of the weights up to each server

    def asked(self, pool: Pool, client_address: str) -> Iterator[Server]:
        """The servers that `pick` tries, in order, before round-robin takes over."""
        sums = list(accumulate(pool.weights))
        if len(sums) > 1 and (total := sums[-1]):
            key = hash_key(client_address)
            hashed = _SEED
            for _ in range(_MOST_TRIES):
                for byte in key:
                    hashed = (hashed * 113 + byte) % _MODULUS
                yield pool.primaries[bisect_right(sums, hashed % total)]

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        servers = pool.primaries
        if pool.weights is not self._weights:
            self._weights = pool.weights
            self._sums = list(accumulate(pool.weights))
        sums = self._sums
        if len(servers) > 1 and (total := sums[-1]):
            key = hash_key(request.client_address)
            hashed = _SEED
            for _ in range(_MOST_TRIES):
                for byte in key:
                    hashed = (hashed * 113 + byte) % _MODULUS
                server = servers[bisect_right(sums, hashed % total)]
                if server not in request.tried and server.can_take(now):
                    return server
        return super().pick(pool, request, now, rng)

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        in_turn = explain_turns(view, self.credits, by_load=False)

        def explanation(picked: Server) -> Explanation:
            asked = list(dict.fromkeys(self.asked(view.pool, view.request.client_address)))
            if picked in asked:
                asked = asked[: asked.index(picked) + 1]
                because = "has the hash of the client's network"
                if len(asked) > 1:
                    because += f"; by the hash {len(asked) - 1} came before it that cannot take it"
                return Explanation([(server, hindrance(server, view)) for server in asked], because)
            if not asked:
                return in_turn
            fact = f"the hash has tried {names(asked)}, none of which can take it: in turn"
            return in_turn._replace(fact=fact)

        return explanation
