"""Bodies that are read for their session: a long one does not hold up other requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.turns import Gateway, get, post
from tests.support.waiting import eventually

if TYPE_CHECKING:
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
