"""Bodies that are read for their session: a long one does not hold up other requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.turns import Gateway, get, post
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.http_peer import Client
    from tests.support.stage import Stage

SESSION = {"session": "json:/s"}
LONG = b'{"s":"one","x":[%b0]}' % (b"1," * 300_000)
#: More values than are read.
BOMB = b'{"s":"one","x":[%b{}]}' % (b"{}," * 300_000)


@pytest.mark.parametrize(("body", "status"), [(LONG, 200), (BOMB, 400)])
async def test_others_are_served_meanwhile(stage: Stage, body: bytes, status: int) -> None:
    gateway = await Gateway.before(stage, await stage.serving(), turns=SESSION)
    large, small, other = [await gateway.client() for _ in range(3)]
    shared = gateway.lb._context.turns
    assert shared is not None
    await large.send(post(body)[:-1])
    async with shared.reads_body:  # all of it has come before it is read
        await large.send(body[-1:])
        await eventually(lambda: shared.buffered == len(body), "all of it has come")
    await small.send(post(b'{"s":"two"}'))
    await other.send(get("/other"))
    assert (await small.read_response()).status == 200
    assert (await other.read_response()).status == 200
    assert shared.buffered == len(body)
    assert (await large.read_response()).status == status
    assert shared.buffered == 0
    assert (await gateway.ask(post(b'{"s":"one"}'))).status == 200


async def test_one_client_does_not_use_up_the_room_of_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes_lb.proxy.turn_gateway.MOST_BUFFERED", 100_000)
    proxied = {"frontend": {"trusted_proxies": ["127.0.0.0/8"]}}
    gateway = await Gateway.before(stage, await stage.serving(), turns=SESSION, **proxied)
    shared = gateway.lb._context.turns
    assert shared is not None

    async def begin(address: str, size: int = 20_000) -> Client:
        client = await gateway.client()
        body = b'{"s":"one","x":"%b"}' % (b"y" * size)
        await client.send(post(body, f"X-Forwarded-For: {address}")[:-1])
        return client

    slow = [await begin("192.0.2.1") for _ in range(5)]
    await eventually(lambda: shared.buffered > 40_000, "they wait for their last byte")
    answers = [client for client in slow if not await client.gets_nothing()]
    for client in answers:
        assert (await client.read_response()).status == 503
    assert 2 <= len(answers) <= 4
    other = await begin("192.0.2.2")
    await other.send(b"}")
    assert (await other.read_response()).status == 200
    for client in slow:
        client.abort()
    await eventually(lambda: shared.buffered == 0, "nothing of them is kept")
    last = await begin("192.0.2.1")
    await last.send(b"}")
    assert (await last.read_response()).status == 200


async def test_a_body_counts_until_it_is_sent(stage: Stage) -> None:
    """While its request waits for its session, it is kept."""
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, turns=SESSION)
    shared = gateway.lb._context.turns
    assert shared is not None
    body = b'{"s":"one","x":"%b"}' % (b"y" * 200_000)
    first, second = await gateway.client(), await gateway.client()
    await first.send(post(body))
    at_origin, _ = await origin.accept_request()
    assert shared.buffered == 0
    await second.send(post(body))
    await eventually(lambda: shared.buffered == len(body), "the second one waits")
    await at_origin.respond(b"1")
    assert (await first.read_response()).body == b"1"
    message = await at_origin.read_request()
    assert message.body == body
    assert shared.buffered == 0
    await at_origin.respond(b"2")
    assert (await second.read_response()).body == b"2"
