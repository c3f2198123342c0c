"""What one client may have of something limited, whatever others do."""

from __future__ import annotations

from random import Random

from hermes_lb.limits.per_client import FairShare


def test_one_client_leaves_a_half() -> None:
    share = FairShare(100)
    while share.has_room("192.0.2.1", 1):
        share.add("192.0.2.1", 1)
    assert share.of("192.0.2.1") == 50
    while share.has_room("192.0.2.2", 1):
        share.add("192.0.2.2", 1)
    assert share.of("192.0.2.2") == 25
    assert not share.has_room("192.0.2.1", 1)
    share.add("192.0.2.1", -30)
    assert share.has_room("192.0.2.1", 1)


def test_an_ipv6_network_is_one_client() -> None:
    share = FairShare(10)
    share.add("2001:db8::1", 4)
    assert share.of("2001:db8::2") == 4
    assert not share.has_room("2001:db8::3", 3)


def test_nothing_is_left_of_clients_that_have_nothing() -> None:
    rng, share, had = Random(1), FairShare(1000), dict[str, int]()
    for _ in range(5000):
        address = f"192.0.2.{rng.randrange(20)}"
        amount = rng.randrange(50)
        if share.has_room(address, amount):
            share.add(address, amount)
            had[address] = had.get(address, 0) + amount
        else:
            share.add(address, -had.pop(address, 0))
        assert share.total == sum(had.values()) <= 1000
        assert all(share.of(each) == amount for each, amount in had.items())
    for address, amount in had.items():
        share.add(address, -amount)
    assert (share.total, share._amounts) == (0, {})
