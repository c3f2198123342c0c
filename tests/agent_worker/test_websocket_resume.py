"""Reconnecting sockets: a client gets what it missed; and a slow one blocks nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from agent_worker.models import TextDelta
from agent_worker.sessions import new_nonce, session_keys
from tests.agent_worker.test_websocket import create, receive, turn
from tests.support.agent.engines import GatedEngine, PlannedEngine
from tests.support.agent.runtime import PausedEngine, gate_begin, speech
from tests.support.sse import Event, deltas
from tests.support.waiting import until

if TYPE_CHECKING:
    from aiohttp import ClientSession, ClientWebSocketResponse
    from redis.asyncio import Redis

    from agent_worker.redis_server import RedisServer
    from agent_worker.sessions import SessionStore
    from tests.agent_worker.conftest import StartWorker
    from tests.support.agent.running_worker import RunningWorker

ENDS = {"done", "error", "reset"}


async def rest(socket: ClientWebSocketResponse) -> list[Event]:
    """The events until the turn's end."""
    events = [await receive(socket)]
    while events[-1].name not in ENDS:
        events.append(await receive(socket))
    return events


async def says_nothing_more(socket: ClientWebSocketResponse) -> None:
    """It answers in order: this must be its next message."""
    await socket.send_json({"content": ""})
    assert (await receive(socket)).data["code"] == "bad_request"


@pytest.mark.parametrize("how", ["header", "query"])
@pytest.mark.parametrize("is_finished", [False, True])
async def test_a_client_comes_back_from_wherever_it_was(
    start_worker: StartWorker, how: str, is_finished: bool
) -> None:
    """On another worker, each time with the next event as its last one."""
    gates = [asyncio.Event() for _ in range(5)]
    words = [item for n, gate in enumerate(gates) for item in (*speech(f"{n} "), gate)]
    worker = await start_worker(engine=PausedEngine(words))
    other = await start_worker()
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        await socket.send_json({"content": "go"})
        events = [await receive(socket)]
    if is_finished:
        for gate in gates:
            gate.set()
        await worker.worker.turns.wait_idle()
    while events[-1].name != "done":
        gates[len(events) - 1].set()
        url, headers = other.sessions(sid, "ws"), {}
        if how == "query":
            url += f"?last_event_id={events[-1].id}"
        else:
            headers["Last-Event-ID"] = events[-1].id
        async with other.http.ws_connect(url, headers=headers) as socket:
            events.append(await receive(socket))
    assert [event.name for event in events] == ["message.delta"] * 5 + ["done"]
    assert deltas(events) == events[-1].data["content"] == "0 1 2 3 4 "
    # A client that has everything gets nothing, and can continue.
    url = other.sessions(sid, "ws") + f"?last_event_id={events[-1].id}"
    async with other.http.ws_connect(url) as socket:
        await says_nothing_more(socket)
        assert (await turn(socket, "hello"))[-1].name == "done"


async def test_who_comes_back_gets_all_turns_since(
    http: ClientSession, worker: RunningWorker
) -> None:
    sid = await create(worker)
    url = worker.sessions(sid, "ws")
    async with http.ws_connect(url) as socket:
        first = await turn(socket, "one")
        second = await turn(socket, "two")
    async with http.ws_connect(f"{url}?last_event_id={first[0].id}") as socket:
        assert [await receive(socket) for _ in first[1:] + second] == first[1:] + second
        await says_nothing_more(socket)


