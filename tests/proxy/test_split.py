"""Weights between backends: shares, and that a client stays where it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Limits
from hermes_lb.http import RequestParser
from hermes_lb.proxy.split import Share, Split
from tests.support.heads import request
from tests.support.origin import answers

if TYPE_CHECKING:
    from tests.support.stage import Stage

CLIENTS = [f"10.{n >> 8}.{n & 255}.1" for n in range(4000)]
PARSER = RequestParser(Limits())
GET = b"GET /?user=u HTTP/1.1"


class FakePool:
    """Of a backend that can serve, or can't."""

    def __init__(self, *, is_up: bool) -> None:
        self.is_up = is_up

    def may_any_serve(self, tried: object, now: float) -> bool:
        return self.is_up

    def can_wait(self, tried: object) -> bool:
        return self.is_up


NAMES = "abc"  # of backends, in their order


def split(by: str = "client", down: str = "", **weights: int) -> Split:
    shares = []
    for name, weight in weights.items():
        backend: Any = SimpleNamespace(name=name, pool=FakePool(is_up=name != down))
        shares.append(Share(weight, backend))
    return Split(shares, by)


def chosen(by: Split, address: str, *fields: bytes, line: bytes = GET) -> str:
    head = PARSER.parse(request(*fields, line=line))
    return NAMES[by.choose(head, address, 0.0)]


def places(by: Split) -> dict[str, str]:
    return {address: chosen(by, address) for address in CLIENTS}


def test_each_backend_has_its_share_of_the_clients() -> None:
    found = list(places(split(a=90, b=10, c=0)).values())
    assert found.count("c") == 0
    assert 0.07 < found.count("b") / len(found) < 0.13


def test_a_change_of_a_weight_moves_clients_to_that_backend_only() -> None:
    before, after = places(split(a=60, b=30, c=10)), places(split(a=60, b=30, c=20))
    moved = {(before[one], after[one]) for one in CLIENTS if before[one] != after[one]}
    assert moved == {("a", "c"), ("b", "c")}
    # From 10 of 100 to 20 of 110.
    share = sum(before[one] != after[one] for one in CLIENTS) / len(CLIENTS)
    assert 0.05 < share < 0.12


def test_the_order_of_the_backends_does_not_matter() -> None:
    swapped = {
        address: "ba"["ab".index(name)] for address, name in places(split(b=40, a=60)).items()
    }
    assert places(split(a=60, b=40)) == swapped


@pytest.mark.parametrize(
    ("by", "fields"),
    [
        ("header:X-User", [b"X-User: u"]),
        ("cookie:user", [b"Cookie: a=b; user=u"]),
        ("query:user", []),
    ],
)
def test_a_client_is_known_by_what_the_route_says(by: str, fields: list[bytes]) -> None:
    shares = split(by, a=50, b=50)
    assert len({chosen(shares, address, *fields) for address in CLIENTS[:50]}) == 1


def test_without_it_the_address_counts_and_of_ipv6_the_network() -> None:
    shares = split("header:X-User", a=50, b=50)
    assert places(shares) == places(split(a=50, b=50))
    hosts = {chosen(shares, f"2001:db8::{n:x}") for n in range(50)}
    assert len(hosts) == 1
    assert chosen(shares, "") in ("a", "b")


def test_a_backend_without_servers_is_passed_over_and_all_others_stay() -> None:
    usual, without = places(split(a=50, b=50)), places(split(a=50, b=50, down="b"))
    assert set(without.values()) == {"a"}
    assert all(without[one] == "a" for one in CLIENTS if usual[one] == "a")
    assert chosen(split(a=1, down="a"), "10.0.0.1") == "a"  # which answers 503


# With a balancer.


async def test_a_canary_gets_some_clients_and_each_always_the_same(stage: Stage) -> None:
    stable, canary = await stage.agents(2)
    lb = await stage.balancer(
        stable,
        backends={"canary": {"servers": [{"name": "c", "address": canary.address}]}},
        frontend={
            "routes": [{"backends": {"agents": 50, "canary": 50}, "split_by": "header:X-User"}]
        },
    )
    client = await stage.client(lb)
    users = [f"X-User: {n}" for n in range(16)]
    first = [(await client.ask("/", user)).body for user in users]
    assert set(first) == {b"agent1", b"agent2"}
    assert [(await client.ask("/", user)).body for user in users] == first
    lines = await stage.logged(lb, 32)
    by_backend = {line.backend for line in lines}
    assert by_backend == {"agents", "canary"}


async def test_a_canary_that_is_down_is_passed_over(stage: Stage) -> None:
    stable = await stage.serving(answers(b"stable"))
    lb = await stage.balancer(
        stable,
        backends={
            "canary": {"servers": [{"name": "c", "address": f"127.0.0.1:{stage.nobody()}",
                                    "down": True}]}
        },
        frontend={"routes": [{"backends": {"agents": 1, "canary": 60_000}}]},
    )  # fmt: skip
    assert (await stage.ask(lb)).body == b"stable"
