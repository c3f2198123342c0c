"""A server that accepts connections and refuses commands: the pauses between attempts grow."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hermes_lb.turns.store import subscriber, writer
from tests.agent_worker.redis.topologies import ask
from tests.support.waiting import until
from tests.turns.store.rig import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from agent_worker.redis_server import RedisServer
    from hermes_lb.turns.store.client import StoreClient
    from hermes_lb.turns.store.stored_journals import StoredJournals
    from tests.agent_worker.redis.dropping_proxy import DroppingProxy
    from tests.turns.store.conftest import Connected

    Journals = Callable[[StoreClient], StoredJournals]

# Connections that are refused: the pauses between them grow.
REFUSED = 6


def pauses(first: float, longest: float) -> Iterator[float]:
    while True:
        yield first
        first = min(2 * first, longest)


def least_time(first: float, longest: float) -> float:
    """Seconds that `REFUSED` attempts take at least, behind the first one."""
    return sum(pause for _, pause in zip(range(REFUSED - 1), pauses(first, longest), strict=False))


def url_of(link: DroppingProxy, user: str) -> str:
    return link.url.replace("://", f"://{user}:secret@")


async def test_appends_are_refused(
    valkey: RedisServer,
    link: DroppingProxy,
    connected: Connected,
    journals: Journals,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As by a server that is full, or read-only."""
    ask(valkey.port, "ACL", "SETUSER", "reader", "on", ">secret", "~*", "&*", "+@all", "-xadd")
    loop = asyncio.get_running_loop()
    client = connected(url_of(link, "reader"))
    turn = Turn(journals(client))
    begun = loop.time()
    for _ in range(10):
        turn.append()
    await until(lambda: link.accepted >= REFUSED)
    assert loop.time() - begun >= least_time(*writer._PAUSE)
    assert [record.msg for record in caplog.records] == ["the store of turns can't be reached: %s"]
    ask(valkey.port, "ACL", "SETUSER", "reader", "+xadd")
    await until(lambda: not turn.journal.unacknowledged)
    assert caplog.records[-1].getMessage() == "the store of turns is back"
    assert len(caplog.records) == 2
    assert not turn.journal.is_trimmed
    caplog.clear()


async def test_subscriptions_are_refused(
    valkey: RedisServer, link: DroppingProxy, connected: Connected, journals: Journals
) -> None:
    """The default of Redis for a new user is no channel at all."""
    ask(valkey.port, "ACL", "SETUSER", "deaf", "on", ">secret", "~*", "resetchannels", "+@all")
    loop = asyncio.get_running_loop()
    client = connected(url_of(link, "deaf"))
    listening = journals(client).subscriber
    await client.ask("key", "GET", "key")
    shared = await (await client.topology.node("key")).link()
    begun, before = loop.time(), link.accepted
    came: list[bytes] = []
    assert not await listening.listen("channel", came.append, 0.0)
    await until(lambda: link.accepted - before >= REFUSED)
    assert loop.time() - begun >= least_time(*subscriber._PAUSE)
    assert shared.is_open  # commands go on
    ask(valkey.port, "ACL", "SETUSER", "deaf", "allchannels")
    assert await listening.listen("channel", came.append, 10.0)
    ask(valkey.port, "PUBLISH", "channel", "x")
    await until(lambda: b"x" in came)