@pytest.mark.parametrize("event_id", ["", "x", "1", "1-2-3"])
async def test_an_id_that_is_none_is_refused_before_the_handshake(
    worker: RunningWorker, event_id: str
) -> None:
    sid = await create(worker)
    for query in (f"last_event_id={event_id}", "on_disconnect=never"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await worker.http.ws_connect(f"{worker.sessions(sid, 'ws')}?{query}")
        assert refused.value.status == 400


async def test_events_that_are_not_kept_any_more_are_a_reset(
    worker: RunningWorker, redis: Redis
) -> None:
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        events = await turn(socket, "hello")
    await redis.delete(session_keys(sid)[4])
    url = worker.sessions(sid, "ws") + f"?last_event_id={events[0].id}"
    async with worker.http.ws_connect(url) as socket:
        reset = await receive(socket)
        assert (reset.id, reset.name) == (events[-1].id, "reset")
        assert reset.data["messages"][-1]["content"] == events[-1].data["content"]
        assert (await turn(socket, "again"))[-1].name == "done"


# Cancel.


async def test_cancelling_stops_the_turn_and_leaves_the_socket_open(
    start_worker: StartWorker,
) -> None:
    engine = PausedEngine([*speech("one "), None], speech("two"))
    worker = await start_worker(engine=engine)
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        await socket.send_json({"content": "x"})
        await receive(socket)
        await socket.send_json({"cancel": True})
        stopped = await receive(socket)
        assert (stopped.name, stopped.data["code"]) == ("error", "turn_interrupted")
        assert stopped.id
        assert deltas(await turn(socket, "y")) == "two"
        await socket.send_json({"cancel": True})
        nothing = await receive(socket)
        assert (nothing.id, nothing.data["code"]) == (None, "no_turn")


async def test_a_turn_is_cancelled_from_another_socket(start_worker: StartWorker) -> None:
    worker, other = await start_worker(engine=(engine := GatedEngine())), await start_worker()
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        await socket.send_json({"content": "x"})
        first = await receive(socket)
    url = other.sessions(sid, "ws") + f"?last_event_id={first.id}"
    async with other.http.ws_connect(url) as socket:
        await socket.send_json({"cancel": True})
        assert (await receive(socket)).data["code"] == "turn_interrupted"
    await engine.closed.wait()


@pytest.mark.parametrize(
    "message",
    [
        {"cancel": False},
        {"cancel": 1},
        {"cancel": True, "content": "x"},
        {"content": "x", "idempotency_key": ""},
        {"content": "x", "idempotency_key": 7},
        {"content": "x", "idempotency_key": "k k"},
        {"content": "x", "idempotency_key": "k" * 256},
        {"content": "x", "on_disconnect": "never"},
        {"content": "x", "on_disconnect": ["cancel"]},
    ],
)
async def test_what_is_no_message_is_reported(worker: RunningWorker, message: Any) -> None:
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        await socket.send_json(message)
        refused = await receive(socket)
        assert (refused.id, refused.data["code"]) == (None, "bad_request")
        assert (await turn(socket, "hello"))[-1].name == "done"


# Keys.

KEYED = {"content": "go", "idempotency_key": "k"}


async def test_a_repeated_key_gets_the_first_answer(
    start_worker: StartWorker, store: SessionStore
) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("one ", "two")))
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        answers = []
        for _ in range(3):
            await socket.send_json(KEYED)
            answers.append(await rest(socket))
        assert len({deltas(events) for events in answers}) == 1
        assert len({events[-1].id for events in answers}) == 1
        await socket.send_json({**KEYED, "content": "else"})
        assert (await receive(socket)).data["code"] == "idempotency_mismatch"
    # As over HTTP: the key is the session's.
    headers = {"Idempotency-Key": "k"}
    async with worker.post(sid, "messages", json={"content": "go"}, headers=headers) as response:
        assert response.headers["Idempotency-Replayed"] == "true"
    view = await store.read(sid, "anonymous")
    assert [message["content"] for message in view.messages] == ["go", "one two"]


@pytest.mark.parametrize("has_last", [False, True])
@pytest.mark.parametrize("is_finished", [False, True])
async def test_a_message_that_is_sent_again_after_the_socket_was_lost_is_reported_once(
    start_worker: StartWorker, has_last: bool, is_finished: bool
) -> None:
    """With a running and a finished turn, with and without the last id."""
    worker, other = await start_worker(engine=(engine := GatedEngine())), await start_worker()
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        await socket.send_json(KEYED)
        first = await receive(socket)
    if is_finished:
        engine.gate.set()
        await worker.worker.turns.wait_idle()
    query = f"?last_event_id={first.id}" if has_last else ""
    async with other.ws_connect(sid, "ws" + query) as socket:
        await socket.send_json(KEYED)
        engine.gate.set()
        events = await rest(socket)
        assert deltas(events) == ("two" if has_last else "one two")
        assert events[-1].name == "done"
        await says_nothing_more(socket)
        # Later it is a question of its own.
        await socket.send_json(KEYED)
        assert deltas(await rest(socket)) == "one two"


