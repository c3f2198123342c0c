"""/api/v1/scaling: what KEDA's `metrics-api` scaler reads."""

from __future__ import annotations

from typing import Any

import pytest

from hermes_lb.control.scaling import Scaling
from tests.support.operator import TOKEN, FakeOperator, admin_listener, agents
from tests.support.pools import FakeWaiter


def value_at(answer: Any, path: str) -> float:
    """KEDA's `valueLocation` (GJSON): names with dots between them, and a number at the end."""
    for name in path.split("."):
        answer = answer[name]
    assert type(answer) in (int, float)
    return float(answer)


async def test_the_demand_is_what_runs_and_what_waits() -> None:
    operator = FakeOperator()
    pool = operator.pools["agents"]
    pool.lease(operator.server("agent1"), 0.0)
    pool.wait(FakeWaiter())
    pool.await_server(FakeWaiter())
    pool.waiting_elsewhere = 4  # in another process
    async with admin_listener(operator) as client:
        everything = await client.get("/api/v1/scaling")
        alone = await client.get("/api/v1/scaling/agents")
    assert everything["agents"].keys() == alone.keys()
    found = {name: value_at(everything, f"agents.{name}") for name in ("in_flight", "queued")}
    assert found == {"in_flight": 1, "queued": 6}
    assert value_at(alone, "demand") == value_at(everything, "agents.demand") == 7


async def test_a_backend_without_servers_has_demand() -> None:
    """Scale from zero: what waits for a first server asks for one."""
    pool = agents()
    pool.servers.clear()
    pool.await_server(FakeWaiter())
    async with admin_listener(FakeOperator(pool)) as client:
        answer = await client.get("/api/v1/scaling/agents")
    assert (answer["servers"], answer["available"], answer["demand"]) == (0, 0, 1)


async def test_an_unknown_backend_is_404() -> None:
    async with admin_listener() as client:
        response, text = await client.ask("/api/v1/scaling/nothing")
    assert (response.status, "there are agents" in text) == (404, True)


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), ({"Authorization": f"Bearer {TOKEN}"}, 200)]
)
async def test_it_needs_the_token_where_there_is_one(headers: dict[str, str], status: int) -> None:
    async with admin_listener(token=TOKEN) as client:
        response, _ = await client.ask("/api/v1/scaling", headers=headers)
    assert response.status == status


def test_rates_are_of_the_last_minute() -> None:
    pool = agents()
    counters = pool.servers[0].counters
    scaling = Scaling({"agents": pool})
    for now in range(200):
        if now >= 100:
            counters.responses[2] += 2
            counters.bytes_out += 3000
            counters.waiting.observe(0.5)
        scaling.sample(float(now))
        if now == 99:
            assert scaling.describe("agents", 99.0)["requests_per_second"] == 0.0
    found = scaling.describe("agents", 200.0)
    assert (found["requests_per_second"], found["bytes_per_second"]) == (2.0, 3000.0)
    assert found["queue_wait"] == 0.25
    counters.responses[2] = counters.bytes_out = 0  # as when a server leaves
    scaling.sample(205.0)
    assert scaling.describe("agents", 205.0)["requests_per_second"] == 0.0


def test_how_long_the_queue_has_not_been_empty() -> None:
    pool, waiter = agents(), FakeWaiter()
    scaling = Scaling({"agents": pool})
    pool.wait(waiter)
    scaling.sample(10.0)
    scaling.sample(20.0)
    assert scaling.describe("agents", 22.5)["queued_for"] == 12.5
    pool.leave(waiter)
    assert scaling.describe("agents", 23.0)["queued_for"] == 0.0
    scaling.sample(24.0)
    pool.wait(FakeWaiter())
    scaling.sample(30.0)
    assert scaling.describe("agents", 31.0)["queued_for"] == 1.0
