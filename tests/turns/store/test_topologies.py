"""The store's client over a failover, and over moving slots."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from redis.crc import key_slot

from hermes_lb.turns.ports import StoreAway
from tests.agent_worker.redis.topologies import ask, wait_for
from tests.support.waiting import until
from tests.turns.store.test_client import COUNT, ONCE

if TYPE_CHECKING:
    from tests.agent_worker.redis.topologies import Cluster, Sentinels
    from tests.turns.store.conftest import Connected


async def test_the_master_of_sentinels_is_replaced(
    sentinels: Sentinels, connected: Connected
) -> None:
    client = connected(sentinels.url)
    assert await client.run_durably(ONCE, ["{k}"], ["x"]) == 1
    assert await client.run_durably(ONCE, ["{k}"], ["x"]) == 2
    old = sentinels.master_port
    sentinels.kill(old)

    async def is_served() -> bool:
        try:
            return await client.run(ONCE, ["{k}"], ["x"]) == 2  # it was replicated
        except StoreAway:
            return False

    await until(is_served)
    assert sentinels.master_port != old


async def test_a_write_that_no_replica_has_is_none(
    sentinels: Sentinels, connected: Connected
) -> None:
    client = connected(sentinels.url)
    assert await client.run_durably(COUNT, ["{k}"], []) == 1
    for port in sentinels.replica_ports:
        sentinels.freeze(port)
    with pytest.raises(StoreAway, match="1 replicas were wanted, and have it: 0"):
        await client.run_durably(COUNT, ["{k}"], [])
    assert client.is_reachable
    assert await client.run(COUNT, ["{k}"], []) == 3
    lonely = connected(f"{sentinels.url}?min_replicas=0")
    assert await lonely.run_durably(COUNT, ["{k}"], []) == 4


async def test_keys_of_all_nodes_of_a_cluster(cluster: Cluster, connected: Connected) -> None:
    client = connected(cluster.url)
    keys = [f"{{{n}}}" for n in range(40)]
    assert await asyncio.gather(*(client.run_durably(COUNT, [key], []) for key in keys)) == [1] * 40
    assert {cluster.master_of(key) for key in keys} == set(cluster.master_ports())


async def test_a_slot_that_moves(cluster: Cluster, connected: Connected) -> None:
    client = connected(cluster.url)
    key = "{moving}"
    assert await client.run(COUNT, [key], []) == 1
    await client.ask(key, "DEL", key)
    slot = key_slot(key.encode())
    source = cluster.master_of(key)
    target = next(port for port in cluster.master_ports() if port != source)
    cluster.move_slot(slot, source, target)
    assert await client.run(COUNT, [key], []) == 1  # ASK
    assert await client.run_durably(COUNT, [key], []) == 2
    cluster.finish_move(slot, target)
    assert await client.run(COUNT, [key], []) == 3  # MOVED
    assert ask(target, "GET", key) == "3"


async def test_a_node_of_a_cluster_is_replaced(cluster: Cluster, connected: Connected) -> None:
    client = connected(cluster.url)
    assert await client.run_durably(ONCE, ["{k}"], ["x"]) == 1
    old = cluster.master_of("{k}")
    cluster.kill(old)

    async def is_served() -> bool:
        try:
            return await client.run(ONCE, ["{k}"], ["x"]) == 2
        except StoreAway:
            return False

    await until(is_served)
    wait_for(lambda: cluster.master_of("{k}") != old, "a new master")
