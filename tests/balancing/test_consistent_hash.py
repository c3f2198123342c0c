"""The ring: the places of its points, the keys that move, and the evenness of the spread."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.balancing import ConsistentHash, consistent_hash
from hermes_lb.balancing.consistent_hash import MOST_POINTS, points_by_weight
from hermes_lb.balancing.hashing import HashOptions, hash64
from tests.support.examples import examples
from tests.support.pools import make_pool
from tests.support.strategies import homes, many

if TYPE_CHECKING:
    from hermes_lb.backends import Pool

KEYS = [f"10.{i // 256}.{i % 256}.9" for i in range(4000)]


def naive(names: dict[str, int], key: str) -> str:
    """The documented ring: 160 points a unit of weight, the next one clockwise."""
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
    """Of 20,000 keys some are above the last of 160 points."""
    ring = sorted(
        int.from_bytes(blake2b(f"a#{n}".encode()).digest()[i : i + 8], "big")
        for n in range(20)
        for i in range(0, 64, 8)
    )
    key = next(k for k in map(str, range(20_000)) if hash64(k.encode()) > ring[-1])
    assert homes(make_pool({}), ConsistentHash(), [key]) == {key: "a"}


@pytest.mark.parametrize(
    ("weights", "points"),
    [
        ([1], [160]),
        ([1, 2, 3], [160, 320, 480]),
        ([7], [1120]),
        ([8], [128]),
        ([10, 20], [160, 320]),
        ([100, 200], [160, 320]),
        ([100] * 5 + [50], [160] * 5 + [80]),
        ([100] * 2 + [1], [160] * 2 + [2]),  # 1.6
        ([10, 20, 16, 33], [160, 320, 256, 528]),
        ([1000, 1000, 28], [160, 160, 4]),  # 4.48
        ([1000, 1000, 25], [160, 160, 4]),
        ([1000, 1000, 22], [160, 160, 4]),  # 3.52
        ([400, 400, 55], [640, 640, 88]),
        ([65_535, 65_535, 1], [1049, 1049, 1]),  # 0.016, but at least 1
        ([1] * 99 + [1000], [16] * 99 + [16_000]),
        ([], []),
    ],
)
def test_points_by_weight(weights: list[int], points: list[int]):
    assert points_by_weight(weights, weights) == points


def test_the_points_of_run_time_weights_go_by_the_configured_ones():
    assert points_by_weight([2, 0, 4], [1, 1, 1]) == [320, 0, 640]
    assert points_by_weight([1, 1, 1], [100, 100, 100]) == [2, 2, 2]
    assert points_by_weight([0, 0], [5, 6]) == [0, 0]


def test_half_a_point_is_rounded_up():
    """The first one's weight makes the unit 64: 163,825, 7.5 and 2.5."""
    assert points_by_weight([65_530, 3, 1], [1, 1, 1]) == [163_825, 8, 3]


@given(weights=st.lists(st.integers(1, 65_535), min_size=1, max_size=40))
def test_a_ring_is_built_soon(weights: list[int]):
    """The usual weight has 1,120 points at most: in all about 1 ms a server."""
    count = len(weights)
    assert sum(points_by_weight(weights, weights)) <= min(7 * 160 * count, MOST_POINTS) + count


@given(weights=st.lists(st.integers(1, 65_535), min_size=1, max_size=40))
def test_the_usual_weight_has_enough_points(weights: list[int]):
    """112 and more for the mean of the heavier two thirds, which the heaviest has at least."""
    assert max(points_by_weight(weights, weights)) >= 112


