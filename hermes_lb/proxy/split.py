"""Weights between backends: the same client goes to the same one.

Each backend has a score for each key, by hashing both, and the best one serves (rendezvous hashing,
Thaler and Ravishankar 1998; with weights, Schindelhauer and Schomaker 2005). Another weight of one
backend moves keys to it or from it, and none between others; all balancers agree.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.balancing.hashing import hash64
from hermes_lb.http.keys import key_finder
from hermes_lb.limits.per_client import client_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hermes_lb.http import RequestHead
    from hermes_lb.proxy.select import Backend

_RANGE = 2.0**64


class Share(NamedTuple):
    """A backend's part of the clients."""

    weight: int
    backend: Backend


class Split:
    """The backends of a route."""

    __slots__ = ("_find", "_shares")

    def __init__(self, shares: Sequence[Share], by: str) -> None:
        """`by`: `"client"`, `"header:NAME"`, `"cookie:NAME"` or `"query:NAME"`; a request without
        that goes by its client's address."""
        self._shares = [one for one in enumerate(shares) if one[1].weight]
        self._find: Callable[[bytes], bytes] | None = None
        if by != "client":
            self._find = key_finder(by)

    def choose(self, head: RequestHead, client_address: str, now: float) -> int:
        """The number of this client's backend among the shares; while that has no server, of the
        one with the next best score.

        If none has one, it is the first choice that answers so.
        """
        key = b"" if self._find is None else self._find(_as_message(head))
        if not key:
            key = client_key(client_address).encode() if client_address else b""
        ranked = sorted(self._shares, key=lambda one: _score(key, one[1]))
        for number, share in ranked:
            pool = share.backend.pool
            if pool.may_any_serve((), now) or pool.can_wait(()):
                return number
        return ranked[0][0]


def _score(key: bytes, share: Share) -> float:
    """An exponential variable with the weight as its rate: the least of several wins with a
    probability that is proportional to its rate."""
    hashed = hash64(share.backend.name.encode() + b"\0" + key)
    return -log((hashed + 1.0) / (_RANGE + 1.0)) / share.weight


def _as_message(head: RequestHead) -> bytes:
    """What a key can be found in, before there is a head for the servers."""
    cookies = b"".join([b"Cookie: %b\r\n" % cookie for cookie in head.cookies or ()])
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (head.method, head.target, head.forwarded, cookies)
