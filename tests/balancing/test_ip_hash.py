"""nginx's `ip_hash`. The vectors were read off a running nginx."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from hermes_lb.balancing.ip_hash import IpHash, hash_key
from tests.support.pools import FakeRequest, make_pool

EVEN = [{}, {}, {}]
WEIGHTS = [{"weight": 5}, {"weight": 1}, {"weight": 3}]
DOWN = [{}, {"down": True}, {"weight": 2}, {}]


def pick(pool, address: str, **request: Any) -> int | None:
    server = IpHash().pick(pool, FakeRequest(address, **request), 0.0, Random(0))
    return None if server is None else pool.servers.index(server)


@pytest.mark.parametrize(
    ("servers", "address", "expected"),
    [
        (EVEN, "10.0.1.7", 1),
        (EVEN, "127.0.0.1", 2),
        (EVEN, "203.0.113.9", 0),
        (EVEN, "2001:db8::1", 2),
        (WEIGHTS, "10.0.1.7", 0),
        (WEIGHTS, "127.0.0.1", 2),
        (WEIGHTS, "203.0.113.9", 0),
        (WEIGHTS, "2001:db8::1", 2),
        (DOWN, "10.0.1.7", 2),
        (DOWN, "127.0.0.1", 0),
        (DOWN, "203.0.113.9", 2),
        (DOWN, "2001:db8::1", 0),
    ],
)
def test_as_nginx(servers: list[dict[str, Any]], address: str, expected: int):
    assert pick(make_pool(*servers), address) == expected


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("10.0.1.7", b"\x0a\x00\x01"),
        ("2001:db8::1", bytes.fromhex("20010db8000000000000000000000001")),
        ("::ffff:10.0.1.7", bytes.fromhex("00000000000000000000ffff0a000107")),
        ("", b"\0\0\0"),
        ("unix:", b"\0\0\0"),
        ("10.0.1", b"\0\0\0"),
    ],
)
def test_key(address: str, key: bytes):
    assert hash_key(address) == key


def test_the_last_octet_does_not_matter():
    pool = make_pool(*EVEN)
    assert {pick(pool, f"10.0.1.{i}") for i in range(256)} == {1}


def test_one_that_goes_down_moves_only_its_own_clients():
    pool = make_pool(*EVEN)
    asked = [f"10.{i}.1.1" for i in range(200)]
    before = {address: pick(pool, address) for address in asked}
    pool.servers[1].set_up(False, "")
    after = {address: pick(pool, address) for address in asked}
    assert 1 not in after.values()
    assert {a for a in asked if before[a] != after[a]} == {a for a in asked if before[a] == 1}


def test_one_that_was_tried_failed_or_full_is_hashed_past():
    pool = make_pool({}, {"max_fails": 1, "max_connections": 1}, {})
    home = pool.servers[1]
    past = pick(pool, "10.0.1.7", tried=[home])
    lease = pool.lease(home, 0.0)
    assert pick(pool, "10.0.1.7") == past != 1
    lease.release()
    assert pick(pool, "10.0.1.7") == 1
    home.failed(now=0.0)
    assert pick(pool, "10.0.1.7") == past


def test_round_robin_when_hashing_finds_nobody():
    """99.9 % of the hash belongs to the one that is down."""
    pool = make_pool({}, {"weight": 10_000, "down": True}, {})
    assert [pick(pool, "10.0.1.7") for _ in range(4)] == [0, 2, 0, 2]


def test_shares_follow_the_weights():
    """The hash spreads over 6271 values, so shares are near the weights, not exact."""
    pool = make_pool({"weight": 1}, {"weight": 2}, {"weight": 5})
    rng = Random(5)
    found = [
        pick(pool, f"{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}.1")
        for _ in range(4000)
    ]
    shares = [found.count(i) / 500 for i in range(3)]
    assert shares == pytest.approx([1, 2, 5], rel=0.15)
