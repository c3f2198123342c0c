from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from hermes_lb.backends import Pool
from hermes_lb.config import Backend
from hermes_lb.health.checker import HealthChecker
from tests.support.agent.engines import GatedEngine
from tests.support.sse import read_events
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.agent_worker.conftest import StartWorker
    from tests.support.agent.running_worker import RunningWorker


async def test_health_and_readiness_of_a_worker_that_is_well(start_worker: StartWorker) -> None:
    worker = await start_worker(name="w1")
    async with worker.http.get("/health") as response:
        assert response.status == 200
        assert await response.json() == {"status": "ok", "worker": "w1", "load": 0}
        assert response.headers["X-Hermes-Worker"] == "w1"
        assert response.headers["X-Hermes-Load"] == "0"
    async with worker.http.get("/ready") as response:
        assert response.status == 200
        assert await response.json() == {"status": "ready", "worker": "w1", "active_turns": 0}
    async with worker.http.head("/health") as response:
        assert response.status == 200


async def test_draining_is_reported_by_ready_and_health_and_nothing_is_refused(
    worker: RunningWorker,
) -> None:
    async with worker.http.post("/drain") as response:
        assert response.status == 202
    async with worker.http.get("/ready") as response:
        assert (response.status, (await response.json())["status"]) == (503, "draining")
    async with worker.http.get("/health") as response:
        assert (response.status, response.headers["X-Hermes-Draining"]) == (503, "1")
        assert (await response.json())["status"] == "draining"
    async with worker.post() as response:
        assert response.status == 201


async def test_the_balancers_checks_take_it_for_a_drain_and_not_for_a_failure(
    worker: RunningWorker,
) -> None:
    listed = [{"name": "agent1", "address": worker.url.removeprefix("http://")}]
    health = {"interval": "10ms", "timeout": "5s", "fall": 1}
    configured = Backend.model_validate({"servers": listed, "health": health})
    pools = {"agents": Pool("agents", configured)}
    (server,) = pools["agents"].servers
    checks = HealthChecker(pools, {"agents": configured}, rng=Random())
    await checks.start()
    try:
        await until(lambda: server.last_check.startswith("200"))
        async with worker.http.post("/drain") as response:
            assert response.status == 202
        await until(lambda: server.state != "up")
        assert server.state == "drain"
        assert server.may_serve(0.0)
    finally:
        await checks.stop()


async def test_draining_ends_no_stream_of_events(worker: RunningWorker) -> None:
    async with worker.post() as response:
        sid = (await response.json())["session_id"]
    async with worker.get(sid, "events") as stream:
        async with worker.http.post("/drain") as response:
            assert response.status == 202
        for _ in range(2):
            async with worker.post(sid, "messages", json={"content": "write 1 words"}) as response:
                assert response.status == 200
        events = read_events(stream)
        names = [(await anext(events)).name for _ in range(4)]
    assert names == ["message.delta", "done"] * 2


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via"])
async def test_a_balancers_client_cannot_drain_a_worker(worker: RunningWorker, header: str) -> None:
    async with worker.http.post("/drain", headers={header: "127.0.0.1"}) as response:
        assert response.status == 403
    async with worker.http.get("/ready") as response:
        assert response.status == 200


async def test_metrics_are_each_workers_own(start_worker: StartWorker) -> None:
    one, two = await start_worker(), await start_worker()
    async with one.post() as response:
        sid = (await response.json())["session_id"]
    async with one.post(sid, "messages", json={"content": "hello"}) as response:
        assert response.status == 200
    texts = []
    for worker in (one, two):
        async with worker.http.get("/metrics") as response:
            assert response.content_type == "text/plain"
            texts.append(await response.text())
    for line in (
        'hermes_turns_total{outcome="completed"} 1.0',
        "hermes_steps_total 1.0",
        'hermes_responses_total{status="201"} 1.0',
    ):
        assert line in texts[0]
        assert line not in texts[1]
    assert "hermes_active_sessions 0.0" in texts[0]


async def test_each_answer_tells_how_much_there_is_to_do(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    async with worker.post() as response:
        sid = (await response.json())["session_id"]
    headers = {"Accept": "text/event-stream"}
    async with worker.post(sid, "messages", json={"content": "go"}, headers=headers) as response:
        assert response.headers["X-Hermes-Load"] == "1"
        await engine.started.wait()
        async with worker.http.get("/health") as busy:
            assert (await busy.json())["load"] == 1
        engine.gate.set()
        await response.read()
