from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.models import EngineOptions, HermesEngine, StepRequest, create_engine
from agent_worker.tools import Effect, ToolSpec
from tests.agent_worker.models.fake_openai import (
    COMMENT,
    KEY,
    Comments,
    Cut,
    FakeOpenAI,
    asks,
    calls,
    chunk,
    event,
    fails,
    finish,
    first_piece,
    fragment,
    run,
    says,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROGRESS = {"tool": "terminal", "emoji": "*", "label": "ls", "toolCallId": "t1"}


@pytest.fixture
async def engine(server: FakeOpenAI) -> AsyncIterator[HermesEngine]:
    engine = HermesEngine(server.options(model=""))
    yield engine
    await engine.close()


async def test_it_gets_the_session_and_what_was_said_and_no_tools(
    server: FakeOpenAI, engine: HermesEngine
) -> None:
    server.will_say(says("hi"), finish())
    messages: list[Any] = [
        {"role": "system", "content": "Her name is Ada."},
        {"role": "user", "content": "the time?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "name": "clock"}]},
        {"role": "tool", "content": "noon", "tool_call_id": "c"},
        {"role": "assistant", "content": "It is noon."},
        {"role": "user", "content": "and now?"},
    ]
    tools = [ToolSpec("clock", "The time", Effect.READ)]
    assert await run(engine, StepRequest(messages, tools, session_id="s-1")) == ("hi", [])
    (asked,) = server.asked
    assert asked.headers["X-Hermes-Session-Id"] == "s-1"
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "stream": True,
        "messages": [messages[0], messages[1], messages[4], messages[5]],
    }


async def test_a_turn_that_goes_on_is_asked_for_from_its_beginning(
    server: FakeOpenAI, engine: HermesEngine
) -> None:
    """The last message is the assistant's; hermes takes it for the user's."""
    server.will_say(says("hi"), finish())
    messages: list[Any] = [
        {"role": "user", "content": "the time?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "c"}]},
        {"role": "tool", "content": "noon", "tool_call_id": "c"},
    ]
    await run(engine, StepRequest(messages))
    assert server.asked[0].body["messages"] == [messages[0]]
    assert "X-Hermes-Session-Id" not in server.asked[0].headers


async def test_its_own_events_pass_by(server: FakeOpenAI, engine: HermesEngine) -> None:
    server.will_say(
        chunk({"role": "assistant"}),
        event({**PROGRESS, "status": "running"}, "hermes.tool.progress"),
        COMMENT,
        event({**PROGRESS, "status": "completed", "error": "x"}, "hermes.tool.progress"),
        says("Two files."),
        calls(fragment(0, id="c", name="terminal", arguments="{}")),
        finish(),
    )
    assert await run(engine, asks("list them")) == ("Two files.", [])


async def test_comments_show_that_it_is_at_work(server: FakeOpenAI) -> None:
    engine = HermesEngine(server.options(first_token_timeout_s=0.8))
    server.will_say(chunk({"role": "assistant"}), Comments(12), says("Done."), finish())
    assert await run(engine, asks("build it")) == ("Done.", [])
    await engine.close()


async def test_silence_is_a_failure(server: FakeOpenAI, caplog: pytest.LogCaptureFixture) -> None:
    engine = HermesEngine(server.options(first_token_timeout_s=0.1))
    server.will_say(chunk({"role": "assistant"}), asyncio.Event())
    await fails(engine, asks("build it"))
    assert "no data for 0.1 s" in caplog.text
    await engine.close()


@pytest.mark.parametrize("status", [429, 503])
async def test_what_was_not_begun_is_tried_again(
    server: FakeOpenAI, engine: HermesEngine, status: int
) -> None:
    server.will_say(status=status, headers={"Retry-After": "0"})
    server.will_say(says("hi"), finish())
    assert await run(engine, asks("hello")) == ("hi", [])


@pytest.mark.parametrize("status", [401, 403, 409, 500, 502, 504])
async def test_what_may_have_been_done_is_not_done_again(
    server: FakeOpenAI, engine: HermesEngine, status: int
) -> None:
    server.will_say(status=status, headers={"Retry-After": "0"})
    await fails(engine, asks("hello"))
    assert len(server.asked) == 1


@pytest.mark.parametrize("parts", [(Cut(),), (), (chunk({"role": "assistant"}), Cut())])
async def test_a_lost_connection_is_not_made_again(
    server: FakeOpenAI, engine: HermesEngine, parts: tuple[Any, ...]
) -> None:
    server.will_say(*parts)
    await fails(engine, asks("hello"))
    assert len(server.asked) == 1


async def test_no_connection_is_used_twice(server: FakeOpenAI, engine: HermesEngine) -> None:
    """A connection that its server closes would lose the request, which must not be repeated."""
    for _ in range(3):
        server.will_say(says("hi"), finish())
        await run(engine, asks("hello"))
    assert len({asked.port for asked in server.asked}) == 3


@pytest.mark.parametrize("end", [finish(), finish("error"), calls(fragment()) + finish()])
async def test_a_run_without_a_word_has_failed(
    server: FakeOpenAI, engine: HermesEngine, end: bytes
) -> None:
    server.will_say(chunk({"role": "assistant"}), end)
    assert (await fails(engine, asks("hello")))[0] == ""


async def test_its_own_reason_is_in_the_log(
    server: FakeOpenAI, engine: HermesEngine, caplog: pytest.LogCaptureFixture
) -> None:
    server.will_say(b"Session continuation requires API key authentication.", status=403)
    with caplog.at_level(logging.WARNING):
        await fails(engine, asks("hello"))
    assert "status 403: Session continuation requires" in caplog.text


async def test_closing_the_step_closes_the_connection(
    server: FakeOpenAI, engine: HermesEngine
) -> None:
    server.will_say(says("one "), asyncio.Event())
    pieces = engine.step(asks("hello"))
    assert await first_piece(pieces) == "one "
    await pieces.aclose()
    await server.client_left.wait()


async def test_a_summary_is_no_turn_of_the_session(
    server: FakeOpenAI, engine: HermesEngine
) -> None:
    server.will_say(says("They met."), finish())
    assert await engine.summarise([{"role": "user", "content": "hello"}]) == "They met."
    (asked,) = server.asked
    assert "X-Hermes-Session-Id" not in asked.headers
    assert asked.body["messages"][1]["content"] == "User: hello"


async def test_it_is_found_by_name_and_keeps_its_key_to_itself() -> None:
    engine = create_engine("hermes", EngineOptions(base_url="http://127.0.0.1:9/v1", api_key=KEY))
    assert isinstance(engine, HermesEngine)
    assert not engine.can_continue
    assert KEY not in repr(engine)
    await engine.close()
