"""The less loaded of the two servers that a key belongs to.

DualMap (arXiv 2602.06502, ICLR 2026): two independent hashes map a prompt to two instances, one of
which gets the request, so equal prefixes meet in at most two caches while the power of two choices
spreads different ones. The paper prefers the instance with the better cache as long as its time to
the first token is within the objective; here the first one is preferred while it has at most
`slack` requests more than the second, as seen by a server of mean weight, since a balancer knows
loads and not caches. Both are found on the ring of `consistent_hash`, so servers that come and go
move only their own keys, and several balancers agree. Costs a hash and two searches. Best for
prefixes or tenants of very different popularity. Misleads for state that must be at one server.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import unpack
from typing import TYPE_CHECKING, Final

from pydantic import Field

from hermes_lb.balancing.consistent_hash import ConsistentHash
from hermes_lb.balancing.explanation import Explanation, names
from hermes_lb.balancing.hashing import STEPS, HashOptions, KeyOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.explanation import View
    from hermes_lb.balancing.request import Request


class DualOptions(KeyOptions):
    slack: float = Field(1.0, ge=0.0, le=1_000_000.0)  # requests that the first may have more


DEFAULTS: Final = DualOptions()


class DualMap(ConsistentHash):
    """`balance = "dual_map"`."""

    options = DualOptions
    rule = "of the key's two servers the first, unless it has more than `slack` requests more"

    def __init__(self, options: DualOptions = DEFAULTS) -> None:
        super().__init__(HashOptions(hash_on=options.hash_on, load_factor=0.0))
        self._slack: float = options.slack

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        self._prepare(pool)
        one, two = _two_hashes(self._key(request))
        first = self._ring.first(one, STEPS, None, request.tried, now) if self._weight_up else None
        if first is None:
            return self._among(pool.candidates(request.tried, now), one)
        second = self._ring.first(two, STEPS, first, request.tried, now)
        if second is None:
            return first
        # load / weight > load / weight + slack / mean weight, without the divisions.
        excess = first.load * second.weight - second.load * first.weight
        allowed = self._slack * first.weight * second.weight * len(self._up)
        return second if excess * self._weight_up > allowed else first

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        self._prepare(view.pool)
        key, tried, ring = self._key(view.request), view.request.tried, self._ring
        one, two = _two_hashes(key)
        first = ring.first(one, STEPS, None, tried, view.now) if self._weight_up else None
        second = first and ring.first(two, STEPS, first, tried, view.now)
        both = [server for server in (first, second) if server is not None]
        fact = f"{names(both) or 'no server'}: by two hashes of {key.decode(errors='replace')}"

        def explanation(picked: Server) -> Explanation:
            if picked not in both:
                because = "is the choice of rendezvous hashing among all that can"
                return Explanation([(picked, "")], because, fact)
            if len(both) == 1:
                because = "is the only one of the key's servers that can"
            elif picked is first:
                because = f"is the key's first; it has at most {self._slack:g} requests more"
            else:
                because = f"is the key's second; the first has over {self._slack:g} requests more"
            mean = self._weight_up / len(self._up)
            rows = [(s, f", load {s.load / s.weight * mean:.4g}") for s in both]
            return Explanation(rows, because, fact)

        return explanation


def _two_hashes(key: bytes) -> tuple[int, int]:
    one, two = unpack(">2Q", blake2b(key, digest_size=16).digest())
    return one, two
