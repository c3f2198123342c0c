"""The ring: where its points are, whose keys move, and how evenly they lie."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_lb.balancing import ConsistentHash
from hermes_lb.balancing.consistent_hash import MOST_POINTS, points_by_weight
from hermes_lb.balancing.hashing import hash64
from tests.balancing.support import homes, many
from tests.pool.support import make_pool

KEYS = [f"10.{i // 256}.{i % 256}.9" for i in range(4000)]


def naive(names: dict[str, int], key: str) -> str:
    """The ring as the documents have it: 160 points a unit of weight, the next one clockwise."""
    ring = {}
    for name, weight in names.items():
        for number in range(160 * weight // 8):
            digest = blake2b(f"{name}#{number}".encode()).digest()
            for start in range(0, 64, 8):
                ring[int.from_bytes(digest[start : start + 8], "big")] = name
    hashed = hash64(key.encode())
    return ring[min((point for point in ring if point >= hashed), default=min(ring))]


def test_a_key_belongs_to_the_next_point():
    names = {"a": 1, "b": 2, "c": 1}
    pool = make_pool(*[{"weight": weight} for weight in names.values()])
    keys = KEYS[:300]
    assert homes(pool, ConsistentHash(), keys) == {key: naive(names, key) for key in keys}


def test_behind_the_last_point_the_ring_begins_again():
    """Of 20,000 keys some lie behind the last of 160 points."""
    ring = sorted(
        int.from_bytes(blake2b(f"a#{n}".encode()).digest()[i : i + 8], "big")
        for n in range(20)
        for i in range(0, 64, 8)
    )
    key = next(k for k in map(str, range(20_000)) if hash64(k.encode()) > ring[-1])
    assert homes(make_pool({}), ConsistentHash(), [key]) == {key: "a"}


@pytest.mark.parametrize(
    ("weights", "unit", "points"),
    [
        ([1], 1, [160]),
        ([1, 2, 3], 1, [160, 320, 480]),
        ([100, 200], 100, [160, 320]),
        ([7], 7, [160]),
        ([2, 0, 4], 1, [320, 0, 640]),
        ([15, 20], 10, [240, 320]),
        ([0, 0], 1, [0, 0]),
        ([], 0, []),
    ],
)
def test_points_by_weight(weights: list[int], unit: int, points: list[int]):
    assert points_by_weight(weights, unit) == points


@pytest.mark.parametrize("weight", [0, 1, 3])
def test_another_weight_at_run_time_moves_keys_of_that_server_only(weight: int):
    """Although 4, 0, 4 could be divided by 4: nobody else gains or loses points."""
    pool = make_pool({"weight": 4}, {"weight": 2}, {"weight": 4})
    strategy = ConsistentHash(load_factor=0)
    before = homes(pool, strategy, KEYS)
    pool.servers[1].set_weight(weight)
    after = homes(pool, strategy, KEYS)
    assert before != after
    assert all("b" in (before[key], after[key]) for key in KEYS if before[key] != after[key])


def test_the_ring_stays_small_and_everyone_is_on_it():
    counts = points_by_weight([65_535, 1, 30_000, 0], 1)
    assert sum(counts) <= MOST_POINTS + len(counts)
    assert counts[1] == 2
    assert counts[3] == 0
    assert counts[0] / counts[2] == pytest.approx(65_535 / 30_000, rel=1e-3)
    assert points_by_weight([65_535] * 5 + [1], 1)[-1] == 1


@settings(deadline=None, max_examples=25)
@given(
    weights=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 3), min_size=2),
    data=st.data(),
)
def test_one_that_leaves_moves_only_its_own_keys(weights: dict[str, int], data: st.DataObject):
    """And one that joins takes keys only for itself: the same, read backwards.

    The gcd of the weights stays 1: else all rings change.
    """
    weights["z"] = 1
    gone = data.draw(st.sampled_from(sorted(set(weights) - {"z"})))
    names = sorted(weights)
    whole = make_pool(*[{"name": name, "weight": weights[name]} for name in names])
    rest = make_pool(*[{"name": n, "weight": weights[n]} for n in reversed(names) if n != gone])
    before = homes(whole, ConsistentHash(), KEYS[:400])
    after = homes(rest, ConsistentHash(), KEYS[:400])
    assert gone not in after.values()
    assert all(after[key] == before[key] for key in before if before[key] != gone)


def test_more_weight_only_attracts():
    before = homes(make_pool({}, {}, {}), ConsistentHash(), KEYS)
    pool = make_pool({}, {}, {})
    strategy = ConsistentHash()
    assert homes(pool, strategy, KEYS) == before
    pool.servers[1].set_weight(3)
    after = homes(pool, strategy, KEYS)
    assert {after[key] for key in KEYS if after[key] != before[key]} == {"b"}
    assert Counter(after.values())["b"] > 1.5 * Counter(before.values())["b"]


def test_how_even_it_is():
    """The share of a server has a relative deviation of about 1 / sqrt(160) = 7.9 %.

    Five of these at most, for the worst of 50, and the spread itself within a factor of 1.5.
    """
    owners: Counter[str] = Counter()
    strategy, pool = ConsistentHash(), many(50)
    strategy._build(pool.primaries)
    points = strategy._points
    for place, owner in enumerate(strategy._owners):
        owners[owner.name] += (points[place] - points[place - 1]) % 2**64
    shares = [owners[f"s{i}"] / 2**64 * 50 for i in range(50)]
    assert sum(shares) == pytest.approx(50)
    deviation = (sum((share - 1) ** 2 for share in shares) / 50) ** 0.5
    assert 0.079 / 1.5 < deviation < 0.079 * 1.5
    assert max(abs(share - 1) for share in shares) < 5 * 0.079
