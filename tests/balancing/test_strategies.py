"""What holds for every strategy."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_lb.balancing import STRATEGIES
from hermes_lb.config.models import Backend
from tests.pool.support import FakeRequest, make_pool

every_strategy = pytest.mark.parametrize("name", sorted(STRATEGIES))

SERVERS = st.lists(
    st.fixed_dictionaries(
        {
            "weight": st.integers(1, 9),
            "max_connections": st.integers(0, 2),
            "max_fails": st.integers(0, 2),
            "down": st.booleans(),
            "backup": st.booleans(),
        }
    ),
    min_size=1,
    max_size=5,
)
EVENTS = st.lists(
    st.tuples(st.sampled_from(["pick", "fail", "release"]), st.integers(0, 9)), max_size=30
)


def play(name: str, servers: list[dict[str, Any]], events: list[tuple[str, int]]) -> list[str]:
    """Some traffic; returns what was picked, having checked that it was a candidate."""
    pool, strategy, rng = make_pool(*servers), STRATEGIES[name](), Random(1)
    leases, picked = [], []
    for now, (event, number) in enumerate(events):
        if event == "pick":
            tried = pool.servers[:1] if number == 0 else []
            candidates = list(pool.candidates(tried, now))
            server = strategy.pick(pool, FakeRequest(f"10.{number}.0.1", tried), now, rng)
            assert server in candidates if server else not candidates
            picked.append(server.name if server else "-")
            if server:
                leases.append(pool.lease(server, now))
        elif event == "fail":
            pool.servers[number % len(pool.servers)].failed(now)
        elif leases:
            leases.pop(number % len(leases)).release()
    return picked


@every_strategy
@settings(deadline=None)
@given(servers=SERVERS, events=EVENTS)
def test_picks_a_candidate_and_the_same_again(name: str, servers: Any, events: Any):
    assert play(name, servers, events) == play(name, servers, events)


@every_strategy
def test_holds_no_lease(name: str):
    pool = make_pool({}, {})
    STRATEGIES[name]().pick(pool, FakeRequest("10.0.0.1"), 0.0, Random(0))
    assert [server.in_flight for server in pool.servers] == [0, 0]


def test_the_configuration_knows_them_all():
    annotation = Backend.model_fields["balance"].annotation
    assert set(STRATEGIES) == set(annotation.__args__)
