"""No exchange leaves a reference cycle: a collection stops the event loop for all connections."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.proxy.test_resume import RESUMABLE, Talk, event
from tests.proxy.test_tunnel import a_tunnel
from tests.support.loops import on_both_loops
from tests.support.turns import LAST_CHUNK, Gateway, begin_stream, events, post, turn_of
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin, Client
    from tests.support.stage import Stage


async def an_upload(stage: Stage) -> LoadBalancer:
    """A POST whose body comes in two parts, answered."""
    lb, client, at_origin = await stage.begun(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo"
    )
    await client.send(b"dy")
    await at_origin.read_exactly(4)
    await at_origin.respond(b"ok")
    assert (await client.read_response()).status == 200
    client.close()
    return lb


async def a_refused_upload(stage: Stage) -> LoadBalancer:
    """A body that breaks its framing."""
    lb, client, _ = await stage.begun(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n"
    )
    assert (await client.answer_to(b"x\r\n")).status == 400
    client.close()
    return lb


async def an_early_answer(stage: Stage) -> LoadBalancer:
    """A response that comes before the end of the request's body."""
    lb, client, at_origin = await stage.begun(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo"
    )
    await at_origin.respond(b"no", status=413)
    assert (await client.read_response()).status == 413
    client.close()
    return lb


async def a_resumed_stream(stage: Stage) -> LoadBalancer:
    """A stream that goes on from a second server, until the client leaves."""
    talk = await Talk.begin(stage)
    talk.first.abort()
    second, _ = await talk.origins[1].accept_request()
    await second.send(RESUMABLE + b"%x\r\n%b\r\n" % (len(event(2)), event(2)))
    assert await talk.client.read_chunk() == event(2)
    talk.client.close()
    return talk.lb


async def a_websocket(stage: Stage) -> LoadBalancer:
    """A tunnel that its client closes."""
    lb, client, at_origin = await a_tunnel(stage)
    await client.send(b"frame")
    await at_origin.read_exactly(5)
    client.close()
    assert await at_origin.read_to_end() == b""
    at_origin.close()
    return lb


async def a_response_that_is_read(stage: Stage) -> tuple[LoadBalancer, Client, AtOrigin]:
    """For its session key; a part of it has come."""
    rule = {"on": "json:/id", "learn": True, "response": "json:/id"}
    lb, client, at_origin = await stage.asked(backend={"stick": [rule]})
    await at_origin.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    await client.read_until(b"{")
    return lb, client, at_origin


async def one_that_its_server_cuts(stage: Stage) -> LoadBalancer:
    lb, client, at_origin = await a_response_that_is_read(stage)
    at_origin.close()
    assert await client.read_until_cut() == b""
    client.close()  # by HTTP/2 only the stream has ended
    return lb


async def one_that_its_client_leaves(stage: Stage) -> LoadBalancer:
    lb, client, at_origin = await a_response_that_is_read(stage)
    client.close()
    assert await at_origin.read_until_cut() == b""
    return lb


async def a_turn(stage: Stage) -> LoadBalancer:
    """A stream with a key, to its end, and its replay."""
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    await at_origin.send(events("one") + LAST_CHUNK)
    await client.read_body(head)
    await gateway.in_state(turn_of(head), "done")
    client.close()
    assert (await gateway.ask(post(key="k"))).status == 200
    return gateway.lb


async def a_turn_that_is_joined_and_lost(stage: Stage) -> LoadBalancer:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client, at_origin, _ = await begin_stream(gateway, origin, post(key="k"))
    joined = await gateway.client()
    await joined.send(post(key="k"))
    await joined.read_head()
    at_origin.abort()
    for one in (client, joined):
        await one.read_until_cut()
        one.close()
    assert (await gateway.ask(post(key="k"))).status == 409
    return gateway.lb


async def a_detached_turn(stage: Stage) -> LoadBalancer:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    client.abort()
    live = gateway.lb._context.live
    await eventually(lambda: live.detached, "the client has left")
    await at_origin.send(LAST_CHUNK)
    await gateway.in_state(turn_of(head), "done")
    return gateway.lb


CASES = [
    pytest.param(a_refused_upload, marks=pytest.mark.http1_only("chunks")),
    an_upload, an_early_answer, a_resumed_stream, a_websocket,
    one_that_its_server_cuts, one_that_its_client_leaves, a_turn, a_turn_that_is_joined_and_lost,
    a_detached_turn,
]  # fmt: skip


@on_both_loops
@pytest.mark.parametrize("use", CASES, ids=lambda case: case.__name__)
async def test_an_exchange_leaves_nothing_to_the_collector(
    stage: Stage, use: Callable[[Stage], Awaitable[LoadBalancer]]
) -> None:
    gc.collect()
    gc.disable()
    try:
        lb = await use(stage)
        context = lb._context
        assert context is not None
        await eventually(lambda: not context.live.clients)
        await turns()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = Counter(
            type(each).__qualname__
            for each in gc.garbage
            if type(each).__module__.startswith("hermes_lb.")
        )
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == {}


async def test_a_closed_tunnel_leaves_no_timer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline of a server that does not read would keep both connections for minutes."""
    lb, client, at_origin = await a_tunnel(stage)
    context = lb._context
    assert context is not None
    timers: list[asyncio.TimerHandle] = []

    class Loop:
        def call_later(self, *arguments: Any) -> asyncio.TimerHandle:
            timers.append(asyncio.get_running_loop().call_later(*arguments))
            return timers[-1]

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio.get_running_loop(), name)

    monkeypatch.setattr(context, "loop", Loop())
    at_origin.close()
    assert await client.read_to_end() == b""
    client.close()
    await eventually(lambda: not context.live.clients)
    assert timers
    assert all(timer.cancelled() for timer in timers)
