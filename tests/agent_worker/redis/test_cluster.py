from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from redis import exceptions as redis_errors
from redis.crc import key_slot

from tests.agent_worker.redis.topologies import HOST, Cluster, ask
from tests.support.agent.redis import COUNT, ONCE, READ, Heard, publish, soon
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.sessions import RedisBackend

    Connected = Callable[[str], RedisBackend]


async def test_keys_of_all_nodes_and_their_replicas(
    calm_cluster: Cluster, connected: Connected
) -> None:
    client = connected(calm_cluster.url)
    await client.ping()
    keys = [f"{{{n}}}:key" for n in range(60)]
    assert {calm_cluster.master_of(key) for key in keys[:20]} == set(calm_cluster.master_ports())
    assert await asyncio.gather(*(client.run(COUNT, [key], []) for key in keys)) == [1] * 60
    assert await client.raw.get(keys[0]) == "1"
    written = await asyncio.gather(*(client.run_replicated(COUNT, [key], [], 1) for key in keys))
    assert written == [(2, 1)] * 60


async def test_one_living_node_is_enough_to_find_the_others(
    calm_cluster: Cluster, connected: Connected
) -> None:
    last = calm_cluster.ports[Cluster.MASTERS - 1]
    client = connected(f"redis+cluster://{HOST}:1,{HOST}:{last}")
    assert await asyncio.gather(*(client.run(COUNT, [f"few{n}"], []) for n in range(9))) == [1] * 9


async def test_a_plain_url_to_a_cluster_is_reported(
    calm_cluster: Cluster, connected: Connected
) -> None:
    client = connected(f"redis://{HOST}:{calm_cluster.ports[0]}")
    elsewhere = next(
        f"{n}" for n in range(99) if calm_cluster.master_of(f"{n}") != calm_cluster.ports[0]
    )
    with pytest.raises(redis_errors.RedisError, match=r"redis\+cluster://"):
        await client.run(COUNT, [elsewhere], [])


async def test_a_message_reaches_whoever_is_connected_anywhere(
    calm_cluster: Cluster, connected: Connected
) -> None:
    client = connected(calm_cluster.url)
    listeners = [Heard() for _ in range(6)]
    subscribers = [heard.subscribe_with(client) for heard in listeners]
    for subscriber in subscribers:
        await subscriber.subscribe("news")
    for n in range(6):
        # Published on different nodes, like the scripts of different sessions.
        await client.run(COUNT, [f"{{{n}}}:published"], [])
        await publish(client, "news", f"{n}")
    for heard in listeners:
        await until(lambda heard=heard: len(heard.messages) == 6)
        assert sorted(data for _, data in heard.messages) == [f"{n}" for n in range(6)]
    for subscriber in subscribers:
        await subscriber.close()


@pytest.mark.slow
async def test_a_slot_that_moves_is_followed(calm_cluster: Cluster, connected: Connected) -> None:
    client = connected(calm_cluster.url)
    key, arrived = "{moves}:old", "{moves}:new"
    slot = key_slot(b"moves")
    source = calm_cluster.master_of(key)
    target = next(port for port in calm_cluster.master_ports() if port != source)
    await client.run(COUNT, [key], [])

    calm_cluster.move_slot(slot, source, target)
    # The source redirects keys that it lacks (ASK), and serves those that it has.
    assert await client.run(COUNT, [arrived], []) == 1
    assert await client.run_replicated(COUNT, [arrived], [], 1) == (2, 1)
    assert await client.run(COUNT, [key], []) == 2
    # Keys on both sides cannot be used together yet (TRYAGAIN).
    both = client.run(ONCE, [key, arrived], ["x"])
    with pytest.raises((redis_errors.TryAgainError, TimeoutError)):
        async with asyncio.timeout(0.3):
            await both

    ask(source, "MIGRATE", HOST, target, key, 0, 5000)
    calm_cluster.finish_move(slot, target)
    # Now it redirects all of them (MOVED).
    assert await client.run(COUNT, [key], []) == 3
    assert await client.run(READ, [key, arrived], []) == "3"
    assert calm_cluster.master_of(key) == target


@pytest.mark.slow
async def test_when_a_master_dies_its_replica_serves_its_slots(
    cluster: Cluster, connected: Connected
) -> None:
    client = connected(cluster.url)
    heard = Heard()
    subscriber = heard.subscribe_with(client)
    await subscriber.subscribe("a")
    keys = [f"{{{n}}}:key" for n in range(30)]
    for key in keys:
        assert (await client.run_replicated(COUNT, [key], [], 1))[1] == 1

    old = cluster.master_of(keys[0])
    cluster.kill(old)
    assert [await soon(client, READ, key) for key in keys] == ["1"] * 30
    await asyncio.to_thread(cluster.wait_for_new_master, keys[0], old)
    assert [await soon(client, COUNT, key) for key in keys] == [2] * 30
    await soon(client, READ, keys[0])
    await client.ping()

    await publish(client, "a", "after")
    # Its connection was to one of three masters: it may have been the dead one.
    await until(lambda: heard.messages or heard.reconnections)
    await subscriber.subscribe("a")
    await publish(client, "a", "again")
    await until(lambda: ("a", "again") in heard.messages)
    await subscriber.close()


@pytest.mark.slow
async def test_a_master_without_a_replica_is_missed(connected: Connected) -> None:
    with Cluster(replicas=0, node_timeout_ms=500) as cluster:
        client = connected(cluster.url)
        assert await client.run_replicated(COUNT, ["{0}"], [], 1) == (1, 0)
        cluster.kill(cluster.master_of("{0}"))
        with pytest.raises(redis_errors.RedisError):
            async with asyncio.timeout(10):
                await client.run(COUNT, ["{0}"], [])
        await until(lambda: fails(client))


async def fails(client: RedisBackend) -> bool:
    try:
        await client.ping()
    except redis_errors.RedisError:
        return True
    return False
