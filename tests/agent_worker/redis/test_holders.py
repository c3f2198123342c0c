"""Whether the holder of a lease has died: by its silence, and by its subscription to Redis."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.redis_server import RedisServer
from agent_worker.runtime.holders import _BACK_S, GONE_S, SILENT_S, Holders, worker_channel
from tests.support.agent.redis import Heard
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.sessions import RedisBackend
    from tests.agent_worker.redis.topologies import Cluster

    Connected = Callable[[str], RedisBackend]


def holders(client: RedisBackend, steady_s: float = math.inf) -> Holders:
    index: Any = SimpleNamespace(steady_s=steady_s)
    return Holders(client, index)


@pytest.mark.parametrize(
    ("name", "silent_s", "steady_s", "wait_s"),
    [
        ("dead", 0.0, math.inf, GONE_S),
        ("dead", GONE_S, math.inf, 0.0),
        ("alive", 0.0, math.inf, GONE_S),
        ("alive", GONE_S, math.inf, SILENT_S - GONE_S),
        ("alive", SILENT_S, math.inf, 0.0),
        # A lease without the name of its worker.
        ("", 0.0, math.inf, SILENT_S),
        ("", GONE_S, math.inf, SILENT_S - GONE_S),
        ("", SILENT_S, math.inf, 0.0),
        # Redis is back.
        ("dead", 9.0, 0.0, _BACK_S),
        ("dead", 9.0, _BACK_S, 0.0),
        ("dead", 0.0, _BACK_S, GONE_S),
        ("alive", 9.0, _BACK_S, SILENT_S - _BACK_S),
        ("alive", 9.0, SILENT_S, 0.0),
        ("", 9.0, _BACK_S, SILENT_S - _BACK_S),
    ],
)
async def test_how_long_a_holder_is_waited_for(
    calm_server: RedisServer,
    connected: Connected,
    name: str,
    silent_s: float,
    steady_s: float,
    wait_s: float,
) -> None:
    client = connected(calm_server.url)
    subscriber = Heard().subscribe_with(client)
    await subscriber.subscribe(worker_channel("alive"))
    assert await holders(client, steady_s).wait_s(name, silent_s) == pytest.approx(wait_s)
    await subscriber.close()


async def test_a_subscription_ends_with_its_connection(
    calm_server: RedisServer, connected: Connected
) -> None:
    client = connected(calm_server.url)
    subscriber = Heard().subscribe_with(client)
    await subscriber.subscribe(worker_channel("w"))
    judge = holders(client)
    assert await judge.wait_s("w", GONE_S) > 0
    await subscriber.close()

    async def is_gone() -> bool:
        return await judge.wait_s("w", GONE_S) == 0

    await until(is_gone)


async def test_in_a_cluster_a_subscription_counts_on_whichever_node_it_is(
    calm_cluster: Cluster, connected: Connected
) -> None:
    client = connected(calm_cluster.url)
    subscribers = [Heard().subscribe_with(client) for _ in range(6)]
    judge = holders(client)
    for number, subscriber in enumerate(subscribers):
        await subscriber.subscribe(worker_channel(f"w{number}"))
        assert await judge.wait_s(f"w{number}", GONE_S) > 0
    assert await judge.wait_s("w6", GONE_S) == 0
    for subscriber in subscribers:
        await subscriber.close()


async def test_a_redis_that_does_not_say_is_no_sign_of_death(connected: Connected) -> None:
    with RedisServer.start() as server:
        client = connected(server.url)
        judge = holders(client)
        assert await judge.wait_s("w", GONE_S) == 0
        await client.raw.execute_command("ACL", "SETUSER", "default", "-pubsub")
        assert await judge.wait_s("w", GONE_S) > 0
    assert await judge.wait_s("w", GONE_S) > 0


async def test_only_silence_while_redis_was_there_is_sure(connected: Connected) -> None:
    client = connected("redis://127.0.0.1:1/0")
    assert holders(client).sure_s == SILENT_S
    assert holders(client, steady_s=1.0).sure_s is None
