"""`/ready` is about writes: why Redis refuses them, its recovery, and the cost of a check."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from agent_worker.redis_server import RedisServer
from agent_worker.sessions.readiness import Readiness
from tests.agent_worker.redis.topologies import ask
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from aiohttp import ClientSession

    from agent_worker.sessions import RedisBackend
    from tests.agent_worker.conftest import StartWorker
    from tests.agent_worker.redis.topologies import Cluster, Sentinels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "redis"
    folder.mkdir()
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[RedisServer]:
    with RedisServer.start(options={"dir": str(folder)}) as server:
        yield server


@pytest.fixture
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_worker.sessions.readiness._FRESH_S", 0.0)


async def state(http: ClientSession, url: str) -> tuple[int, str | None, str | None]:
    async with http.get(url + "/ready") as response:
        body = await response.json()
        assert body["status"] == ("ready" if response.status == 200 else "degraded")
        return response.status, body.get("cause"), response.headers.get("X-Hermes-Degraded")


READY = (200, None, None)


@pytest.mark.usefixtures("always_fresh")
@pytest.mark.parametrize(
    ("cause", "harm", "mend"),
    [
        ("read_only", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("full", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        (
            "too_few_replicas",
            "CONFIG SET min-replicas-to-write 1",
            "CONFIG SET min-replicas-to-write 0",
        ),
    ],
)
async def test_a_redis_that_takes_no_writes_is_not_ready_until_it_does(
    http: ClientSession,
    start_worker: StartWorker,
    server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    cause: str,
    harm: str,
    mend: str,
) -> None:
    worker = await start_worker(redis_url=server.url)
    assert await state(http, worker.url) == READY
    for _ in range(2):
        ask(server.port, *harm.split())
        for _ in range(3):
            assert await state(http, worker.url) == (503, cause, "store")
        async with http.get(worker.url + "/health") as response:
            assert response.status == 200
        ask(server.port, *mend.split())
        assert await state(http, worker.url) == READY
        async with worker.post() as response:
            assert response.status == 201
    # Each change once, independent of the number of checks.
    said = [r.getMessage() for r in caplog.records if r.name == "agent_worker.sessions.readiness"]
    assert [line.split(":")[1:2] for line in said] == [[f" {cause}"], []] * 2


@pytest.mark.usefixtures("always_fresh")
async def test_a_redis_that_cannot_save_is_not_ready(
    http: ClientSession, start_worker: StartWorker, server: RedisServer, folder: Path
) -> None:
    worker = await start_worker(redis_url=server.url)
    ask(server.port, "CONFIG", "SET", "save", "3600 1000000")
    shutil.rmtree(folder)
    ask(server.port, "BGSAVE")
    await until(lambda: "rdb_last_bgsave_status:err" in ask(server.port, "INFO", "persistence"))
    assert await state(http, worker.url) == (503, "not_persisting", "store")
    ask(server.port, "CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
    assert await state(http, worker.url) == READY
    server.kill()  # otherwise it would not exit without a snapshot


@pytest.mark.usefixtures("always_fresh")
async def test_a_redis_that_is_gone_or_refuses_us_is_not_ready(
    http: ClientSession, start_worker: StartWorker, server: RedisServer
) -> None:
    worker = await start_worker(redis_url=server.url)
    ask(server.port, "ACL", "SETUSER", "default", "-set")
    assert await state(http, worker.url) == (503, "refused", "store")
    server.stop()
    assert await state(http, worker.url) == (503, "unreachable", "store")


def sets(port: int) -> int:
    facts = ask(port, "INFO", "commandstats")
    lines = [line for line in facts.splitlines() if line.startswith("cmdstat_set:")]
    return int(lines[0].partition("calls=")[2].partition(",")[0]) if lines else 0


async def test_a_storm_of_questions_is_one_write(
    server: RedisServer,
    connected: Callable[[str], RedisBackend],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readiness = Readiness(connected(server.url))
    monkeypatch.setattr("agent_worker.sessions.readiness._FRESH_S", 3600.0)
    assert await asyncio.gather(*(readiness.problem() for _ in range(50))) == [None] * 50
    assert sets(server.port) == 1
    # The answer is current: a cached one is at most `_FRESH_S` old.
    ask(server.port, "REPLICAOF", "127.0.0.1", "1")
    assert await readiness.problem() is None
    readiness._good_until = 0.0
    assert await readiness.problem() == "read_only"


async def test_one_that_asks_and_leaves_takes_nobodys_answer(
    server: RedisServer, connected: Callable[[str], RedisBackend]
) -> None:
    readiness = Readiness(connected(server.url))
    asking = [asyncio.ensure_future(readiness.problem()) for _ in range(3)]  # noqa: TID251
    await asyncio.sleep(0)
    asking[0].cancel()
    assert await asyncio.gather(*asking[1:]) == [None, None]
    assert asking[0].cancelled()


async def test_nothing_of_it_stays(
    server: RedisServer, connected: Callable[[str], RedisBackend]
) -> None:
    client = connected(server.url)
    assert await client.session_store().readiness.problem() is None

    async def is_empty() -> bool:
        return bool(await client.raw.dbsize() == 0)

    await until(is_empty)


@pytest.mark.usefixtures("always_fresh")
async def test_one_master_of_a_cluster_that_is_full_is_enough(
    calm_cluster: Cluster, connected: Callable[[str], RedisBackend]
) -> None:
    readiness = Readiness(connected(calm_cluster.url))
    assert await readiness.problem() is None
    masters = [port for port in calm_cluster.servers if ask(port, "ROLE")[0] == "master"]
    assert len(masters) > 1
    for port in masters:
        ask(port, "CONFIG", "SET", "maxmemory", "1")
        try:
            assert await readiness.problem() == "full"
        finally:
            ask(port, "CONFIG", "SET", "maxmemory", "0")
        assert await readiness.problem() is None


@pytest.mark.slow
@pytest.mark.usefixtures("always_fresh")
async def test_a_master_without_its_replicas_behind_sentinels(
    calm_sentinels: Sentinels, connected: Callable[[str], RedisBackend]
) -> None:
    readiness = Readiness(connected(calm_sentinels.url))
    assert await readiness.problem() is None
    (port,) = (p for p in calm_sentinels.servers if ask(p, "ROLE")[0] == "master")
    ask(port, "CONFIG", "SET", "min-replicas-to-write", "9")
    try:
        assert await readiness.problem() == "too_few_replicas"
    finally:
        ask(port, "CONFIG", "SET", "min-replicas-to-write", "0")
    assert await readiness.problem() is None
