"""The store's client over a failover, and over moving slots."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from redis.crc import key_slot

from hermes_lb.turns.ports import StoreAway
from tests.agent_worker.redis.topologies import ask, wait_for
from tests.support.waiting import until
from tests.turns.store.rig import CLEAN, Turn
from tests.turns.store.test_client import COUNT, ONCE

if TYPE_CHECKING:
    from hermes_lb.tasks import Tasks
    from tests.agent_worker.redis.topologies import Cluster, Sentinels
    from tests.turns.store.conftest import Connected
    from tests.turns.store.test_journal import Journals

pytestmark = pytest.mark.slow


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


async def test_a_journal_over_a_failover(
    sentinels: Sentinels, connected: Connected, journals: Journals, tasks: Tasks
) -> None:
    """Acknowledged events that the new master does not have are sent again."""
    written, other = journals(connected(sentinels.url)), journals(connected(sentinels.url))
    turns = [Turn(written) for _ in range(3)]
    followers = [turn.follow(other) for turn in turns]
    reads = [tasks.spawn(follower.read_patiently(), name="follower") for follower in followers]
    for turn in turns:
        turn.append(3)
    old = sentinels.master_port
    await until(lambda: all(follower.after == 3 for follower in followers))
    replicas = sentinels.replica_ports
    for port in replicas:  # they miss what comes
        sentinels.freeze(port)
    ask(old, "CLIENT", "KILL", "TYPE", "replica")
    for turn in turns:
        turn.append(2)
    await until(lambda: all(follower.after == 5 for follower in followers))
    sentinels.kill(old)
    for port in replicas:
        sentinels.thaw(port)
    for turn in turns:
        turn.append(1)
    await until(lambda: not any(turn.journal.unacknowledged for turn in turns))
    for turn in turns:
        await finish(turn)
    assert [await read for read in reads] == [CLEAN] * 3
    assert [follower.data for follower in followers] == [turn.written for turn in turns]


async def test_journals_on_all_nodes_of_a_cluster(
    cluster: Cluster,
    connected: Connected,
    journals: Journals,
    tasks: Tasks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hermes_lb.turns.store.reading._LOOK", 3600.0)  # notifications only
    written, other = journals(connected(cluster.url)), journals(connected(cluster.url))
    turns = [Turn(written) for _ in range(12)]
    followers = [turn.follow(other) for turn in turns]
    reads = [tasks.spawn(follower.read_patiently(), name="follower") for follower in followers]
    assert {cluster.master_of(turn.keys[0]) for turn in turns} == set(cluster.master_ports())
    for _ in range(3):
        for turn in turns:
            turn.append()
        await until(lambda: all(follower.after == turns[0].last for follower in followers))
    cluster.kill(cluster.master_of(turns[0].keys[0]))
    for turn in turns:
        turn.append()
    for turn in turns:
        await finish(turn)
    assert [await read for read in reads] == [CLEAN] * 12
    assert [follower.data for follower in followers] == [turn.written for turn in turns]


async def test_a_journal_whose_slot_moves(
    cluster: Cluster, connected: Connected, journals: Journals, tasks: Tasks
) -> None:
    written = journals(connected(cluster.url))
    turn, other = Turn(written), Turn(written)
    slot = key_slot(turn.keys[0].encode())
    source = cluster.master_of(turn.keys[0])
    target = next(port for port in cluster.master_ports() if port != source)
    cluster.move_slot(slot, source, target)
    follower = turn.follow(written)
    read = tasks.spawn(follower.read_patiently(), name="follower")
    turn.append(2)
    other.append()
    await until(lambda: not other.journal.unacknowledged)
    assert turn.journal.unacknowledged  # two keys that are not there yet: ASK, then TRYAGAIN
    cluster.finish_move(slot, target)
    await until(lambda: not turn.journal.unacknowledged)  # MOVED
    turn.append(1)
    await until(lambda: follower.after == 3)
    await finish(turn)
    await finish(other)
    assert await read == CLEAN
    assert follower.data == turn.written
    assert ask(target, "XLEN", turn.keys[1]) > 1


async def finish(turn: Turn) -> None:
    """Again until the store is back, as control does."""
    while True:
        try:
            kept = await turn.journal.finish(CLEAN)
        except StoreAway:
            await asyncio.sleep(0.05)
        else:
            assert kept == (1, turn.last, len(turn.written))
            return
