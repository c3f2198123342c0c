from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from redis import exceptions as redis_errors

from tests.agent_worker.redis.topologies import HOST, ask
from tests.support.agent.redis import COUNT, ONCE, READ, Heard, publish, soon
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.sessions import RedisBackend
    from tests.agent_worker.redis.topologies import Sentinels

    Connected = Callable[[str], RedisBackend]


async def test_the_master_is_found_and_a_write_is_on_its_replicas(
    calm_sentinels: Sentinels, connected: Connected
) -> None:
    client = connected(calm_sentinels.url)
    await client.ping()
    assert await client.replicas_wanted("found") == 2
    assert await client.run(COUNT, ["found"], []) == 1
    assert ask(calm_sentinels.master_port, "GET", "found") == "1"
    assert await client.raw.get("found") == "1"
    reply, acknowledged = await client.run_replicated(COUNT, ["found"], [], replicas=2)
    assert (reply, acknowledged) == (2, 2)
    assert {ask(port, "GET", "found") for port in calm_sentinels.replica_ports} == {"2"}


async def test_a_repeated_script_does_not_pass_off_an_unreplicated_write_as_safe(
    calm_sentinels: Sentinels, connected: Connected
) -> None:
    # Its reply was lost, so it is repeated on another connection, and finds its work done.
    client, after_the_loss = connected(calm_sentinels.url), connected(calm_sentinels.url)
    replicas = calm_sentinels.replica_ports
    for port in replicas:
        calm_sentinels.freeze(port)
    try:
        assert await client.run(ONCE, ["{tool}:call"], ["x"]) == "written"
        repeated = await after_the_loss.run_replicated(ONCE, ["{tool}:call"], ["x"], 1)
        assert repeated == ("as before: x", 0)
    finally:
        for port in replicas:
            calm_sentinels.thaw(port)
    # Frozen for longer than Sentinel tolerates: other tests must find them healthy again.
    await asyncio.to_thread(calm_sentinels.wait_in_step)
    assert (await after_the_loss.run_replicated(ONCE, ["{tool}:call"], ["x"], 2))[1] == 2


async def test_a_sentinel_that_is_away_is_passed_over(
    calm_sentinels: Sentinels, connected: Connected
) -> None:
    # Port 1 refuses.
    client = connected(calm_sentinels.url.replace("://", f"://{HOST}:1,"))
    assert await client.run(COUNT, ["passed-over"], []) == 1


@pytest.mark.slow
async def test_an_unknown_name_is_reported(calm_sentinels: Sentinels, connected: Connected) -> None:
    url = calm_sentinels.url.replace("/main", "/mian")
    with pytest.raises(redis_errors.ConnectionError, match=r"mian.*does not know it"):
        await connected(url).ping()


@pytest.mark.slow
async def test_when_the_master_dies_operations_and_subscriptions_go_on(
    sentinels: Sentinels, connected: Connected
) -> None:
    client = connected(sentinels.url)
    heard = Heard()
    subscriber = heard.subscribe_with(client)
    await asyncio.gather(*(subscriber.subscribe(channel) for channel in ("a", "b", "c")))
    await publish(client, "a", "before")
    await until(lambda: heard.messages == [("a", "before")])
    _, acknowledged = await client.run_replicated(ONCE, ["{call}"], ["x"], replicas=2)
    assert acknowledged == 2

    old = sentinels.master_port
    sentinels.kill(old)
    # A write that both replicas acknowledged is on the promoted one.
    assert await soon(client, ONCE, "{call}", "y") == "as before: x"
    new = await asyncio.to_thread(sentinels.wait_for_new_master, old)
    assert new != old

    await until(lambda: heard.reconnections == 1)
    await publish(client, "c", "after")
    await until(lambda: heard.messages[-1] == ("c", "after"))
    assert heard.reconnections == 1
    await subscriber.close()


@pytest.mark.slow
async def test_a_demoted_master_is_not_written_to(
    sentinels: Sentinels, connected: Connected
) -> None:
    client = connected(sentinels.url)
    await asyncio.gather(*(client.run(COUNT, ["demoted"], []) for _ in range(10)))
    old = sentinels.master_port
    ask(sentinels.sentinel_ports[0], "SENTINEL", "FAILOVER", sentinels.MASTER_NAME)
    new = await asyncio.to_thread(sentinels.wait_for_new_master, old)
    # The old one continues as a replica; its clients are disconnected.
    await until(lambda: ask(old, "ROLE")[0] == "slave")
    replies = await asyncio.gather(*(client.run(COUNT, ["demoted"], []) for _ in range(10)))
    assert sorted(replies) == list(range(11, 21))
    assert ask(new, "GET", "demoted") == "20"


@pytest.mark.slow
async def test_when_the_master_hangs_another_takes_over(
    sentinels: Sentinels, connected: Connected
) -> None:
    client = connected(f"{sentinels.url}?socket_timeout=0.5")
    heard = Heard()
    subscriber = heard.subscribe_with(client)
    await subscriber.subscribe("a")
    await client.run_replicated(COUNT, ["hangs"], [], replicas=2)

    old = sentinels.master_port
    sentinels.freeze(old)
    assert await soon(client, READ, "hangs") == "1"
    new = await asyncio.to_thread(sentinels.wait_for_new_master, old)
    assert await soon(client, COUNT, "hangs") == 2
    assert ask(new, "GET", "hangs") == "2"
    await subscriber.close()


@pytest.mark.slow
async def test_without_sentinels_the_known_master_serves_on(
    sentinels: Sentinels, connected: Connected
) -> None:
    client = connected(sentinels.url)
    assert await client.run(COUNT, ["known"], []) == 1
    sentinels.kill_sentinels()
    assert await client.run(COUNT, ["known"], []) == 2
    with pytest.raises(redis_errors.ConnectionError, match="no Sentinel knows"):
        await connected(sentinels.url).ping()
