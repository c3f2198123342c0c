"""Keys, and the bound on loads that both tables keep."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.balancing import ConsistentHash
from hermes_lb.balancing.hashing import HashOptions, hash64, key_source
from hermes_lb.balancing.maglev import Maglev
from tests.support.examples import examples
from tests.support.pools import FakeRequest, make_pool
from tests.support.strategies import assert_shares, home, homes, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.backends import Pool, Server

both = pytest.mark.parametrize("strategy_type", [ConsistentHash, Maglev])

KEYS = [f"k{number}" for number in range(300)]

HEAD = (
    b"POST /v1/chat?a=1&session=q%207&session=later&b=2 HTTP/1.1\r\n"
    b"Host: agents\r\n"
    b"X-Hermes-Session-Id:  s-1 \r\n"
    b"X-Session: other\r\n"
    b"Cookie: first=1; sid=c-1;last=2\r\n"
    b"Cookie: more=3; second=c-2\r\n"
    b"X-Empty: \r\n"
    b"\r\n"
    b"x=1\r\nX-In-Body: yes\r\nCookie: body=1\r\n\r\n"
)


@pytest.fixture(autouse=True)
def _a_small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one takes a tenth of a second to build."""
    monkeypatch.setattr(Maglev, "size", 1009)


@pytest.mark.parametrize(
    ("hash_on", "key"),
    [
        ("client", b"192.0.2.7"),
        ("header:X-Hermes-Session-Id", b"s-1"),
        ("header:x-hermes-SESSION-id", b"s-1"),
        ("header:Session", b"192.0.2.7"),  # the end of another name
        ("header:X-Hermes", b"192.0.2.7"),  # the beginning of one
        ("header:X-Empty", b"192.0.2.7"),
        ("header:X-In-Body", b"192.0.2.7"),
        ("header:X.Session", b"192.0.2.7"),  # no pattern
        ("cookie:first", b"1"),
        ("cookie:sid", b"c-1"),
        ("cookie:last", b"2"),
        ("cookie:second", b"c-2"),
        ("cookie:SID", b"192.0.2.7"),  # names of cookies know capitals
        ("cookie:id", b"192.0.2.7"),
        ("cookie:body", b"192.0.2.7"),
        ("query:a", b"1"),
        ("query:session", b"q%207"),
        ("query:b", b"2"),
        ("query:x", b"192.0.2.7"),
        ("query:sess", b"192.0.2.7"),
    ],
)
def test_key(hash_on: str, key: bytes):
    request = FakeRequest("192.0.2.7", request_head=HEAD)
    assert key_source(hash_on)(request) == key


def test_a_target_without_a_query_has_no_key_in_its_version():
    request = FakeRequest("192.0.2.7", request_head=b"GET /a=1 HTTP/1.1\r\nR: /?a=2\r\n\r\n")
    assert key_source("query:a")(request) == b"192.0.2.7"


def test_another_source_is_refused():
    with pytest.raises(ValueError, match="no source"):
        key_source("body:x")


def test_the_hash_is_the_same_everywhere():
    """Several balancers agree; these values must never change."""
    assert hash64(b"") == 0xE4A6A0577479B2B4
    assert hash64(b"192.0.2.7") == 0x4B8997DA821CFF27


@both
def test_a_key_decides_and_not_the_client(strategy_type: Any):
    pool = make_pool({}, {}, {}, {})
    strategy = strategy_type(HashOptions(hash_on="header:X-Key"))

    def pick(key: str, client: str) -> Any:
        head = f"GET / HTTP/1.1\r\nX-Key: {key}\r\n\r\n".encode()
        return strategy.pick(pool, FakeRequest(client, request_head=head), 0.0, Random(0))

    keys = [f"k{i}" for i in range(64)]
    assert [pick(k, "10.0.0.1") for k in keys] == [pick(k, "10.9.9.9") for k in keys]
    assert {pick(k, "10.0.0.1") for k in keys} == set(pool.servers)


