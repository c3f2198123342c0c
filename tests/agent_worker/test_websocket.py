from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from agent_worker.api import websocket
from agent_worker.sessions import new_nonce, session_keys
from agent_worker.tasks import spawn
from tests.support.agent.engines import GatedEngine
from tests.support.agent.runtime import gate_begin
from tests.support.sse import Event, deltas, event_order
from tests.support.waiting import until

if TYPE_CHECKING:
    from aiohttp import ClientWebSocketResponse
    from redis.asyncio import Redis

    from agent_worker.redis_server import RedisServer
    from agent_worker.sessions import SessionStore
    from tests.agent_worker.conftest import StartWorker
    from tests.support.agent.running_worker import RunningWorker


async def create(worker: RunningWorker) -> str:
    async with worker.post() as response:
        return (await response.json())["session_id"]


async def receive(socket: ClientWebSocketResponse) -> Event:
    frame = json.loads(await socket.receive_str())
    assert set(frame) == {"id", "event", "data"}
    return Event(frame["id"], frame["event"], frame["data"])


async def turn(socket: ClientWebSocketResponse, content: str) -> list[Event]:
    await socket.send_json({"content": content})
    events = [await receive(socket)]
    while events[-1].name not in {"done", "error"}:
        events.append(await receive(socket))
    return events


async def test_turns_over_one_socket(start_worker: StartWorker) -> None:
    worker = await start_worker(name="w1")
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        headers = socket._response.headers
        assert headers["X-Hermes-Worker"] == "w1"
        assert headers["X-Hermes-Session-Id"] == sid
        first = await turn(socket, "my name is Ada")
        second = await turn(socket, "what is my name?")
    assert deltas(second) == second[-1].data["content"] == "Your name is Ada."
    assert set(second[-1].data) == {"session_id", "step", "content", "is_final"}
    order = [event_order(event.id) for event in first + second]
    assert order == sorted(set(order))


@pytest.mark.parametrize(
    ("query", "field", "is_cancelled"),
    [
        ("", None, False),
        ("?on_disconnect=continue", "cancel", True),
        ("?on_disconnect=cancel", None, True),
        ("?on_disconnect=cancel", "continue", False),
    ],
)
async def test_a_turn_outlives_its_socket_unless_it_shall_not(
    start_worker: StartWorker, redis: Redis, query: str, field: str | None, is_cancelled: bool
) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid = await create(worker)
    message = {"content": "x"} | ({"on_disconnect": field} if field else {})
    async with worker.ws_connect(sid, "ws" + query) as socket:
        await socket.send_json(message)
        assert (await receive(socket)).data == {"content": "one "}
    await until(lambda: not worker.worker.websocket._connections)
    if not is_cancelled:
        assert not engine.closed.is_set()
        engine.gate.set()
    await engine.closed.wait()
    await worker.worker.turns.wait_idle()
    assert await redis.exists(session_keys(sid)[1]) == 0
    async with worker.get(sid) as response:
        view = await response.json()
    said = [message["content"] for message in view["messages"]]
    assert said == (["x"] if is_cancelled else ["x", "one two"])
    assert view["status"] == ("interrupted" if is_cancelled else "idle")


