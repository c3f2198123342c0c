"""Whether the holder of a lease has died: by its silence, and by its subscription to Redis."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import RedisError

from agent_worker.redis_server import RedisServer
from agent_worker.runtime.holders import _BACK_S, GONE_S, LATE_S, SILENT_S, Holders, worker_channel
from agent_worker.sessions.keys import heartbeat_key
from agent_worker.tasks import cancel_and_wait, spawn
from tests.support.agent.redis import Heard
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.sessions import RedisBackend
    from tests.agent_worker.redis.topologies import Cluster

    Connected = Callable[[str], RedisBackend]


def holders(backend: Any, steady_s: float = math.inf, live_s: float = math.inf) -> Holders:
    index: Any = SimpleNamespace(steady_s=steady_s)
    notifier: Any = SimpleNamespace(live_s=live_s)
    return Holders(backend, index, notifier)


class Now:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    clock = Now()
    monkeypatch.setattr("agent_worker.runtime.holders.monotonic", clock)
    return clock


class Redis:
    """Says which workers are subscribed, and how old their heartbeats are; or does not answer."""

    def __init__(self, *names: str, beat_age_s: float | None = None) -> None:
        self.names = set(names)
        self.age_s = beat_age_s
        self.answers = True
        self.asked = 0

    async def subscribers(self, channel: str) -> int:
        self.asked += 1
        await asyncio.sleep(0)
        if not self.answers:
            raise RedisError
        return sum(channel == worker_channel(name) for name in self.names)

    async def beat_age_s(self, worker: str) -> float | None:
        if not self.answers:
            raise RedisError
        return self.age_s


@pytest.mark.parametrize(
    ("name", "silent_s", "steady_s", "live_s", "wait_s"),
    [
        # Silence alone.
        ("alive", SILENT_S - 0.1, math.inf, math.inf, 0.1),
        ("alive", SILENT_S, math.inf, math.inf, 0.0),
        ("alive", 9.0, SILENT_S - 0.1, math.inf, 0.1),
        ("alive", 9.0, SILENT_S, math.inf, 0.0),
        ("alive", 9.0, SILENT_S, 0.0, 0.0),
        # There may be a sign of its death by then.
        ("alive", 0.0, math.inf, math.inf, GONE_S),
        ("alive", 1.0, math.inf, math.inf, GONE_S),
        # A lease without the name of its worker.
        ("", 0.0, math.inf, math.inf, SILENT_S),
        ("", GONE_S, math.inf, math.inf, SILENT_S - GONE_S),
        ("", 9.0, _BACK_S, _BACK_S, SILENT_S - _BACK_S),
        # Seen to be missing for the first time, and when Redis is back.
        ("dead", 1.0, math.inf, math.inf, GONE_S),
        ("dead", 1.0, _BACK_S, _BACK_S, GONE_S),
        ("dead", 1.0, _BACK_S - GONE_S, math.inf, GONE_S),
        ("dead", 9.0, 0.0, math.inf, _BACK_S - GONE_S),
        ("dead", 1.0, math.inf, 0.0, _BACK_S - GONE_S),
    ],
)
async def test_how_long_a_holder_is_waited_for(
    name: str, silent_s: float, steady_s: float, live_s: float, wait_s: float
) -> None:
    judge = holders(Redis("alive"), steady_s, live_s)
    assert await judge.wait_s(name, silent_s) == pytest.approx(wait_s)


@pytest.mark.parametrize(
    ("beat_age_s", "silent_s", "live_s", "wait_s"),
    [
        (LATE_S, LATE_S, math.inf, 0.0),
        (9.0, LATE_S, math.inf, 0.0),
        # It stands still since shortly before its turn would have renewed its lease.
        (LATE_S - 0.1, 2.0, math.inf, 0.1),
        # A turn may be slow to write while its worker lives.
        (0.2, 2.3, math.inf, SILENT_S - 2.3),
        (9.0, LATE_S - 0.1, math.inf, 0.1),
        # A worker of an earlier version.
        (None, 2.3, math.inf, SILENT_S - 2.3),
        # Redis is back.
        (9.0, 2.0, _BACK_S - 0.1, 0.1),
        (9.0, 2.0, _BACK_S, 0.0),
    ],
)
async def test_how_long_a_holder_is_waited_for_by_the_heartbeats_of_its_worker(
    beat_age_s: float | None, silent_s: float, live_s: float, wait_s: float
) -> None:
    judge = holders(Redis("w", beat_age_s=beat_age_s), live_s=live_s)
    assert await judge.wait_s("w", silent_s) == pytest.approx(wait_s)


async def test_a_holder_is_gone_when_its_subscription_has_been_missing_for_long_enough(
    now: Now,
) -> None:
    judge = holders(Redis())
    assert await judge.wait_s("w", 0.2) == pytest.approx(GONE_S)
    now.s += GONE_S - 0.1
    assert await judge.wait_s("w", 0.2 + GONE_S - 0.1) == pytest.approx(0.1)
    now.s += 0.1
    assert await judge.wait_s("w", GONE_S - 0.2) == pytest.approx(0.2), "it has sent a heartbeat"
    assert await judge.wait_s("w", GONE_S) == 0.0


async def test_a_worker_with_heartbeats_is_not_gone_without_its_subscription(now: Now) -> None:
    """It may be subscribed at a node that a failover has made a replica."""
    backend = Redis(beat_age_s=0.1)
    judge = holders(backend)
    await judge.wait_s("w", 0.9)
    now.s += GONE_S
    assert await judge.wait_s("w", 0.9) == pytest.approx(GONE_S - 0.1)
    backend.age_s = GONE_S
    assert await judge.wait_s("w", 0.9) == 0.0


async def test_a_node_that_does_not_answer_does_not_hide_the_heartbeats_of_a_worker() -> None:
    class Hanging(Redis):
        async def subscribers(self, channel: str) -> int:
            await asyncio.Event().wait()
            raise AssertionError

    assert await holders(Hanging(beat_age_s=9.0)).wait_s("w", LATE_S) == 0.0


async def test_a_subscription_that_comes_back_is_missing_from_the_beginning_again(
    now: Now,
) -> None:
    backend = Redis()
    judge = holders(backend)
    assert await judge.wait_s("w", 1.0) == pytest.approx(GONE_S)
    now.s += 0.1
    backend.names = {"w"}
    assert await judge.wait_s("w", 1.0) == pytest.approx(GONE_S)
    now.s += GONE_S
    backend.names = set()
    assert await judge.wait_s("w", 1.0) == pytest.approx(GONE_S)
    now.s += GONE_S
    assert await judge.wait_s("w", 1.0) == 0.0


async def test_observations_far_apart_are_not_one(now: Now) -> None:
    """The subscription may have been there meanwhile, and is lost for a moment now."""
    judge = holders(Redis())
    assert await judge.wait_s("w", 1.0) == pytest.approx(GONE_S)
    now.s += 3600.0
    assert await judge.wait_s("w", 1.0) == pytest.approx(GONE_S)
    assert len(judge._missing) == 1


async def test_the_names_of_dead_workers_are_not_kept(now: Now) -> None:
    judge = holders(Redis())
    for number in range(100):
        await judge.wait_s(f"w{number}", 1.0)
        now.s += 1.0
    assert len(judge._missing) <= 3
    assert not judge._asking


async def test_redis_without_an_answer_begins_the_observation_again(now: Now) -> None:
    backend = Redis()
    judge = holders(backend)
    assert await judge.wait_s("w", 1.0) == pytest.approx(GONE_S)
    backend.answers = False
    now.s += GONE_S
    assert await judge.wait_s("w", 1.0) == pytest.approx(GONE_S)
    backend.answers = True
    assert await judge.wait_s("w", 1.0) == pytest.approx(GONE_S)


async def test_followers_of_one_holder_share_one_question(now: Now) -> None:
    backend = Redis()
    judge = holders(backend)
    first = await asyncio.gather(*(judge.wait_s("w", 1.0) for _ in range(50)))
    now.s += GONE_S
    second = await asyncio.gather(*(judge.wait_s("w", 1.0) for _ in range(50)))
    assert first == pytest.approx([GONE_S] * 50)
    assert (second, backend.asked) == ([0.0] * 50, 2)


async def test_a_follower_that_leaves_does_not_end_the_question_of_the_others(now: Now) -> None:
    judge = holders(Redis())
    leaving = spawn(judge.wait_s("w", 1.0), name="leaving")
    staying = spawn(judge.wait_s("w", 1.0), name="staying")
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == pytest.approx(GONE_S)


async def test_heartbeats_end_although_a_cancellation_is_swallowed() -> None:
    """As redis-py does while it connects."""
    sending = asyncio.Event()

    class Swallowing(Redis):
        async def beat(self, worker: str) -> None:
            sending.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise RedisError from None

    beats = spawn(holders(Swallowing()).run("w"), name="heartbeats")
    await sending.wait()
    beats.cancel()
    await asyncio.wait({beats})


# By Redis.


async def test_a_heartbeat_grows_old(calm_server: RedisServer, connected: Connected) -> None:
    client = connected(calm_server.url)
    assert await client.beat_age_s("w") is None
    await client.beat("w")
    first = await client.beat_age_s("w")
    assert first is not None
    assert 0.0 <= first < LATE_S

    async def is_older() -> bool:
        age_s = await client.beat_age_s("w")
        return age_s is not None and age_s > first + 0.05

    await until(is_older)
    await client.beat("w")
    assert await client.beat_age_s("w") <= first + 0.05  # type: ignore[operator]


async def test_heartbeats_go_on_behind_an_outage(connected: Connected) -> None:
    with RedisServer.start() as server:
        client = connected(server.url)
        beats = spawn(holders(client).run("w"), name="heartbeats")

        async def has_beaten() -> bool:
            return await client.beat_age_s("w") is not None

        await until(has_beaten)
        await client.raw.execute_command("ACL", "SETUSER", "default", "-set")
        await client.raw.delete(heartbeat_key("w"))
        await client.raw.execute_command("ACL", "SETUSER", "default", "+set")
        await until(has_beaten)
        await cancel_and_wait(beats)


async def is_subscribed(judge: Holders, now: Now, name: str) -> bool:
    """By two observations; the second is late enough for a judgement."""
    now.s += 3600.0
    await judge.wait_s(name, 1.0)
    now.s += GONE_S
    return await judge.wait_s(name, 1.0) > 0.0


async def test_a_subscription_ends_with_its_connection(
    calm_server: RedisServer, connected: Connected, now: Now
) -> None:
    client = connected(calm_server.url)
    subscriber = Heard().subscribe_with(client)
    await subscriber.subscribe(worker_channel("w"))
    judge = holders(client)
    assert await is_subscribed(judge, now, "w")
    await subscriber.close()

    async def is_gone() -> bool:
        return not await is_subscribed(judge, now, "w")

    await until(is_gone)


@pytest.mark.slow
async def test_in_a_cluster_a_subscription_counts_on_whichever_node_it_is(
    calm_cluster: Cluster, connected: Connected, now: Now
) -> None:
    client = connected(calm_cluster.url)
    subscribers = [Heard().subscribe_with(client) for _ in range(6)]
    judge = holders(client)
    for number, subscriber in enumerate(subscribers):
        await subscriber.subscribe(worker_channel(f"w{number}"))
        assert await is_subscribed(judge, now, f"w{number}")
    assert not await is_subscribed(judge, now, "w6")
    for subscriber in subscribers:
        await subscriber.close()


async def test_a_redis_that_does_not_say_is_no_sign_of_death(
    connected: Connected, now: Now
) -> None:
    with RedisServer.start() as server:
        client = connected(server.url)
        judge = holders(client)
        assert not await is_subscribed(judge, now, "w")
        await client.raw.execute_command("ACL", "SETUSER", "default", "-pubsub")
        assert await is_subscribed(judge, now, "w")
    assert await is_subscribed(judge, now, "w")


async def test_only_silence_while_redis_was_there_is_sure() -> None:
    assert holders(Redis()).sure_s == SILENT_S
    assert holders(Redis(), steady_s=1.0).sure_s is None