@both
def test_one_that_is_down_moves_only_its_own_keys_and_spreads_them(strategy_type: Any):
    pool = make_pool({}, {}, {"weight": 2}, {}, {})
    strategy = strategy_type()
    keys = [f"10.0.{i // 256}.{i % 256}" for i in range(5000)]
    before = homes(pool, strategy, keys)
    pool.servers[1].set_up(False, "")
    after = homes(pool, strategy, keys)
    moved = Counter(after[key] for key in keys if before[key] != after[key])
    assert {key for key in keys if before[key] != after[key]} == {
        k for k in keys if before[k] == "b"
    }
    # By weight, with what the small table and the ring add in unevenness: within a third.
    for name, share in {"a": 0.2, "c": 0.4, "d": 0.2, "e": 0.2}.items():
        assert abs(moved[name] / moved.total() - share) < share / 3
    pool.servers[1].set_up(True, "")
    assert homes(pool, strategy, keys) == before


@both
def test_tried_full_and_failed_ones_are_passed_over(strategy_type: Any):
    pool = make_pool(*[{"max_connections": 1, "max_fails": 1}] * 4)
    strategy = strategy_type(HashOptions(load_factor=0.0))
    first = next(s for s in pool.servers if s.name == home(pool, strategy, "k"))
    second = strategy.pick(pool, FakeRequest("k", [first]), 0.0, Random(0))
    assert second not in (None, first)
    lease = pool.lease(first, 0.0)
    assert home(pool, strategy, "k") == second.name
    lease.release()
    assert home(pool, strategy, "k") == first.name
    first.failed(0.0)
    assert home(pool, strategy, "k") == second.name


@both
def test_backups_are_hashed_too_and_by_weight(strategy_type: Any):
    pool = make_pool({"down": True}, {"backup": True, "weight": 3}, {"backup": True})
    keys = [f"k{i}" for i in range(5000)]
    found = homes(pool, strategy_type(), keys)
    assert_shares(Counter(found.values()), {"b": 3, "c": 1})
    assert found == homes(pool, strategy_type(), keys)


@both
def test_the_one_left_among_many_is_found(strategy_type: Any):
    """More steps than a key takes."""
    pool = make_pool(*[{"name": f"s{i}", "max_connections": 1} for i in range(400)])
    for server in pool.servers[:-1]:
        pool.lease(server, 0.0)
    assert set(homes(pool, strategy_type(), map(str, range(50))).values()) == {"s399"}


@both
def test_a_popular_key_overflows_to_the_next(strategy_type: Any):
    """Four servers, one key. Each may have ceil(1.25 (n + 1) / 4) of n + 1 requests."""
    pool, strategy = make_pool({}, {}, {}, {}), strategy_type()
    order = []
    for _ in range(8):
        server = strategy.pick(pool, FakeRequest("k"), 0.0, Random(0))
        pool.lease(server, 0.0)
        order.append(server)
    first, second, *_ = order
    # Ceilings: 1 1 1 2 2 2 3 3.
    assert order[0] is not order[1]
    assert order[3] is first
    assert order.count(first) == 3
    assert len(set(order)) >= 3
    assert second is not first


@both
def test_without_a_bound_a_key_stays(strategy_type: Any):
    pool, strategy = make_pool({}, {}, {}), strategy_type(HashOptions(load_factor=0.0))
    for _ in range(50):
        pool.lease(strategy.pick(pool, FakeRequest("k"), 0.0, Random(0)), 0.0)
    assert sorted(server.in_flight for server in pool.servers) == [0, 0, 50]


@both
@examples(60)
@given(
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    factor=st.sampled_from([1.0, 1.25, 2.0]),
    keys=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    down=st.sets(st.integers(0, 6)),
    released=st.integers(0, 2**40),
)
def test_the_ceiling_always_holds(
    strategy_type: Any, weights: Any, factor: float, keys: Any, down: Any, released: int
):
    """Whatever comes, a pick leaves its server at or below its ceiling."""
    pool = make_pool(*[{"weight": weight} for weight in weights])
    strategy, leases = strategy_type(HashOptions(load_factor=factor)), []
    for turn, key in enumerate(keys):
        if turn == len(keys) // 2:
            for place in down:
                if place < len(pool.servers):
                    pool.servers[place].set_up(False, "")
        server = strategy.pick(pool, FakeRequest(f"k{key}"), 0.0, Random(0))
        if server is None:
            assert not pool.up
            continue
        share = Fraction(server.full_weight, sum(s.full_weight for s in pool.up))
        leases.append(pool.lease(server, 0.0))
        assert server.in_flight <= ceil(Fraction(factor) * pool.in_flight * share)
        if released >> turn & 1:
            leases.pop(0).release()


