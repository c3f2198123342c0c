"""Our picks beside a real nginx's, request by request."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.balancing import STRATEGIES, ip_hash
from hermes_lb.balancing.ip_hash import IpHash
from tests.balancing.real_nginx import DEAD, needs_nginx, running_nginx
from tests.support.pools import FakeRequest, make_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.backends import Pool
    from hermes_lb.balancing import Strategy
    from tests.balancing.real_nginx import Nginx

pytestmark = needs_nginx

NOW = 0.0
UPSTREAMS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "hash_even": ("ip_hash", [{}, {}, {}]),
    "hash_weights": ("ip_hash", [{"weight": 5}, {"weight": 1}, {"weight": 3}]),
    "hash_down": ("ip_hash", [{}, {"down": True}, {"weight": 2}, {}]),
    # Most addresses never hit a server that is up: here the number of tries shows.
    "hash_tries": ("ip_hash", [{}, {"weight": 200, "down": True}, {}]),
    # The dead one is tried, hashed past, and in the end left out.
    "hash_dead": ("ip_hash", [{}, {"weight": 2}, {}, {"weight": 3, "max_fails": 40, DEAD: True}]),
    "turns_511": ("round_robin", [{"weight": 5}, {}, {}]),
    "turns_even": ("round_robin", [{}, {}, {}]),
    "turns_odd": ("round_robin", [{"weight": 7}, {"weight": 3}, {"weight": 2, "down": True}]),
    "turns_dead": (
        "round_robin",
        [{}, {"weight": 2}, {}, {"weight": 7, "max_fails": 3, DEAD: True}],
    ),
    "turns_backup": ("round_robin", [{"down": True}, {"backup": True}, {"backup": True}]),
    "least_even": ("leastconn", [{}, {}, {}]),
    "least_weights": ("leastconn", [{"weight": 4}, {"weight": 1}, {"weight": 2}]),
    "least_full": ("leastconn", [{"weight": 9, "max_connections": 2}, {}, {"weight": 2}]),
    "least_dead": ("leastconn", [{}, {"weight": 2}, {}, {"weight": 5, "max_fails": 4, DEAD: True}]),
}
METHODS = {"ip_hash": "ip_hash;", "round_robin": "", "leastconn": "least_conn;"}


def _parameters(server: dict[str, Any]) -> str:
    """Ours -> nginx's. A window that outlasts the test: no clock takes part."""
    flags = [key for key in ("down", "backup", DEAD) if server.get(key)]
    return " ".join(
        [
            f"weight={server.get('weight', 1)}",
            f"max_fails={server.get('max_fails', 1)}",
            f"max_conns={server.get('max_connections', 0)}",
            "fail_timeout=1h",
            *flags,
        ]
    )


@pytest.fixture(scope="module")
def nginx() -> Iterator[Nginx]:
    upstreams = {
        name: (METHODS[method], [_parameters(server) for server in servers])
        for name, (method, servers) in UPSTREAMS.items()
    }
    with running_nginx(upstreams) as running:
        yield running


class Ours:
    """The same servers under our strategy, with the same one dead."""

    def __init__(self, upstream: str) -> None:
        method, servers = UPSTREAMS[upstream]
        self.strategy: Strategy = STRATEGIES[method]()
        defaults = {"max_fails": 1, "fail_timeout": "1h"}
        self.pool: Pool = make_pool(
            *[{k: v for k, v in {**defaults, **s}.items() if k != DEAD} for s in servers]
        )
        self.dead = {i for i, server in enumerate(servers) if DEAD in server}

    def pick(self, client_address: str = "192.0.2.1", *, hold: bool = False) -> list[int]:
        """The servers tried for a request; the last one answers."""
        pool, tried = self.pool, []
        while True:
            request = FakeRequest(client_address, [pool.servers[i] for i in tried])
            server = self.strategy.pick(pool, request, NOW, Random(0))
            assert server is not None
            lease = pool.lease(server, NOW)
            tried.append(pool.servers.index(server))
            if tried[-1] in self.dead:
                server.failed(NOW)
                lease.release()
                continue
            server.succeeded()
            if not hold:
                lease.release()
            return tried


def addresses(count: int, seed: int) -> list[str]:
    """Random IPv4 and IPv6 addresses, and those of the design notes."""
    rng = Random(seed)
    fixed = ["10.0.1.7", "127.0.0.1", "203.0.113.9", "2001:db8::1", "::1", "::ffff:10.0.1.7"]
    v4 = [".".join(str(rng.randrange(256)) for _ in range(4)) for _ in range(count // 2)]
    v6 = [":".join(f"{rng.randrange(65536):x}" for _ in range(8)) for _ in range(count // 2)]
    return fixed + v4 + v6


@pytest.mark.parametrize("upstream", [name for name in UPSTREAMS if name.startswith("hash")])
def test_ip_hash(nginx: Nginx, upstream: str):
    ours = Ours(upstream)
    asked = addresses(600, seed=1)
    theirs = [nginx.pick(upstream, address) for address in asked]
    assert [ours.pick(address) for address in asked] == theirs
    assert len({picked[-1] for picked in theirs}) > 1


def test_these_addresses_tell_the_number_of_tries(monkeypatch: pytest.MonkeyPatch):
    """The comparison above would fail with one try less or more."""
    picks = {}
    for tries in (20, 21, 22):
        monkeypatch.setattr(ip_hash, "_MOST_TRIES", tries)
        ours = Ours("hash_tries")
        assert isinstance(ours.strategy, IpHash)
        picks[tries] = [ours.pick(address) for address in addresses(600, seed=1)]
    assert picks[20] != picks[21] != picks[22]


@pytest.mark.parametrize("upstream", [name for name in UPSTREAMS if name.startswith("turns")])
def test_round_robin(nginx: Nginx, upstream: str):
    ours = Ours(upstream)
    theirs = [nginx.pick(upstream) for _ in range(60)]
    assert [ours.pick() for _ in theirs] == theirs


@pytest.mark.parametrize("upstream", [name for name in UPSTREAMS if name.startswith("least")])
def test_leastconn(nginx: Nginx, upstream: str):
    """Some requests stay in flight, so loads differ; at ties the turns are compared."""
    ours = Ours(upstream)
    stays = [Random(7).random() < 0.5] + [Random(i).random() < 0.5 for i in range(60)]
    theirs = [nginx.pick_and_hold(upstream) if s else nginx.pick(upstream) for s in stays]
    assert [ours.pick(hold=s) for s in stays] == theirs
    assert sum(stays) > 20
