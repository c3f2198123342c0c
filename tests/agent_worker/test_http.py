"""The HTTP surface, through real sockets."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from agent_worker.sessions import session_keys
from agent_worker.tasks import spawn
from tests.support.agent.engines import GatedEngine, PlannedEngine
from tests.support.agent.running_worker import SESSIONS, RunningWorker
from tests.support.sse import all_events, deltas, event_order, read_events
from tests.support.waiting import until

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from redis.asyncio import Redis

    from agent_worker.redis_server import RedisServer
    from tests.agent_worker.conftest import StartWorker
    from tests.support.agent.running_worker import RunningWorker

SSE = {"Accept": "text/event-stream"}


async def create(worker: RunningWorker, **headers: str) -> str:
    async with worker.post(headers=headers) as response:
        assert response.status == 201
        return (await response.json())["session_id"]


async def say(worker: RunningWorker, sid: str, content: str, **headers: str) -> dict:
    async with worker.post(sid, "messages", json={"content": content}, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def read(worker: RunningWorker, sid: str) -> dict:
    async with worker.get(sid) as response:
        assert response.status == 200
        return await response.json()


async def error_of(response: aiohttp.ClientResponse) -> str:
    """The error's code; the body must have exactly the documented form."""
    body = await response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert "Traceback" not in body["error"]["message"]
    return body["error"]["code"]


async def test_a_session_lives_from_create_to_delete(start_worker: StartWorker) -> None:
    worker = await start_worker(name="w1")
    async with worker.post(json={"metadata": {"team": "blue"}}) as response:
        assert response.status == 201
        body = await response.json()
        sid = body["session_id"]
        assert body == {"session_id": sid}
        assert response.headers["X-Hermes-Session-Id"] == sid
        assert response.headers["X-Hermes-Worker"] == "w1"
        assert response.headers["Location"] == f"{SESSIONS}/{sid}"
    assert await say(worker, sid, "hello") == {
        "session_id": sid,
        "step": 1,
        "content": "Turn 1, 1 messages seen. You said: hello",
        "is_final": True,
    }
    assert await read(worker, sid) == {
        "session_id": sid,
        "step": 1,
        "status": "idle",
        "messages": [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "Turn 1, 1 messages seen. You said: hello"},
        ],
        "metadata": {"team": "blue"},
        "total": 2,
        "waiting": 0,
    }
    async with worker.delete(sid) as response:
        assert (response.status, await response.read()) == (204, b"")
        assert response.headers["X-Hermes-Session-Id"] == sid
    for method, path in (("GET", ()), ("DELETE", ()), ("POST", ("messages",))):
        async with worker.http.request(
            method, worker.sessions(sid, *path), json={"content": "x"}
        ) as response:
            assert (response.status, await error_of(response)) == (404, "session_not_found")
            assert "X-Hermes-Session-Id" not in response.headers


async def test_any_worker_goes_on_with_the_conversation(start_worker: StartWorker) -> None:
    one, two = await start_worker(name="one"), await start_worker(name="two")
    sid = await create(one)
    await say(one, sid, "my name is Ada")
    assert (await say(two, sid, "what is my name?"))["content"] == "Your name is Ada."
    counted = await say(one, sid, "how many messages?")
    assert counted["content"] == "This is turn 3, and I have seen 5 messages."
    assert await read(one, sid) == await read(two, sid)


async def test_a_stream_of_events(start_worker: StartWorker) -> None:
    worker = await start_worker(name="w1")
    sid = await create(worker)
    async with worker.post(
        sid, "messages", json={"content": "write 400 words"}, headers=SSE
    ) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Hermes-Session-Id"] == sid
        assert response.headers["X-Hermes-Worker"] == "w1"
        events = await all_events(response)
    assert [event.name for event in events] == ["message.delta"] * 400 + ["done"]
    assert len(deltas(events).split()) == 400
    assert events[-1].data == {
        "session_id": sid,
        "step": 1,
        "content": deltas(events),
        "is_final": True,
    }
    order = [event_order(event.id) for event in events]
    assert order == sorted(set(order))
    assert (await read(worker, sid))["messages"][-1]["content"] == deltas(events)


async def test_tools_show_in_the_stream_and_their_text_in_the_answer(worker: RunningWorker) -> None:
    sid = await create(worker)
    async with worker.post(
        sid, "messages", json={"content": "calculate 6 * 7"}, headers=SSE
    ) as response:
        events = await all_events(response)
    assert [e.name for e in events if e.name != "message.delta"] == [
        "tool.started",
        "tool.completed",
        "done",
    ]
    assert deltas(events) == events[-1].data["content"] == "Let me use calculator. 6 * 7 = 42."