async def test_a_turn_that_ends_while_its_message_is_sent_again_is_reported(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis reported that it runs, and then the last event of the session."""
    worker, other = await start_worker(engine=(engine := GatedEngine())), await start_worker()
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        await socket.send_json(KEYED)
        await receive(socket)
    begin, asked = other.worker.store.begin, []

    async def late(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        try:
            return await begin(*arguments, **options)
        finally:
            engine.gate.set()
            await worker.worker.turns.wait_idle()

    monkeypatch.setattr(other.worker.store, "begin", late)
    async with other.ws_connect(sid, "ws") as socket:
        await socket.send_json(KEYED)
        assert deltas(await rest(socket)) == "one two"
        await says_nothing_more(socket)
    assert len(asked) == 2


async def test_a_turn_that_was_cut_short_goes_on_by_its_key_behind_the_last_event(
    start_worker: StartWorker,
) -> None:
    engine = PausedEngine([*speech("one "), None], can_continue=True)
    worker = await start_worker(engine=engine)
    other = await start_worker(engine=PausedEngine(speech("two"), can_continue=True))
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws?on_disconnect=cancel") as socket:
        await socket.send_json(KEYED)
        first = await receive(socket)
    await worker.worker.turns.wait_idle()
    url = other.sessions(sid, "ws") + f"?last_event_id={first.id}"
    async with other.http.ws_connect(url) as socket:
        await socket.send_json(KEYED)
        events = await rest(socket)
        if events[0].name == "error":
            # It learned that the turn is unfinished before it asked for the rest.
            assert events[0].data["code"] == "turn_interrupted"
            events = await rest(socket)
    assert deltas(events) == "two"
    assert events[-1].data["content"] == "one two"


async def test_messages_with_keys_do_not_pile_up(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        await socket.send_json({"content": "first"})
        await receive(socket)
        gate, at_once = gate_begin(worker, monkeypatch)
        for n in range(5):
            await socket.send_json({"content": "x", "idempotency_key": f"k{n}"})
        await until(lambda: at_once)
        async with worker.http.get("/health") as response:
            assert (await response.json())["load"] == 2
        gate.set()
        for _ in range(5):
            assert (await receive(socket)).data["code"] == "turn_in_progress"
        engine.gate.set()
        assert (await rest(socket))[-1].name == "done"
    assert at_once == [2] * 5


# Slow readers, outages.


async def test_a_client_that_does_not_read_holds_up_nothing_and_costs_little(
    start_worker: StartWorker,
) -> None:
    """12 MB wait for it in Redis: none of the turn's events is lost, and few are in memory."""
    text = "x" * 8000
    worker = await start_worker(
        engine=PlannedEngine([TextDelta(f"{n} {text}") for n in range(1500)])
    )
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws", max_msg_size=0) as socket:
        await socket.send_json({"content": "go"})
        await until(lambda: worker.worker.metrics.steps._value.get() == 1)
        await worker.worker.turns.wait_idle()
        (connection,) = worker.worker.websocket._connections
        transport = connection.request.transport
        assert transport is not None
        # The transport's own limit, and a frame or two.
        assert transport.get_write_buffer_size() < 256 * 1024
        events = await rest(socket)
    assert len(events) == 1501
    assert [event.data["content"].split()[0] for event in events[:-1]] == list(
        map(str, range(1500))
    )


async def test_a_turn_whose_worker_lost_its_lease_is_reported_to_its_end(
    start_worker: StartWorker, redis: Redis
) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        await socket.send_json({"content": "x"})
        await receive(socket)
        # Another worker has it, and dies: the follower's worker continues it.
        (meta, lease, *_), nonce = session_keys(sid), new_nonce()
        fence = await redis.hget(meta, "fence")
        await redis.set(lease, f"{fence}|w.{nonce}")
        engine.gate.set()
        await until(lambda: len(worker.worker.turns) == 0)
        await redis.delete(lease)
        again, *events = await rest(socket)
    assert (again.name, events[-1].name) == ("rewind", "done")
    assert deltas(events) == events[-1].data["content"] == "one two"


async def test_redis_that_is_lost_amid_a_turn_is_one_error_and_the_socket_stays_open(
    start_worker: StartWorker, own_redis_server: RedisServer
) -> None:
    engine = GatedEngine()
    worker = await start_worker(engine=engine, redis_url=own_redis_server.url, lease_s=1.0)
    sid = await create(worker)
    async with worker.ws_connect(sid, "ws") as socket:
        await socket.send_json({"content": "x"})
        await receive(socket)
        own_redis_server.stop()
        engine.gate.set()
        (error,) = await rest(socket)
        assert (error.id, error.data["code"]) == (None, "store_unavailable")
        await says_nothing_more(socket)


async def test_frames_of_many_reconnections_are_each_there_once(
    http: ClientSession, start_worker: StartWorker
) -> None:
    """The socket is cut repeatedly, at any place, without a close."""
    worker = await start_worker(engine=PlannedEngine([TextDelta(f"{n} ") for n in range(400)]))
    sid = await create(worker)
    url, events = worker.sessions(sid, "ws"), []
    while not events or events[-1].name != "done":
        query = f"?last_event_id={events[-1].id}" if events else ""
        socket = await http.ws_connect(url + query)
        if not events:
            await socket.send_json({"content": "go"})
        with contextlib.suppress(json.JSONDecodeError):
            for _ in range(23):
                events.append(await receive(socket))
                if events[-1].name == "done":
                    break
        assert socket._response.connection is not None
        transport = socket._response.connection.transport
        assert transport is not None
        transport.abort()
    assert deltas(events) == "".join(f"{n} " for n in range(400))
    assert len({event.id for event in events}) == 401