async def test_a_second_turn_is_refused_without_harming_the_first(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        await socket.send_json({"content": "x"})
        await receive(socket)
        await socket.send_json({"content": "y"})
        refused = await receive(socket)
        assert (refused.id, refused.name) == (None, "error")
        assert refused.data["code"] == "turn_in_progress"
        engine.gate.set()
        assert [(await receive(socket)).name for _ in range(2)] == ["message.delta", "done"]


async def test_a_turn_that_another_client_runs_is_refused_too(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid = await create(worker)
    url = worker.sessions(sid, "ws")
    async with worker.http.ws_connect(url) as one, worker.http.ws_connect(url) as two:
        await one.send_json({"content": "x"})
        await engine.started.wait()
        (refused,) = await turn(two, "y")
        assert refused.data["code"] == "turn_in_progress"


@pytest.mark.parametrize(
    "garbage",
    ["", "{", "[]", "{}", '{"content": 1}', '{"content": "\\ud800"}', b"\x00", "[" * 9999],
)
async def test_garbage_gets_an_error_and_the_socket_stays_open(
    worker: RunningWorker, garbage: str | bytes
) -> None:
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        if isinstance(garbage, bytes):
            await socket.send_bytes(garbage)
        else:
            await socket.send_str(garbage)
        event = await receive(socket)
        assert (event.id, event.name, event.data["code"]) == (None, "error", "bad_request")
        assert (await turn(socket, "hello"))[-1].name == "done"


async def test_a_message_that_is_too_big_closes_the_socket(worker: RunningWorker) -> None:
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        await socket.send_str("x" * (1024 * 1024 + 1))
        message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1009)


async def test_an_unknown_session_is_refused_before_the_handshake(worker: RunningWorker) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await worker.ws_connect("a" * 32, "ws")
    assert refused.value.status == 404


async def test_a_lost_redis_is_an_error_event(
    start_worker: StartWorker, own_redis_server: RedisServer
) -> None:
    worker = await start_worker(redis_url=own_redis_server.url)
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        own_redis_server.stop()
        (event,) = await turn(socket, "hello")
        assert (event.name, event.data["code"]) == ("error", "store_unavailable")
        assert not socket.closed


async def gauge(worker: RunningWorker) -> float:
    async with worker.http.get("/metrics") as response:
        (line,) = [
            line
            for line in (await response.text()).splitlines()
            if line.startswith("hermes_active_sessions ")
        ]
        return float(line.split()[1])


async def test_the_gauge_counts_sockets_and_leases(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid = await create(worker)
    assert await gauge(worker) == 0
    async with worker.ws_connect(sid, "ws") as socket:
        assert await gauge(worker) == 1
        await socket.send_json({"content": "x"})
        await receive(socket)
        assert await gauge(worker) == 2
        engine.gate.set()
        assert [(await receive(socket)).name for _ in range(2)] == ["message.delta", "done"]

    async def is_zero() -> Any:
        return await gauge(worker) == 0

    await until(is_zero)


async def test_draining_closes_idle_sockets_now_and_busy_ones_after_their_turn(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    idle_sid, busy_sid = await create(worker), await create(worker)
    async with (
        worker.ws_connect(idle_sid, "ws") as idle,
        worker.ws_connect(busy_sid, "ws") as busy,
    ):
        await busy.send_json({"content": "x"})
        await receive(busy)
        drain = asyncio.gather(worker.worker.websocket.drain(), idle.receive())
        _, closed = await drain
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        await busy.send_json({"content": "y"})
        assert (await receive(busy)).data["code"] == "draining"
        engine.gate.set()
        assert [(await receive(busy)).name for _ in range(2)] == ["message.delta", "done"]
        closed = await busy.receive()
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1001)


async def test_of_the_messages_that_interrupt_one_waits_and_the_others_are_refused(
    worker: RunningWorker, store: SessionStore
) -> None:
    sid = await create(worker)
    nonce = new_nonce()
    # A turn of a worker without notifications.
    await store.begin(sid, "anonymous", {"role": "user", "content": "first"}, nonce=nonce)
    async with worker.ws_connect(sid, "ws") as socket:
        for n in range(5):
            await socket.send_json({"content": f"now {n}", "policy": "interrupt"})
        for _ in range(4):
            refused = await receive(socket)
            assert (refused.id, refused.data["code"]) == (None, "turn_in_progress")
        assert len(worker.worker.turns) == 1
        await store.release(sid, "anonymous", nonce)
        while (event := await receive(socket)).name != "done":
            assert event.name == "message.delta"
        # Another message is accepted.
        await socket.send_json({"content": "and now", "policy": "interrupt"})
        while (event := await receive(socket)).name != "done":
            assert event.name == "message.delta"
    view = await store.read(sid, "anonymous")
    users = [message["content"] for message in view.messages if message["role"] == "user"]
    assert users == ["first", "now 0", "and now"]


async def test_messages_that_wait_are_taken_down_one_at_a_time_and_in_order(
    start_worker: StartWorker, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        await socket.send_json({"content": "first"})
        await receive(socket)
        gate, at_once = gate_begin(worker, monkeypatch)
        for n in range(4):
            await socket.send_json({"content": f"later {n}", "policy": "enqueue"})
        await until(lambda: at_once)
        async with worker.http.get("/health") as response:
            assert (await response.json())["load"] == 2
        gate.set()
        assert [(await receive(socket)).data for _ in range(4)] == [
            {"waiting": n + 1} for n in range(4)
        ]
        engine.gate.set()
        await until(lambda: len(worker.worker.turns) == 0)
    view = await store.read(sid, "anonymous")
    users = [message["content"] for message in view.messages if message["role"] == "user"]
    assert users == ["first", *(f"later {n}" for n in range(4))]


@pytest.mark.parametrize("is_stalled", [False, True])
async def test_a_drain_waits_for_what_a_socket_still_sends(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch, is_stalled: bool
) -> None:
    """The last events are sent after the turn's end. A stalled client blocks nothing."""
    worker = await start_worker(engine=(engine := GatedEngine()))
    endpoint, gate = worker.worker.websocket, asyncio.Event()
    async with worker.ws_connect(await create(worker), "ws") as socket:
        await socket.send_json({"content": "x"})
        assert (await receive(socket)).data == {"content": "one "}
        [connection] = endpoint._connections
        send = connection._events.send

        async def send_late(event: Any) -> None:
            await gate.wait()
            await send(event)

        monkeypatch.setattr(connection._events, "send", send_late)
        monkeypatch.setattr(websocket, "_CLOSE_TIMEOUT_S", 0.05 if is_stalled else 60.0)
        engine.gate.set()
        await worker.worker.turns.wait_idle()
        told = spawn(endpoint.wait_delivered(), name="told")
        if is_stalled:
            await told
        else:
            await asyncio.wait({told}, timeout=0.05)
            assert not told.done()
        gate.set()
        assert [(await receive(socket)).name for _ in range(2)] == ["message.delta", "done"]
        await told