async def test_each_event_is_sent_at_once(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid = await create(worker)
    async with worker.post(sid, "messages", json={"content": "x"}, headers=SSE) as response:
        events = read_events(response)
        # The engine waits: its earlier text must have arrived.
        assert (await anext(events)).data == {"content": "one "}
        engine.gate.set()
        assert [event.name async for event in events] == ["message.delta", "done"]


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_a_client_that_leaves_cancels_its_turn(
    start_worker: StartWorker, redis: Redis, accept: str
) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid = await create(worker)
    async with aiohttp.ClientSession() as leaving:
        request = leaving.post(
            worker.sessions(sid, "messages"), json={"content": "x"}, headers={"Accept": accept}
        )
        task = spawn(_drain(request), name="client")
        await engine.started.wait()
        task.cancel()
        await asyncio.wait({task})
    await engine.closed.wait()
    await until(lambda: len(worker.worker.turns) == 0)
    assert await redis.exists(session_keys(sid)[1]) == 0
    view = await read(worker, sid)
    assert (view["status"], view["messages"]) == (
        "interrupted",
        [{"role": "user", "content": "x"}],
    )
    engine.gate.set()
    assert (await say(worker, sid, "next"))["content"] == "one two"


async def _drain(request) -> None:
    async with request as response:
        await response.read()


async def test_a_turn_at_a_time(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid = await create(worker)
    first = spawn(say(worker, sid, "first"), name="first")
    await engine.started.wait()
    for headers in ({}, SSE):
        async with worker.post(
            sid, "messages", json={"content": "second"}, headers=headers
        ) as response:
            assert (response.status, await error_of(response)) == (409, "turn_in_progress")
            assert int(response.headers["Retry-After"]) >= 1
            assert response.headers["X-Hermes-Session-Id"] == sid
    assert (await read(worker, sid))["status"] == "running"
    engine.gate.set()
    assert (await first)["content"] == "one two"
    assert len((await read(worker, sid))["messages"]) == 2


async def test_twenty_clients_at_once_lose_no_message(
    http: ClientSession, start_worker: StartWorker
) -> None:
    workers = [await start_worker(), await start_worker()]
    sid = await create(workers[0])
    refused = 0

    async def insist(number: int) -> None:
        nonlocal refused
        while True:
            async with http.post(
                workers[number % 2].sessions(sid, "messages"), json={"content": f"m{number}"}
            ) as response:
                if response.status == 200:
                    return
                assert response.status == 409
                refused += 1
            await asyncio.sleep(0)

    await asyncio.gather(*(insist(number) for number in range(20)))
    messages = (await read(workers[0], sid))["messages"]
    asked = [m["content"] for m in messages if m["role"] == "user"]
    assert sorted(asked) == sorted(f"m{number}" for number in range(20))
    assert [m["role"] for m in messages] == ["user", "assistant"] * 20


async def test_an_idempotency_key_runs_its_turn_once(start_worker: StartWorker) -> None:
    one, two = await start_worker(), await start_worker()
    sid = await create(one)
    key = {"Idempotency-Key": "k-1"}
    first = await say(one, sid, "hello", **key)
    async with two.post(sid, "messages", json={"content": "hello"}, headers=key) as response:
        assert response.headers["Idempotency-Replayed"] == "true"
        assert await response.json() == first
    async with two.post(sid, "messages", json={"content": "hello"}, headers=key | SSE) as response:
        assert response.headers["Idempotency-Replayed"] == "true"
        events = await all_events(response)
    assert (deltas(events), events[-1].data) == (first["content"], first)
    async with one.post(sid, "messages", json={"content": "other"}, headers=key) as response:
        assert (response.status, await error_of(response)) == (409, "idempotency_mismatch")
    assert len((await read(one, sid))["messages"]) == 2


async def test_a_session_deleted_in_a_turn_ends_its_stream_with_an_error(
    start_worker: StartWorker, redis: Redis
) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid = await create(worker)
    async with worker.post(sid, "messages", json={"content": "x"}, headers=SSE) as response:
        await engine.started.wait()
        async with worker.delete(sid) as deleted:
            assert deleted.status == 204
        engine.gate.set()
        events = await all_events(response)
    assert events[-1].name == "error"
    assert events[-1].data["code"] == "session_not_found"
    assert await redis.exists(*session_keys(sid)[1:]) == 0


async def test_an_engine_that_fails_is_a_502_or_an_error_event(start_worker: StartWorker) -> None:
    worker = await start_worker(
        engine=PlannedEngine([RuntimeError("s3cret")], [KeyError("s3cret")])
    )
    sid = await create(worker)
    async with worker.post(sid, "messages", json={"content": "x"}) as response:
        assert "s3cret" not in await response.text()
        assert (response.status, await error_of(response)) == (502, "engine_failed")
    async with worker.post(sid, "messages", json={"content": "x"}, headers=SSE) as response:
        (event,) = await all_events(response)
    assert event.name == "error"
    assert set(event.data) == {"code", "message"}
    assert "s3cret" not in json.dumps(event.data)


async def test_principals_do_not_see_each_other(start_worker: StartWorker) -> None:
    worker = await start_worker(tokens={"t-ada": "ada", "t-bob": "bob"})
    ada, bob = {"Authorization": "Bearer t-ada"}, {"Authorization": "Bearer t-bob"}
    sid = await create(worker, **ada)
    async with worker.get(sid, headers=ada) as response:
        assert response.status == 200
    for method, path in (
        ("GET", ()),
        ("DELETE", ()),
        ("POST", ("messages",)),
        ("GET", ("ws",)),
    ):
        url = worker.sessions(sid, *path)
        async with worker.http.request(method, url, headers=bob, json={"content": "x"}) as response:
            assert (response.status, await error_of(response)) == (404, "session_not_found")
        async with worker.http.request(method, url, json={"content": "x"}) as response:
            assert (response.status, await error_of(response)) == (401, "unauthorized")
            assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "code"),
    [
        ("POST", "/messages", b"{", {}, 400, "bad_request"),
        ("POST", "/messages", b"[]", {}, 400, "bad_request"),
        ("POST", "/messages", b"", {}, 400, "bad_request"),
        ("POST", "/messages", b'{"content": 7}', {}, 400, "bad_request"),
        ("POST", "/messages", b'{"content": ""}', {}, 400, "bad_request"),
        ("POST", "/messages", b'{"content": "\\udc00"}', {}, 400, "bad_request"),
        ("POST", "/messages", b"\xff", {}, 400, "bad_request"),
        ("POST", "/messages", b"[" * 100_000, {}, 400, "bad_request"),
        (
            "POST",
            "/messages",
            b"a=b",
            {"Content-Type": "text/plain"},
            415,
            "unsupported_media_type",
        ),
        ("POST", "/messages", b'{"content":"x"}', {"Idempotency-Key": "a b"}, 400, "bad_request"),
        ("POST", "/messages", b" " * (1024 * 1024 + 1), {}, 413, "too_large"),
        ("POST", "/messages", b'{"content":"' + b"x" * 300_000 + b'"}', {}, 413, "too_large"),
        ("PUT", "/messages", b"{}", {}, 405, "method_not_allowed"),
        ("PATCH", "", b"{}", {}, 405, "method_not_allowed"),
        ("GET", "/nothing", b"", {}, 404, "not_found"),
        ("GET", "/ws", b"", {}, 426, "upgrade_required"),
        ("GET", "", b"", {"Authorization": "Basic eDp5"}, 401, "unauthorized"),
    ],
)
async def test_what_is_wrong_gets_a_clean_status(
    worker: RunningWorker,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    sid = await create(worker)
    headers = {"Content-Type": "application/json", **headers}
    async with worker.http.request(
        method, worker.sessions(sid) + path, data=io.BytesIO(body), headers=headers
    ) as response:
        assert (response.status, await error_of(response)) == (status, code)
        assert response.headers["X-Hermes-Worker"]
        if status == 405:
            assert response.headers["Allow"]
    assert (await read(worker, sid))["messages"] == []
    assert caplog.records == []


@pytest.mark.parametrize(
    "sid", ["x", "a" * 100, "%7B%7D%2F..", "..%2f..%2fmetrics", "a" * 20 + "%00"]
)
async def test_odd_session_ids_are_unknown_sessions(
    http: ClientSession, worker: RunningWorker, sid: str
) -> None:
    url = URL(f"{worker.url}{SESSIONS}/{sid}", encoded=True)
    async with http.get(url) as response:
        assert response.status == 404
        assert await error_of(response) in {"session_not_found", "not_found"}


HEAD = b"POST /api/agent/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    ],
)
async def test_bytes_that_are_not_http_get_a_400_and_no_traceback(
    worker: RunningWorker, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    port = int(worker.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(garbage)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    writer.close()
    assert b"Traceback" not in await reader.read()
    await writer.wait_closed()
    assert caplog.records == []


async def test_a_redis_that_is_gone_is_a_503_and_the_process_stays_well(
    start_worker: StartWorker, own_redis_server: RedisServer
) -> None:
    worker = await start_worker(redis_url=own_redis_server.url)
    sid = await create(worker)
    own_redis_server.stop()
    for method, path in (("POST", ()), ("GET", (sid,)), ("POST", (sid, "messages"))):
        async with worker.http.request(
            method, worker.sessions(*path), json={"content": "x"}
        ) as response:
            assert (response.status, await error_of(response)) == (503, "store_unavailable")
            assert response.headers["X-Hermes-Degraded"] == "store"
            assert int(response.headers["Retry-After"]) >= 1
    async with worker.http.get("/health") as response:
        assert response.status == 200
    async with worker.http.get("/ready") as response:
        assert response.status == 503
        assert (await response.json())["status"] == "degraded"
        assert response.headers["X-Hermes-Degraded"] == "store"


async def test_a_bug_is_a_500_that_tells_the_client_nothing(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: object) -> str:
        raise RuntimeError("s3cret")

    monkeypatch.setattr(worker.worker.store, "create", broken)
    async with worker.post() as response:
        assert "s3cret" not in await response.text()
        assert (response.status, await error_of(response)) == (500, "internal")
    assert "s3cret" in caplog.text
