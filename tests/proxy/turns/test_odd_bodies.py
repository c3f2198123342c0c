"""Bodies and heads that are odd, or as large as they may be: a turn is replayed all the same."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.turns import Gateway, post, request, turn_of

if TYPE_CHECKING:
    from tests.support.stage import Stage


def chunked(body: bytes, rng: Random) -> bytes:
    wire = b""
    while body:
        size = rng.choice([1, 1, 1, 2, 300])
        wire += b"%x\r\n%b\r\n" % (len(body[:size]), body[:size])
        body = body[size:]
    return wire + b"0\r\n\r\n"


@pytest.mark.parametrize("seed", range(4))
async def test_many_small_chunks_are_the_body_that_they_hold(stage: Stage, seed: int) -> None:
    rng = Random(seed)
    gateway = await Gateway.before(stage, await stage.serving(), turns={"session": "json:/s"})
    body = b'{"s":"one","x":"%b"}' % (b"y" * 5000)
    head = request("POST", "/v1/run", "Transfer-Encoding: chunked", key="k")
    head = head.replace(b"\r\n\r\n", b"\r\nContent-Type: application/json\r\n\r\n")
    wire = chunked(body, rng)
    client = await gateway.client()
    await client.send(head)
    while wire:
        size = rng.randrange(1, 20_000)
        await client.send(wire[:size])
        wire = wire[size:]
    first = await client.read_response()
    assert first.status == 200
    await gateway.in_state(turn_of(first.head), "done")
    again = await gateway.ask(post(body, key="k"))
    assert (again.status, again.get("Idempotency-Replayed")) == (200, "true")


@pytest.mark.parametrize("fields", [98, 99, 100])
async def test_a_head_with_as_many_fields_as_there_may_be(stage: Stage, fields: int) -> None:
    """The stored one has a Date as well."""
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client = await gateway.client()
    await client.send(post(key="k"))
    at_origin, _ = await origin.accept_request()
    lines = "".join(f"X-{number}: {number}\r\n" for number in range(fields))
    await at_origin.send(b"HTTP/1.1 200 OK\r\n%b\r\nx" % lines.encode())
    at_origin.close()
    first: Any = await client.read_response()
    assert first.status == 200
    await gateway.in_state(turn_of(first.head), "done")
    again = await gateway.ask(post(key="k"))
    assert (again.status, again.body, again.get("X-5")) == (200, b"x", "5")


@pytest.mark.parametrize("size", [31_000, 32_600, 32_700])
async def test_a_head_that_is_as_long_as_it_may_be(stage: Stage, size: int) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client = await gateway.client()
    await client.send(post(key="k"))
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"x", "X-Long: " + "y" * size)
    first: Any = await client.read_response()
    assert first.status == 200
    await gateway.in_state(turn_of(first.head), "done")
    again = await gateway.ask(post(key="k"))
    assert (again.status, again.body) == (200, b"x")
