"""What the turns of one client address count for, until they have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.turns import Gateway, begin_stream, get, post
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from hermes_lb.proxy.turn_gateway import TurnGateway
    from tests.support.stage import Stage

HERE = "127.0.0.1"


def shared(gateway: Gateway) -> TurnGateway:
    found = gateway.lb._context.turns
    assert found is not None
    return found


async def test_turns_and_waiters_of_a_client(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, turns={"session": "header:X-Session"})
    here = shared(gateway)
    claims: list[Any] = []
    begin = here.store.begin

    async def noting(claim: Any) -> Any:
        claims.append((claim.client_turns, claim.client_waiters))
        return await begin(claim)

    here.store.begin = noting  # type: ignore[method-assign]
    first, second, third = [await gateway.client() for _ in range(3)]
    await first.send(post(b"{}", "X-Session: s"))
    at_origin, _ = await origin.accept_request()
    await second.send(post(b"{}", "X-Session: s"))
    await eventually(lambda: here.waiters.of(HERE) == 1, "the second one waits")
    await third.send(post(b"{}", "X-Session: s", key="k"))
    await eventually(lambda: here.waiters.of(HERE) == 2, "the third one waits")
    assert claims == [(0, 0), (1, 0), (2, 1)]
    # One that joins has no turn of its own.
    joined = await gateway.client()
    await joined.send(post(b"{}", "X-Session: s", key="k"))
    await eventually(lambda: len(claims) == 4, "it has joined")
    await eventually(lambda: here.turns.of(HERE) == 3, "it has no turn of its own")
    second.abort()
    joined.abort()
    await eventually(lambda: here.waiters.of(HERE) == 1, "the second one has left")
    await at_origin.respond(b"1")
    assert (await first.read_response()).body == b"1"
    await at_origin.read_request()
    assert (here.turns.total, here.waiters.total) == (1, 0)
    await at_origin.respond(b"3")
    assert (await third.read_response()).body == b"3"
    await eventually(lambda: here.turns.total == 0, "all have ended")
    assert (here.turns._amounts, here.waiters._amounts) == ({}, {})


@pytest.mark.parametrize("is_away", [False, True])
async def test_a_stream_without_a_key(stage: Stage, is_away: bool) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    here = shared(gateway)
    gateway.shared.is_away = is_away
    client, at_origin, _ = await begin_stream(gateway, origin, get("/v1/stream"))
    await eventually(lambda: here.turns.of(HERE) == (0 if is_away else 1), "it counts")
    client.abort()
    at_origin.close()
    await eventually(lambda: here.turns.total == 0, "it has ended")