@st.composite
def fleets(draw: st.DrawFn) -> dict[str, int]:
    """Weights that may or may not have a common divisor, all from 0.7 to 7 times a power of ten but
    for some that are lighter: a third of them at most, also when any one has left."""
    unit = draw(st.sampled_from([1, 10, 100, 1000]))
    alike = st.integers(7 * unit // 10 + 1, 7 * unit)
    weights = draw(st.lists(st.one_of(alike, st.just(unit)), min_size=3, max_size=9))
    lighter = draw(st.lists(st.integers(1, unit), max_size=(len(weights) - 1) // 2))
    return {f"s{i}": weight for i, weight in enumerate(weights + lighter)}


def pool_of(weights: dict[str, int]) -> Pool:
    return make_pool(*[{"name": name, "weight": weight} for name, weight in weights.items()])


def assert_only_its_own_moved(before: dict[str, str], after: dict[str, str], name: str):
    others = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    assert all(name in moved for moved in others.values()), others


@examples(60)
@given(weights=fleets(), data=st.data())
def test_one_that_leaves_moves_only_its_own_keys(weights: dict[str, int], data: st.DataObject):
    """Conversely, a server that joins only takes keys for itself."""
    gone = data.draw(st.sampled_from(sorted(weights)))
    rest = {name: weights[name] for name in reversed(weights) if name != gone}
    before = homes(pool_of(weights), ConsistentHash(HashOptions(load_factor=0)), KEYS[:400])
    after = homes(pool_of(rest), ConsistentHash(HashOptions(load_factor=0)), KEYS[:400])
    assert gone not in after.values()
    assert_only_its_own_moved(before, after, gone)


@pytest.mark.parametrize("joins", [50, 1, 99, 200, 300])
def test_who_joins_five_of_weight_100_takes_keys_only_for_itself(joins: int):
    before = homes(make_pool(*[{"weight": 100}] * 5), ConsistentHash(), KEYS)
    after = homes(make_pool(*[{"weight": 100}] * 5, {"weight": joins}), ConsistentHash(), KEYS)
    assert "f" in after.values()
    assert_only_its_own_moved(before, after, "f")


@examples(60)
@given(weights=fleets(), data=st.data())
def test_another_weight_at_run_time_moves_keys_of_that_server_only(
    weights: dict[str, int], data: st.DataObject
):
    """And nothing once the configured one is back."""
    pool, strategy = pool_of(weights), ConsistentHash(HashOptions(load_factor=0))
    before = homes(pool, strategy, KEYS[:400])
    server = data.draw(st.sampled_from(pool.servers))
    server.set_weight(data.draw(st.integers(0, 10 * max(weights.values()))))
    assert_only_its_own_moved(before, homes(pool, strategy, KEYS[:400]), server.name)
    server.set_weight(None)
    assert homes(pool, strategy, KEYS[:400]) == before


@examples(60)
@given(weights=fleets(), data=st.data())
def test_a_lower_weight_at_run_time_moves_no_others_in_a_fleet_that_is_too_large(
    weights: dict[str, int], data: st.DataObject
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consistent_hash, "MOST_POINTS", 500)
        pool, strategy = pool_of(weights), ConsistentHash(HashOptions(load_factor=0))
        before = homes(pool, strategy, KEYS[:400])
        assert len(strategy._ring.points) <= 500 + len(weights)
        server = data.draw(st.sampled_from(pool.servers))
        server.set_weight(data.draw(st.integers(0, server.config.weight)))
        assert_only_its_own_moved(before, homes(pool, strategy, KEYS[:400]), server.name)
        server.set_weight(None)
        assert homes(pool, strategy, KEYS[:400]) == before


def test_a_fleet_that_is_too_large_moves_others_only_when_it_doubles(
    monkeypatch: pytest.MonkeyPatch,
):
    """Room for ten of weight 1. The eleventh halves all points, and that moves half of the keys;
    so does the 21st. The others move none."""
    monkeypatch.setattr(consistent_hash, "MOST_POINTS", 10 * 160)
    rings = {
        n: homes(many(n), ConsistentHash(HashOptions(load_factor=0)), KEYS) for n in range(8, 24)
    }
    for n in range(9, 24):
        moved = [key for key in KEYS if rings[n][key] not in (rings[n - 1][key], f"s{n - 1}")]
        if n in (11, 21):
            assert 0.35 * len(KEYS) < len(moved) < 0.55 * len(KEYS)
        else:
            assert moved == []


def test_the_ring_stays_small_and_everyone_is_on_it():
    counts = points_by_weight([65_535] * 250 + [1], [65_535] * 250 + [1])
    assert MOST_POINTS / 2 < sum(counts) <= MOST_POINTS + len(counts)
    assert set(counts[:-1]) == {counts[0]}
    assert counts[-1] == 1
    at_run_time = points_by_weight([65_535, 1], [1, 1])
    assert MOST_POINTS / 2 < sum(at_run_time) <= MOST_POINTS + 2


def test_more_weight_only_attracts():
    before = homes(make_pool({}, {}, {}), ConsistentHash(), KEYS)
    pool = make_pool({}, {}, {})
    strategy = ConsistentHash()
    assert homes(pool, strategy, KEYS) == before
    pool.servers[1].set_weight(3)
    after = homes(pool, strategy, KEYS)
    assert {after[key] for key in KEYS if after[key] != before[key]} == {"b"}
    assert Counter(after.values())["b"] > 1.5 * Counter(before.values())["b"]


def shares_of(pool: Pool) -> dict[str, float]:
    """Each server's share of the ring."""
    strategy = ConsistentHash()
    strategy._build(pool.primaries)
    points, owned = strategy._ring.points, Counter[str]()
    for place, owner in enumerate(strategy._ring.owners):
        owned[owner.name] += (points[place] - points[place - 1]) % 2**64
    return {server.name: owned[server.name] / 2**64 for server in pool.servers}


@pytest.mark.parametrize(
    "weights",
    [
        [1, 2, 3],
        [10, 20],
        [1, 100],
        [1, 1000],
        [100, 100, 100, 50],
        [100, 100, 100, 1],
        [87, 93, 104, 61],
        [1] * 99 + [1000],
        [65_535, 30_000, 1000],
    ],
)
def test_shares_go_by_weight_as_nearly_as_so_many_points_allow(weights: list[int]):
    """A relative deviation of about 1 / sqrt(points), five of them at most, and half a point that
    was rounded. A server with a share of half or more deviates by the sum of the others."""
    shares = shares_of(make_pool(*[{"name": f"s{i}", "weight": w} for i, w in enumerate(weights)]))
    for weight, points, share in zip(
        weights, points_by_weight(weights, weights), shares.values(), strict=True
    ):
        due = weight / sum(weights)
        allowed = 5 / points**0.5 + 0.5 / (points - 0.5)
        assert share == pytest.approx(due, rel=allowed)
        assert points > 1


def test_how_even_it_is():
    """The share of a server has a relative deviation of about 1 / sqrt(160) = 7.9 %.

    Five of these at most, for the worst of 50, and the spread itself within a factor of 1.5.
    """
    shares = [50 * share for share in shares_of(many(50)).values()]
    assert sum(shares) == pytest.approx(50)
    deviation = (sum((share - 1) ** 2 for share in shares) / 50) ** 0.5
    assert 0.079 / 1.5 < deviation < 0.079 * 1.5
    assert max(abs(share - 1) for share in shares) < 5 * 0.079
