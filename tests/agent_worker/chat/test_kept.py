"""Chat completions in a session: the history is the session's, on any worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.models import TextDelta, ToolCall
from agent_worker.sessions.scripts import load_scripts
from agent_worker.storage.base import Storages
from agent_worker.tools import Effect, Toolbox
from tests.agent_worker.redis.dropping_proxy import DroppingProxy
from tests.agent_worker.runtime.test_large import BIG, FakeBlobs
from tests.support.agent.chat import BEARER, CLOCK, assistant, chunks_of, text_of, user
from tests.support.agent.engines import FunctionTool, GatedEngine, PlannedEngine
from tests.support.needs import needs_package

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import ClientSession

    from agent_worker.redis_server import RedisServer
    from tests.agent_worker.chat.conftest import StartSystem
    from tests.support.agent.chat import System

openai = needs_package("openai")


async def new_session(system: System) -> str:
    async with system.workers[0].post(headers=BEARER) as response:
        assert response.status == 201
        return (await response.json())["session_id"]


async def read(http: ClientSession, system: System, sid: str) -> Any:
    async with http.get(system.workers[-1].sessions(sid), headers=BEARER) as response:
        assert response.status == 200
        return await response.json()


async def read_into(chunks: list[Any], stream: Any) -> None:
    async for chunk in stream:
        chunks.append(chunk)  # noqa: PERF401 - those before an error count


async def test_a_new_session_goes_on_at_any_worker(
    http: ClientSession, start_system: StartSystem
) -> None:
    system = await start_system(workers=2)
    first = await system.answer("my name is Ada", session="new")
    sid = first.headers["X-Hermes-Session-Id"]
    assert "X-Session-Durability" not in first.headers
    second = await system.answer("what is my name?", session=sid)
    stream = await system.ask("how many messages?", session=sid, stream=True)
    assert text_of(await chunks_of(stream)) == "This is turn 3, and I have seen 5 messages."
    assert second.parse().choices[0].message.content == "Your name is Ada."
    assert second.headers["X-Hermes-Session-Id"] == sid
    assert stream.response.headers["X-Hermes-Session-Id"] == sid
    workers = [each.headers["X-Hermes-Worker"] for each in (first, second, stream.response)]
    assert sorted(workers[:2]) == ["w1", "w2"]
    assert workers[2] == workers[0]
    session = await read(http, system, sid)
    assert session["step"] == 3
    assert session["messages"] == [
        user("my name is Ada"),
        assistant("Nice to meet you, Ada."),
        user("what is my name?"),
        assistant("Your name is Ada."),
        user("how many messages?"),
        assistant("This is turn 3, and I have seen 5 messages."),
    ]


async def test_only_the_last_words_of_the_user_are_new(
    http: ClientSession, start_system: StartSystem
) -> None:
    system = await start_system()
    sid = await new_session(system)
    await system.ask(
        {"role": "system", "content": "You are a parrot."},
        "forgotten",
        assistant("so it is"),
        "one",
        user([{"type": "text", "text": "two"}]),
        session=sid,
    )
    session = await read(http, system, sid)
    assert [message["content"] for message in session["messages"]] == [
        "one\n\ntwo",
        "Turn 1, 1 messages seen. You said: one\n\ntwo",
    ]


async def test_all_of_the_workers_tools_run(http: ClientSession, start_system: StartSystem) -> None:
    runs = []

    async def pay(arguments: dict[str, Any], context: Any) -> str:
        runs.append(arguments)
        return "paid"

    call = ToolCall("c1", "pay", {"sum": 3})
    engine = PlannedEngine([call], [TextDelta("done")])
    toolbox = Toolbox([FunctionTool("pay", pay, Effect.ONCE)])
    system = await start_system(engine=engine, toolbox=toolbox)
    answer = await system.answer("go", session="new")
    choice = answer.parse().choices[0]
    assert (choice.message.content, choice.finish_reason) == ("done", "stop")
    assert choice.message.tool_calls is None
    assert runs == [{"sum": 3}]
    session = await read(http, system, answer.headers["X-Hermes-Session-Id"])
    roles = [message["role"] for message in session["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant"]


async def test_a_repeated_key_gets_the_same_answer(
    http: ClientSession, start_system: StartSystem
) -> None:
    system = await start_system(workers=2)
    sid = await new_session(system)
    key = {"Idempotency-Key": "k1"}
    first = await system.answer("hello", session=sid, extra_headers=key)
    again = await system.answer("hello", session=sid, extra_headers=key)
    stream = await system.ask("hello", session=sid, extra_headers=key, stream=True)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert stream.response.headers["Idempotency-Replayed"] == "true"
    said = first.parse().choices[0]
    assert again.parse().choices == [said]
    assert text_of(await chunks_of(stream)) == said.message.content
    assert (await read(http, system, sid))["total"] == 2


async def test_a_key_with_another_message_is_a_conflict_that_is_not_tried_again(
    start_system: StartSystem,
) -> None:
    system = await start_system(max_retries=2)
    sid = await new_session(system)
    key = {"Idempotency-Key": "k1"}
    await system.ask("hello", session=sid, extra_headers=key)
    with pytest.raises(openai.ConflictError) as caught:
        await system.ask("good bye", session=sid, extra_headers=key)
    assert caught.value.code == "idempotency_mismatch"
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


async def test_a_session_that_is_busy_is_a_conflict(start_system: StartSystem) -> None:
    engine = GatedEngine()
    system = await start_system(engine=engine)
    sid = await new_session(system)
    stream = await system.ask("go", session=sid, stream=True)
    await engine.started.wait()
    with pytest.raises(openai.ConflictError) as caught:
        await system.ask("me too", session=sid)
    assert (caught.value.code, caught.value.type) == ("turn_in_progress", "conflict_error")
    assert int(caught.value.response.headers["Retry-After"]) >= 1
    assert "X-Should-Retry" not in caught.value.response.headers
    engine.gate.set()
    assert text_of(await chunks_of(stream)) == "one two"


async def test_closing_the_stream_stops_the_engine_and_keeps_the_finished_steps(
    http: ClientSession, start_system: StartSystem
) -> None:
    async def look(arguments: dict[str, Any], context: Any) -> str:
        return "seen"

    class Engine(GatedEngine):
        """A tool in the first step; the second step never ends."""

        async def step(self, request: Any) -> Any:
            if request.messages[-1]["role"] == "user":
                yield ToolCall("c1", "look")
                return
            try:
                yield TextDelta("one ")
                self.started.set()
                await self.gate.wait()
            finally:
                self.closed.set()

    engine, toolbox = Engine(), Toolbox([FunctionTool("look", look)])
    system = await start_system(engine=engine, toolbox=toolbox)
    sid = await new_session(system)
    stream = await system.ask("go", session=sid, stream=True)
    await engine.started.wait()
    await stream.close()
    await engine.closed.wait()
    await system.workers[0].worker.turns.wait_idle()
    session = await read(http, system, sid)
    assert session["status"] == "interrupted"
    assert [message["role"] for message in session["messages"]] == ["user", "assistant", "tool"]


async def test_a_turn_that_failed_is_tried_again_only_under_a_key(
    http: ClientSession, start_system: StartSystem
) -> None:
    """Without one, each attempt would add the message to the history again."""
    engine = PlannedEngine([RuntimeError("s3cret")], [RuntimeError("s3cret")], [TextDelta("here")])
    system = await start_system(engine=engine, max_retries=1)
    sid = await new_session(system)
    with pytest.raises(openai.InternalServerError) as caught:
        await system.ask("anyone?", session=sid)
    assert (caught.value.status_code, caught.value.code) == (502, "engine_failed")
    assert "s3cret" not in caught.value.response.text
    key = {"Idempotency-Key": "k1"}
    completion = await system.ask("anyone there?", session=sid, extra_headers=key)
    assert completion.choices[0].message.content == "here"
    assert [message["content"] for message in (await read(http, system, sid))["messages"]] == [
        "anyone?",
        "anyone there?",
        "here",
    ]


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[DroppingProxy]:
    """In front of Redis. Request it before `start_system`, whose workers close first then."""
    async with DroppingProxy(redis_server.port) as proxy:
        yield proxy


async def behind(proxy: DroppingProxy, start_system: StartSystem) -> tuple[System, str]:
    """A worker whose Redis can lose replies, and a session with one finished turn."""
    system = await start_system(redis_url=proxy.url, max_retries=1)
    sid = await new_session(system)
    await system.ask("first", session=sid)
    return system, sid


async def test_a_message_that_may_have_been_kept_is_not_sent_again_by_itself(
    http: ClientSession, proxy: DroppingProxy, start_system: StartSystem
) -> None:
    system, sid = await behind(proxy, start_system)
    proxy.lose_replies(load_scripts()["begin"].sha, 3)
    with pytest.raises(openai.InternalServerError) as caught:
        await system.ask("hello", session=sid)
    assert caught.value.code == "store_unavailable"
    assert caught.value.response.headers["X-Should-Retry"] == "false"
    said = [message["content"] for message in (await read(http, system, sid))["messages"]]
    assert said.count("hello") == 1


async def test_a_message_with_a_key_is_sent_again_and_kept_once(
    http: ClientSession, proxy: DroppingProxy, start_system: StartSystem
) -> None:
    system, sid = await behind(proxy, start_system)
    proxy.lose_replies(load_scripts()["begin"].sha, 3)
    await system.ask("hello", session=sid, extra_headers={"Idempotency-Key": "k1"})
    said = [message["content"] for message in (await read(http, system, sid))["messages"]]
    assert said.count("hello") == 1


async def test_a_message_whose_blob_cannot_be_kept_may_be_sent_again(
    http: ClientSession, start_system: StartSystem
) -> None:
    """Nothing was written."""
    blobs = FakeBlobs()
    system = await start_system(storages=Storages(blobs=blobs))
    sid = await new_session(system)
    blobs.is_away = True
    with pytest.raises(openai.InternalServerError) as caught:
        await system.ask(BIG, session=sid)
    assert caught.value.code == "storage_unavailable"
    assert "X-Should-Retry" not in caught.value.response.headers
    assert (await read(http, system, sid))["total"] == 0


async def test_an_error_in_a_stream_is_raised_from_it(start_system: StartSystem) -> None:
    system = await start_system(engine=PlannedEngine([TextDelta("so far"), RuntimeError("s3cret")]))
    stream = await system.ask("go", session="new", stream=True)
    said: list[Any] = []
    with pytest.raises(openai.APIError) as caught:
        await read_into(said, stream)
    assert text_of(said) == "so far"
    assert caught.value.body == {
        "message": "The model failed to answer.",
        "type": "server_error",
        "param": None,
        "code": "engine_failed",
    }
    assert said[-1].choices[0].finish_reason is None


@pytest.mark.parametrize(
    ("options", "param"),
    [({"tools": [CLOCK]}, "tools"), ({"tool_choice": "none"}, "tool_choice")],
)
async def test_the_tools_are_the_workers(
    start_system: StartSystem, options: dict[str, Any], param: str
) -> None:
    system = await start_system()
    sid = await new_session(system)
    with pytest.raises(openai.BadRequestError) as caught:
        await system.ask("go", session=sid, **options)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_value")


@pytest.mark.parametrize("last", [assistant("so?"), user("  "), None])
async def test_the_user_must_have_said_something(start_system: StartSystem, last: Any) -> None:
    system = await start_system()
    sid = await new_session(system)
    messages = [user("one"), assistant("two")] + ([last] if last else [])
    with pytest.raises(openai.BadRequestError) as caught:
        await system.ask(*messages, session=sid)
    assert caught.value.param == "messages"


async def test_a_result_of_a_tool_is_no_message_to_a_kept_session(
    start_system: StartSystem,
) -> None:
    system = await start_system()
    sid = await new_session(system)
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "noon"}
    with pytest.raises(openai.BadRequestError) as caught:
        await system.ask("one", asked, result, session=sid)
    assert caught.value.param == "messages"
