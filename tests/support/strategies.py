"""What the tests of several strategies share."""

from __future__ import annotations

from math import sqrt
from random import Random
from typing import TYPE_CHECKING, Any

from tests.support.pools import FakeRequest, make_pool

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from hermes_lb.backends import Pool
    from hermes_lb.balancing import Strategy


class FakeAnswer:
    """What a strategy may see of a response."""

    def __init__(self, status: int = 200, *fields: tuple[bytes, bytes]) -> None:
        self.status = status
        self._fields = fields

    def fields(self) -> Iterable[tuple[bytes, bytes]]:
        return iter(self._fields)


def many(count: int, **each: Any) -> Pool:
    """A pool of `count` servers, s0, s1, ..., all alike."""
    return make_pool(*[{"name": f"s{i}", **each} for i in range(count)])


def load(pool: Pool, *in_flight: int) -> None:
    """Put these numbers of requests on the servers."""
    for server, count in zip(pool.servers, in_flight, strict=True):
        for _ in range(count):
            pool.lease(server, 0.0)


def home(pool: Pool, strategy: Strategy, key: str) -> str:
    """The name of the server that this client address is sent to."""
    server = strategy.pick(pool, FakeRequest(key), 0.0, Random(0))
    return server.name if server else "-"


def homes(pool: Pool, strategy: Strategy, keys: Iterable[str]) -> dict[str, str]:
    return {key: home(pool, strategy, key) for key in keys}


def assert_shares(counts: Counter[str], weights: dict[str, float]) -> None:
    """Each name came as often as its weight says, give or take five standard deviations.

    Chance alone fails this once in two million counts; with a fixed seed it does so always or
    never.
    """
    total, drawn = sum(weights.values()), sum(counts.values())
    assert set(counts) <= set(weights)
    for name, weight in weights.items():
        share = weight / total
        error = 5 * sqrt(drawn * share * (1 - share))
        assert abs(counts[name] - drawn * share) <= error, (name, counts[name], drawn * share)
