"""Pins that balancers share through Redis, as operators list and clear them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from redis.asyncio import Redis

from hermes_lb.affinity.stores.memory import pin_id
from hermes_lb.affinity.stores.redis import RedisStore
from hermes_lb.control import shared_pins
from hermes_lb.tasks import Tasks
from tests.affinity.test_shared_sessions import link, shared
from tests.affinity.test_stick import mint, session_of
from tests.control.test_api import check_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb import LoadBalancer
    from tests.agent_worker.redis.dropping_proxy import DroppingProxy
    from tests.support.stage import Stage

__all__ = ["link"]

ADMIN = {"bind": "127.0.0.1:0"}
MANY = 1800  # more than three batches


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, decode_responses=True) as connected:
        yield connected


async def ask(lb: LoadBalancer, method: str, which: str = "") -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, f"{lb.admin_url}/api/v1/pins?{which}", json={}) as response,
    ):
        answer = await response.json()
        check_answer("/api/v1/pins", method.lower(), response.status, answer)
        return response.status, answer


async def fill(redis: Redis, number: int) -> None:
    pins = {f"hermes-lb:pin:agents:{pin_id(b'%d' % n)}": "agent1" for n in range(number)}
    await redis.mset(pins)


async def stored(redis: Redis) -> dict[str, str]:
    """All that is in Redis."""
    keys = await redis.keys()
    return dict(zip(keys, await redis.mget(keys), strict=True)) if keys else {}


def known(lb: LoadBalancer) -> dict[bytes, str]:
    return dict(lb._plane.backends["agents"].session_table.pins())


@pytest.mark.parametrize(
    ("which", "left"),
    [
        (f"id={pin_id(b's0-0')}", {"s1-0", "s2-0"}),
        ("server=agent2", {"s0-0", "s2-0"}),
        (f"server=agent2&id={pin_id(b's0-0')}", {"s0-0", "s1-0", "s2-0"}),
        ("server=", {"s0-0", "s1-0", "s2-0"}),
        ("backend=agents", set()),
        ("backend=other", {"s0-0", "s1-0", "s2-0"}),
        ("", set()),
    ],
)
async def test_another_balancer_does_not_bring_back_what_is_cleared(
    stage: Stage, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, which: str,
    left: set[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(RedisStore, "freshness", 0.0)
    foreign = {
        "hermes-lb:pin:agents:short": "agent1",
        f"hermes-lb:pin:agents2:{'0' * 32}": "agent1",
    }
    await redis.mset(foreign)
    origins = await mint(stage)
    one = await stage.balancer(*origins, backend=shared(redis_url), admin=ADMIN)
    two = await stage.balancer(*origins, backend=shared(redis_url))
    sessions = {session_of(await stage.ask(one)) for _ in range(3)}
    for session in sessions:
        assert (await stage.ask(two, f"Mcp-Session-Id: {session}")).status == 200
    assert await ask(one, "DELETE", which) == (200, {"cleared": len(sessions - left)})
    assert {key.decode() for key in known(one)} == left
    found = await stored(redis)
    assert foreign.items() <= found.items()
    pins = {
        session: found[f"hermes-lb:pin:agents:{pin_id(session.encode())}"] for session in sessions
    }
    assert {session for session, name in pins.items() if name} == left
    table = two._plane.backends["agents"].session_table
    for session in sessions:
        assert (await table.look_up(session.encode()) is not None) == (session in left)
    _, listed = await ask(one, "GET")
    assert {pin["id"] for pin in listed["pins"]} == {pin_id(key.encode()) for key in left}
    # They are learned again.
    again = session_of(await stage.ask(two))
    assert (await stage.ask(one, f"Mcp-Session-Id: {again}")).status == 200


async def test_a_mark_stays_for_as_long_as_another_balancer_may_know_the_pin(
    stage: Stage, redis: Redis, redis_url: str
) -> None:
    lb = await stage.balancer(*await mint(stage), backend=shared(redis_url, expire=50), admin=ADMIN)
    await fill(redis, 1)
    await ask(lb, "DELETE")
    [key] = await stored(redis)
    assert 40_000 < await redis.pttl(key) <= 50_000


@pytest.mark.parametrize(
    ("before", "is_kept", "after"),
    [(None, True, "one"), ("one", True, "one"), ("two", True, "one"), ("", False, "")],
)
async def test_a_use_of_a_pin_writes_over_all_but_a_mark(
    redis: Redis, redis_url: str, before: str | None, is_kept: bool, after: str
) -> None:
    key = f"hermes-lb:pin:agents:{pin_id(b'session')}"
    if before is not None:
        await redis.set(key, before)
    store = RedisStore("agents", redis_url, 30.0, lambda: 0.0, Tasks())
    assert await store.refresh(b"session", "one") is is_kept
    assert await redis.get(key) == after
    assert await store.announce(b"session", "three")
    assert await store.look_up(b"session") == "three"
    await store.close()


async def test_many_are_cleared_and_listed_in_parts(
    link: DroppingProxy, stage: Stage, redis: Redis
) -> None:
    lb = await stage.balancer(*await mint(stage), backend=shared(link.url), admin=ADMIN)
    await fill(redis, MANY)
    _, listed = await ask(lb, "GET", "limit=700")
    assert len(listed["pins"]) == 700
    assert listed["unread"] == [{"backend": "agents", "because": "there are more"}]
    assert link.commands["SCAN"] == 2
    assert await ask(lb, "DELETE", "server=agent1") == (200, {"cleared": MANY})
    assert link.commands["EVAL"] == link.commands["SCAN"] - 2 > 3
    assert link.commands["KEYS"] == 0
    assert set((await stored(redis)).values()) == {""}
    _, listed = await ask(lb, "GET")
    assert (listed["total"], listed["unread"], listed["elsewhere"]) == (0, [], ["agents"])


async def test_a_store_that_is_lost_meanwhile_is_an_error_that_says_how_far_it_got(
    link: DroppingProxy, stage: Stage, redis: Redis
) -> None:
    lb = await stage.balancer(*await mint(stage), backend=shared(link.url), admin=ADMIN)
    session = session_of(await stage.ask(lb))
    await fill(redis, MANY)
    sees = link.sees

    def loses_the_third(words: list[bytes]) -> bool:
        return sees(words) or (words[0] == b"EVAL" and link.commands["EVAL"] == 3)

    link.sees = loses_the_third  # type: ignore[method-assign]
    status, answer = await ask(lb, "DELETE")
    error = answer["error"]
    cleared = int(re.findall(r"\d+", error["message"])[0])
    marks = list((await stored(redis)).values()).count("")
    assert (status, error["message"]) == (
        503, f"not all pins are cleared, but {cleared}; what is left stays in use",
    )  # fmt: skip
    assert 0 < cleared < marks < MANY  # the third part was executed
    assert error["problems"][0].startswith(f"agents: {cleared} of those in its store, then: ")
    assert known(lb) == {session.encode(): "agent1"}
    assert await ask(lb, "DELETE") == (200, {"cleared": MANY + 1 - marks})
    assert known(lb) == {}


@pytest.mark.parametrize(
    ("silent", "because"),
    [(True, "it does not answer within 0.2 s"), (False, "refused")],
)
async def test_a_store_that_is_away_is_an_error_in_time(
    link: DroppingProxy, stage: Stage, monkeypatch: pytest.MonkeyPatch, silent: bool, because: str
) -> None:
    monkeypatch.setattr("hermes_lb.affinity.stores.redis_pins._PATIENCE", 0.2)
    url = link.url if silent else f"redis://127.0.0.1:{stage.nobody()}/0"
    lb = await stage.balancer(*await mint(stage), backend=shared(url), admin=ADMIN)
    if silent:
        link.go_mute()
    status, answer = await ask(lb, "DELETE")
    assert (status, "but 0;" in answer["error"]["message"]) == (503, True)
    assert because in answer["error"]["problems"][0]
    status, answer = await ask(lb, "GET")
    assert (status, answer["pins"]) == (200, [])
    assert because in answer["unread"][0]["because"]
    link.speak()


async def test_the_time_for_a_slow_store_is_bounded(
    link: DroppingProxy, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_pins, "_LISTING_TAKES", 0.1)
    monkeypatch.setattr(shared_pins, "_CLEARING_TAKES", 0.1)
    lb = await stage.balancer(*await mint(stage), backend=shared(link.url), admin=ADMIN)
    link.go_mute()
    _, answer = await ask(lb, "DELETE")
    assert answer["error"]["problems"] == [
        "agents: 0 of those in its store, then: the 0.1 s for all backends are over"
    ]
    _, answer = await ask(lb, "GET")
    assert [one["because"] for one in answer["unread"]] == ["not read to its end within 0.1 s"]
    link.speak()
