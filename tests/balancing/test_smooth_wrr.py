"""The heaps of `SmoothWrr`; that they pick as the loop does is in `test_load_heap`."""

from __future__ import annotations

from hermes_lb.balancing.smooth_wrr import FEW, SmoothWrr
from tests.support.pools import make_pool, names
from tests.support.strategies import many


def test_the_heaps_do_not_grow_with_those_that_have_left():
    pool = many(3)
    group = SmoothWrr(enumerate(pool.servers))
    for _ in range(1000):
        group.remove(pool.servers[1])
        group.add(1, pool.servers[1])
    assert len(group.entries) == 3
    assert sum(map(len, group._heaps.values())) <= 2 * 3 + FEW


def test_guests_take_turns_with_those_who_are_at_home():
    """5, 1, 1 gives a a b a c a a, whichever of them are guests."""
    pool = make_pool({"weight": 5}, {}, {})
    a, b, c = pool.servers
    for guests in ({a: 0}, {b: 1}, {a: 0, c: 2}, {a: 0, b: 1, c: 2}):
        turns = SmoothWrr((place, s) for place, s in enumerate(pool.servers) if s not in guests)
        assert names(turns.next(guests) for _ in range(7)) == "a a b a c a a"


def test_a_guest_gets_its_weight_back_by_one_a_turn():
    pool = make_pool({"weight": 5}, {})
    a, b = pool.servers
    a.effective_weight = 3
    turns = SmoothWrr([(1, b)])
    weights = [(turns.next({a: 0}).name, a.effective_weight)[1] for _ in range(4)]
    assert weights == [4, 5, 5, 5]


def test_settled_servers_have_what_the_loop_leaves_them():
    pool = make_pool({"weight": 5}, {}, {})
    turns = SmoothWrr(enumerate(pool.servers))
    turns.next()
    turns.settle()
    assert [server.current_weight for server in pool.servers] == [-2, 1, 1]
