"""The end of a failed turn for its client: a last event, or a reset connection."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from agent_worker.api import socket_connection
from agent_worker.api.sse import EventStream
from agent_worker.errors import EngineFailed
from agent_worker.runtime import turn
from agent_worker.tools import Toolbox
from tests.agent_worker.redis.dropping_proxy import DroppingProxy
from tests.support.agent.engines import FunctionTool
from tests.support.agent.runtime import SSE, PausedEngine, asks, create, speech
from tests.support.sse import all_events, read_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent_worker.redis_server import RedisServer
    from tests.agent_worker.conftest import StartWorker


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[DroppingProxy]:
    """Requested before the workers, so that it outlives their connections."""
    async with DroppingProxy(redis_server.port) as proxy:
        yield proxy


def fails_later() -> PausedEngine:
    """It says "half ", waits, and fails."""
    return PausedEngine([*speech("half "), None, EngineFailed()])


async def test_while_redis_stands_still_a_stream_ends_with_an_error_all_the_same(
    proxy: DroppingProxy, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "_LAST_EVENT_S", 0.05)
    worker = await start_worker(redis_url=proxy.url, engine=(engine := fails_later()))
    sid = await create(worker)
    url = worker.sessions(sid, "messages")
    async with worker.http.post(url, json={"content": "go"}, headers=SSE) as response:
        stream = read_events(response)
        await anext(stream)
        proxy.go_mute()
        engine.gate.set()
        last = await anext(stream)
        proxy.speak()
        assert [event async for event in stream] == []
    assert (last.id, last.name, last.data["code"]) == ("", "error", "engine_failed")


async def test_while_redis_stands_still_a_socket_is_notified_of_the_error_all_the_same(
    proxy: DroppingProxy, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "_LAST_EVENT_S", 0.05)
    worker = await start_worker(redis_url=proxy.url, engine=(engine := fails_later()))
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        await socket.send_json({"content": "go"})
        await socket.receive()
        proxy.go_mute()
        engine.gate.set()
        last = json.loads(await socket.receive_str(timeout=20))
        proxy.speak()
    assert (last["id"], last["event"]) == (None, "error")
    assert last["data"]["code"] == "engine_failed"


async def test_a_handover_is_reported_however_long_redis_takes_for_it(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "_LAST_EVENT_S", 0.2)

    async def look(arguments: Any, context: Any) -> str:
        return "seen"

    engine = PausedEngine([*speech("I look. "), None, asks("look")])
    worker = await start_worker(engine=engine, toolbox=Toolbox([FunctionTool("look", look)]))
    hand_over = worker.worker.store.hand_over

    async def slowly(*arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0.7)
        return await hand_over(*arguments, **options)

    monkeypatch.setattr(worker.worker.store, "hand_over", slowly)
    sid = await create(worker)
    headers = {**SSE, "X-Hermes-Handover": "accept"}
    async with worker.post(sid, "messages", json={"content": "go"}, headers=headers) as response:
        await engine.paused.wait()
        worker.worker.hand_over()
        engine.gate.set()
        assert (await all_events(response))[-1].name == "handover"


# A client that does not read: the last event cannot be delivered.


async def test_a_stream_whose_last_event_does_not_get_through_is_broken_off(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "_LAST_EVENT_S", 0.05)
    send = EventStream.send

    async def stuck(self: EventStream, event: Any) -> None:
        await (asyncio.Event().wait() if event.name == "error" else send(self, event))

    monkeypatch.setattr(EventStream, "send", stuck)
    worker = await start_worker(engine=(engine := fails_later()))
    engine.gate.set()
    url = worker.sessions(await create(worker), "messages")
    async with worker.http.post(url, json={"content": "go"}, headers=SSE) as response:
        with pytest.raises((aiohttp.ClientPayloadError, ConnectionError)):
            await response.read()


async def test_a_socket_whose_last_event_does_not_get_through_is_broken_off(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_connection, "_END_TAKES_S", 0.05)
    send = web.WebSocketResponse.send_str

    async def stuck(self: web.WebSocketResponse, data: str, compress: Any = None) -> None:
        await (asyncio.Event().wait() if '"event":"error"' in data else send(self, data))

    monkeypatch.setattr(web.WebSocketResponse, "send_str", stuck)
    worker = await start_worker(engine=(engine := fails_later()))
    engine.gate.set()
    url = worker.sessions(await create(worker), "ws")
    async with worker.http.ws_connect(url) as socket:
        await socket.send_json({"content": "go"})
        assert '"half "' in await socket.receive_str()
        ended = await socket.receive(timeout=20)
        assert (ended.type, socket.close_code) == (aiohttp.WSMsgType.CLOSED, 1006)