@both
@examples(60)
@given(
    loads=st.lists(st.integers(0, 5), min_size=3, max_size=6),
    tried=st.sets(st.integers(0, 5), max_size=4),
    key=st.integers(0, 50),
)
def test_if_the_tried_hold_all_the_room_the_bound_is_that_of_the_others(
    strategy_type: Any, loads: list[int], tried: set[int], key: int
):
    pool = make_pool(*[{"max_connections": 5} for _ in loads])
    for server, count in zip(pool.servers, loads, strict=True):
        for _ in range(count):
            pool.lease(server, 0.0)
    gone = [server for place, server in enumerate(pool.servers) if place in tried]
    candidates = list(pool.candidates(gone, 0.0))
    server = strategy_type().pick(pool, FakeRequest(f"k{key}", gone), 0.0, Random(0))
    if not candidates:
        assert server is None
        return
    assert server in candidates
    of_all = ceil(Fraction(5, 4) * (pool.in_flight + 1) / len(pool.servers))
    of_these = ceil(Fraction(5, 4) * (sum(s.in_flight for s in candidates) + 1) / len(candidates))
    assert server.in_flight + 1 <= max(of_all, of_these)


@both
def test_the_bound_of_those_that_are_left(strategy_type: Any):
    """By hand: 15 in flight. Of all, each may have ceil(16 x 1.25 / 4) = 5; of the two that are
    left, ceil(16 x 1.25 / 2) = 10. So c is at its bound, and d takes every key."""
    pool = make_pool({}, {}, {}, {})
    load(pool, 0, 0, 10, 5)
    strategy = strategy_type()
    for key in range(40):
        request = FakeRequest(f"k{key}", pool.servers[:2])
        assert strategy.pick(pool, request, 0.0, Random(0)) is pool.servers[3]


# A key that sticks by hashing (`owner`) is pinned; one that only balances (`pick`) is not.


def owners(pool: Pool, ring: Any, keys: list[str], tried: Sequence[Server] = ()) -> dict[str, str]:
    found = {key: ring.owner(pool, key.encode(), 0.0, tried=tried) for key in keys}
    return {key: server.name for key, server in found.items()}


@both
def test_without_those_tried_keys_are_where_they_are_without_those_that_are_down(
    strategy_type: Any,
):
    pool, ring = make_pool({}, {}, {}, {}), strategy_type()
    tried = owners(pool, ring, KEYS, pool.servers[1:3])
    for server in pool.servers[1:3]:
        server.set_up(False, "")
    assert owners(pool, ring, KEYS) == tried
    assert set(tried.values()) == {"a", "d"}


@both
@pytest.mark.parametrize("state", ["degraded", "drain"])
def test_keys_that_stick_stay_with_a_server_that_takes_nobody_new(strategy_type: Any, state: str):
    """A key with a session looks like a new one, so no key is moved."""
    pool, ring = make_pool({}, {}, {}), strategy_type()
    before = owners(pool, ring, KEYS)
    if state == "degraded":
        pool.servers[1].set_degraded("timeout")
    else:
        pool.servers[1].set_admin("drain")
    assert pool.servers[1].state == state
    assert owners(pool, ring, KEYS) == before
    assert "b" in before.values()


@both
@pytest.mark.parametrize("state", ["degraded", "drain"])
def test_keys_that_only_balance_go_on_to_others_and_come_back(strategy_type: Any, state: str):
    pool, strategy = make_pool({}, {}, {}), strategy_type(HashOptions(load_factor=0))
    before = homes(pool, strategy, KEYS)
    server = pool.servers[1]
    if state == "degraded":
        server.set_degraded("timeout")
    else:
        server.set_admin("drain")
    during = homes(pool, strategy, KEYS)
    assert {key for key in KEYS if during[key] != before[key]} == {
        key for key in KEYS if before[key] == "b"
    }
    assert set(during.values()) == {"a", "c"}
    if state == "degraded":
        server.set_up(True, "")
    else:
        server.set_admin("ready")
    assert homes(pool, strategy, KEYS) == before


def test_a_weight_of_nought_moves_the_keys_that_stick_and_no_others():
    """How an operator moves them: the server has no more points on the ring."""
    pool, ring = make_pool({}, {}, {}), ConsistentHash()
    before = owners(pool, ring, KEYS)
    pool.servers[1].set_weight(0)
    after = owners(pool, ring, KEYS)
    assert set(after.values()) == {"a", "c"}
    assert all(after[key] == name for key, name in before.items() if name != "b")
