"""A store that fails in the midst of a turn, and comes back: nothing is repeated, lost or left."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from agent_worker.redis_server import RedisServer
from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.states import DONE
from tests.agent_worker.redis.topologies import ask
from tests.support.turns import (
    LAST_CHUNK,
    Gateway,
    begin_stream,
    events,
    post,
    turn_of,
    without_ids,
)
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.stage import Stage

pytestmark = pytest.mark.slow

# Commands that break the store, and that restore it. A replica is read-only.
FULL = [("CONFIG", "SET", "maxmemory", "1")], [("CONFIG", "SET", "maxmemory", "0")]
READ_ONLY = [("REPLICAOF", "127.0.0.1", "1")], [("REPLICAOF", "NO", "ONE")]
SLOW = [("CLIENT", "PAUSE", "600000", "WRITE")], [("CLIENT", "UNPAUSE")]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """One of its own."""
    with RedisServer.start() as running:
        monkeypatch.setattr(Gateway, "url", running.url)
        yield running


@pytest.mark.parametrize(
    ("fails", "mends"), [FULL, READ_ONLY, SLOW], ids=["full", "read-only", "silent"]
)
async def test_it_fails_in_the_midst_of_a_turn(
    stage: Stage, server: RedisServer, fails: list[tuple[str, ...]], mends: list[tuple[str, ...]]
) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    turn = turn_of(head)
    await at_origin.send(events("one"))
    body = await client.read_chunk()
    for words in fails:
        ask(server.port, *words)

    async def is_noticed() -> bool:
        """A request that needs the store gets a clear status, and is not executed."""
        answer = await gateway.ask(post(key="other"))
        assert answer.status == 503
        assert answer.get("X-Hermes-Degraded") == "store"
        assert int(answer.get("Retry-After")) > 0
        assert b'"store_away"' in answer.body
        return True

    assert await is_noticed()
    duplicate = await gateway.ask(post(key="k"))
    # A store that can be read has the turn, and the duplicate joins it; it follows what is there.
    assert duplicate.status in (200, 503)
    # The stream goes on meanwhile.
    await at_origin.send(events("two"))
    body += await client.read_chunk()
    await at_origin.send(events("three") + LAST_CHUNK)
    body += await client.read_body(head)
    assert without_ids(body) == b"data: one\n\ndata: two\n\ndata: three\n\n"
    for words in mends:
        ask(server.port, *words)
    shared = gateway.lb._context.turns
    assert shared is not None
    await until(lambda: shared.store.is_reachable)

    async def is_done() -> bool:
        with suppress(StoreAway):
            found = await shared.store.find_of_any(turn)
            return found is not None and found.state == DONE
        return False

    await until(is_done)
    replayed = await gateway.ask(post(key="k"))
    assert (replayed.status, replayed.get("Idempotency-Replayed")) == (200, "true")
    assert replayed.body == body
    # Nothing was executed twice, and nothing is left.
    assert await origin.has_no_new_connection()
    await until(lambda: shared.turns.total == 0 and shared.waiters.total == 0)
    # A begin that was not answered is released behind the outage.
    await until(lambda: len(ask(server.port, "KEYS", "*:key:*")) == 1)
    assert all(ask(server.port, "PTTL", key) > 0 for key in ask(server.port, "KEYS", "*"))
    # It is said once for each outage that was noticed, and no other problem was.
    assert all("hermes_lb.turns logs: the store of turns" in said for said in stage.problems)
    assert "is back" in stage.problems[-1]
    stage.problems.clear()
