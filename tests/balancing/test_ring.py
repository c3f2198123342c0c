"""The search on a ring, which is of a part of it, finds what a search of the whole finds."""

from __future__ import annotations

from bisect import bisect_left
from random import Random

import pytest

from hermes_lb.balancing.ring import Ring
from tests.support.strategies import many

_END = 2**64


@pytest.mark.parametrize("counts", [[], [0], [1], [31, 1], [32, 0, 3], [160] * 20])
def test_a_key_belongs_to_the_next_point(counts: list[int]) -> None:
    ring = Ring(many(len(counts) or 1).servers[: len(counts)], counts)
    points, rng = list(ring.points), Random(1)
    assert points == sorted(set(points))
    assert len(points) == sum(counts)
    near = [point + step for point in points for step in (-1, 0, 1)]
    for key in (0, _END - 1, *near, *(rng.randrange(_END) for _ in range(1000))):
        place = bisect_left(points, key)
        order = [*ring.owners[place:], *ring.owners[:place]]
        assert list(ring.preferred(key, 64)) == order[:64]
        assert list(ring.preferred(key, 2)) == order[:2]


def test_the_first_is_one_that_can_take_the_request() -> None:
    servers = many(4).servers
    ring = Ring(servers, [1] * 4)
    one, two, three, four = ring.owners
    assert ring.first(0, 4, None, (), 0.0) is one
    assert ring.first(0, 4, one, (), 0.0) is two
    assert ring.first(0, 4, one, (two,), 0.0) is three
    three.set_up(False, "check")
    assert ring.first(0, 4, one, (two,), 0.0) is four
    assert ring.first(0, 3, one, (two,), 0.0) is None
