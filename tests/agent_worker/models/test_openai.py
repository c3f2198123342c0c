from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.models import (
    EngineOptions,
    OpenAIEngine,
    StepRequest,
    TextDelta,
    ToolCall,
    create_engine,
)
from agent_worker.models import chat as chat_module
from agent_worker.tools import Effect, ToolSpec
from tests.agent_worker.models.fake_openai import (
    DONE,
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

    from agent_worker.sessions import Message

GENERAL = "The model failed to answer."


@pytest.fixture
async def engine(server: FakeOpenAI) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(server.options())
    yield engine
    await engine.close()


# Requests and answers.


async def test_the_whole_conversation_and_the_tools_are_sent(
    server: FakeOpenAI, engine: OpenAIEngine
) -> None:
    server.will_say(says("Noon, "), says("Ada."), finish())
    messages: list[Message] = [
        {"role": "system", "content": "Her name is Ada."},
        {"role": "user", "content": "What time is it? ☕"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "name": "clock", "arguments": {"zone": "UTC"}}],
        },
        {
            "role": "tool",
            "content": "noo",
            "tool_call_id": "c1",
            "name": "clock",
            "blob": "b",
            "size": 9,
        },
    ]
    schema = {"type": "object", "properties": {"zone": {"type": "string"}}}
    clock = ToolSpec("clock", "The time", Effect.READ, schema)
    assert await run(engine, StepRequest(messages, [clock], session_id="s1")) == ("Noon, Ada.", [])

    (asked,) = server.asked
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert "X-Hermes-Session-Id" not in asked.headers
    function = {"name": "clock", "arguments": '{"zone": "UTC"}'}
    assert asked.body == {
        "model": "m-1",
        "stream": True,
        "messages": [
            {"role": "system", "content": "Her name is Ada."},
            {"role": "user", "content": "What time is it? ☕"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": function}],
            },
            {"role": "tool", "content": "noo", "tool_call_id": "c1"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "clock", "description": "The time", "parameters": schema},
            }
        ],
    }


async def test_without_a_key_a_model_or_tools_none_is_named(server: FakeOpenAI) -> None:
    server.will_say(says("hi"), finish())
    engine = OpenAIEngine(server.options(api_key="", model="", base_url=server.base_url + "/"))
    assert await run(engine, asks("hello")) == ("hi", [])
    (asked,) = server.asked
    assert "Authorization" not in asked.headers
    assert asked.body == {"stream": True, "messages": [{"role": "user", "content": "hello"}]}
    await engine.close()


async def test_each_piece_is_given_out_when_it_comes(
    server: FakeOpenAI, engine: OpenAIEngine
) -> None:
    go_on = asyncio.Event()
    server.will_say(chunk({"role": "assistant"}), says("one "), go_on, says("two"), finish())
    pieces = engine.step(asks("hello"))
    assert await first_piece(pieces) == "one "
    go_on.set()
    assert [piece async for piece in pieces] == [TextDelta("two")]


async def test_tool_calls_are_put_together(server: FakeOpenAI, engine: OpenAIEngine) -> None:
    server.will_say(
        says("Let me see."),
        calls(fragment(0, id="c1", name="clock", arguments="")),
        calls(fragment(0, arguments='{"zone":'), fragment(1, id="c2", name="note_get")),
        calls(fragment(1, arguments='{"name": "x"}'), fragment(0, arguments=' "UTC"}')),
        finish("tool_calls"),
    )
    assert await run(engine, asks("hello")) == (
        "Let me see.",
        [ToolCall("c1", "clock", {"zone": "UTC"}), ToolCall("c2", "note_get", {"name": "x"})],
    )


@pytest.mark.parametrize("end", [chunk({}, "stop"), DONE])
async def test_either_sign_of_the_end_is_enough(
    server: FakeOpenAI, engine: OpenAIEngine, end: bytes
) -> None:
    server.will_say(says("done"), end)
    assert await run(engine, asks("hello")) == ("done", [])


async def test_after_the_end_nothing_is_waited_for(
    server: FakeOpenAI, engine: OpenAIEngine
) -> None:
    server.will_say(says("done"), finish(), asyncio.Event())
    assert await run(engine, asks("hello")) == ("done", [])
    await server.client_left.wait()


async def test_an_answer_in_splinters_is_whole(server: FakeOpenAI, engine: OpenAIEngine) -> None:
    stream = (says("Grüße, ☕ ") + b": hm\r\n" + says("🎉") + finish()).replace(b"\n", b"\r\n")
    server.will_say(*[stream[i : i + 1] for i in range(len(stream))])
    assert await run(engine, asks("hello")) == ("Grüße, ☕ 🎉", [])


@pytest.mark.parametrize("late", [(), (Comments(1),)], ids=["at once", "the end comes late"])
async def test_a_connection_is_used_again(
    server: FakeOpenAI,
    engine: OpenAIEngine,
    late: tuple[Comments, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_module, "_LINGER_S", 30)
    for _ in range(3):
        server.will_say(says("hi"), finish(), *late)
        await run(engine, asks("hello"))
    assert len({asked.port for asked in server.asked}) == 1


async def test_steps_run_side_by_side(server: FakeOpenAI, engine: OpenAIEngine) -> None:
    gate = asyncio.Event()
    for _ in range(8):
        server.will_say(says("a"), gate, says("b"), finish())
    steps = [engine.step(asks("hello")) for _ in range(8)]
    assert await asyncio.gather(*map(first_piece, steps)) == ["a"] * 8
    gate.set()
    for step in steps:
        assert [piece async for piece in step] == [TextDelta("b")]


# The end of an answer.


async def test_a_text_at_the_token_limit_stands(server: FakeOpenAI, engine: OpenAIEngine) -> None:
    server.will_say(says("and then"), finish("length"))
    assert await run(engine, asks("hello")) == ("and then", [])


async def test_a_call_at_the_token_limit_is_invalid(
    server: FakeOpenAI, engine: OpenAIEngine
) -> None:
    server.will_say(calls(fragment(0, id="c1", name="clock", arguments='{"zo')), finish("length"))
    assert await run(engine, asks("hello")) == ("", [ToolCall("c1", "clock", {"_invalid": '{"zo'})])


async def test_the_content_filter_is_reported_as_such(
    server: FakeOpenAI, engine: OpenAIEngine
) -> None:
    server.will_say(says("Well, "), finish("content_filter"))
    text, error = await fails(engine, asks("hello"))
    assert (text, str(error)) == ("Well, ", "The model's content filter stopped the answer.")


@pytest.mark.parametrize(
    "stream",
    [
        finish("length"),
        finish("error"),
        event({"error": {"message": "out of memory"}}),
        event({"message": "out of memory"}, "error"),
        b"data: what?\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"data: " + b"x" * 1_100_000,
    ],
    ids=["length, nothing said", "error", "error event", "named", "no JSON", "deep", "endless"],
)
async def test_a_stream_that_is_no_answer_fails_once(
    server: FakeOpenAI, engine: OpenAIEngine, stream: bytes
) -> None:
    server.will_say(stream, asyncio.Event())
    assert str((await fails(engine, asks("hello")))[1]) == GENERAL
    assert len(server.asked) == 1


# Retries: before the first piece, never after it.


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
async def test_a_status_that_passes_is_tried_again(
    server: FakeOpenAI, engine: OpenAIEngine, status: int
) -> None:
    server.will_say(status=status, headers={"Retry-After": "0"})
    server.will_say(says("hi"), finish())
    assert await run(engine, asks("hello")) == ("hi", [])
    assert server.asked[0].body == server.asked[1].body


@pytest.mark.parametrize("status", [204, 302, 307, 400, 401, 403, 404, 422])
async def test_a_status_that_stays_is_not_tried_again(
    server: FakeOpenAI, engine: OpenAIEngine, status: int
) -> None:
    url = server.base_url + "/chat/completions"
    server.will_say(status=status, headers={"Location": url, "Retry-After": "0"})
    server.will_say(says("hi"), finish())
    assert str((await fails(engine, asks("hello")))[1]) == GENERAL
    assert len(server.asked) == 1


async def test_the_tries_are_counted(server: FakeOpenAI) -> None:
    engine = OpenAIEngine(server.options(tries=2))
    for _ in range(3):
        server.will_say(status=503, headers={"Retry-After": "0"})
    await fails(engine, asks("hello"))
    assert len(server.asked) == 2
    await engine.close()


@pytest.mark.parametrize("before", [(), (chunk({"role": "assistant"}),)], ids=["head", "text"])
@pytest.mark.parametrize("end", [(Cut(),), ()], ids=["dropped", "ended"])
async def test_a_connection_lost_before_the_text_is_made_again(
    server: FakeOpenAI, engine: OpenAIEngine, before: tuple[bytes, ...], end: tuple[Cut, ...]
) -> None:
    server.will_say(*before, *end)
    server.will_say(says("hi"), finish())
    assert await run(engine, asks("hello")) == ("hi", [])


@pytest.mark.parametrize("end", [(Cut(),), ()], ids=["dropped", "ended"])
async def test_an_answer_cut_short_fails_and_is_not_begun_again(
    server: FakeOpenAI, engine: OpenAIEngine, end: tuple[Cut, ...]
) -> None:
    seen = asyncio.Event()
    server.will_say(says("one "), seen, *end)
    pieces = engine.step(asks("hello"))
    assert await first_piece(pieces) == "one "
    seen.set()
    with pytest.raises(Exception, match=GENERAL):
        await anext(pieces)
    assert len(server.asked) == 1


async def test_calls_of_an_answer_cut_short_are_not_made(
    server: FakeOpenAI, engine: OpenAIEngine
) -> None:
    server.will_say(says("hm"), calls(fragment(0, id="c1", name="send_mail", arguments="{}")))
    assert (await fails(engine, asks("hello")))[0] == "hm"


async def test_a_server_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening: refuses
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        engine = OpenAIEngine(EngineOptions(base_url=url, tries=2))
        with caplog.at_level(logging.INFO):
            assert str((await fails(engine, asks("hello")))[1]) == GENERAL
        await engine.close()
    assert "attempt 1 of 2 failed: cannot connect" in caplog.text
    assert "attempt 2 of 2 failed: cannot connect" in caplog.text


async def test_a_server_that_does_not_answer_the_call(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.ExitStack() as sockets:
        deaf = sockets.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):  # they fill the accept queue
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        engine = OpenAIEngine(EngineOptions(base_url=url, connect_timeout_s=0.1, tries=1))
        assert str((await fails(engine, asks("hello")))[1]) == GENERAL
        await engine.close()
    assert "cannot connect: Connection timeout" in caplog.text


# Timeouts.


async def test_no_first_token_in_time(server: FakeOpenAI, caplog: pytest.LogCaptureFixture) -> None:
    engine = OpenAIEngine(server.options(first_token_timeout_s=0.3))
    for silence in ((), (chunk({"role": "assistant"}),), (Comments(10_000),)):
        server.will_say(*silence, asyncio.Event())
        await fails(engine, asks("hello"))
    assert caplog.text.count("no data for 0.3 s") == len(server.asked) == 3
    await engine.close()


async def test_silence_amid_the_answer(
    server: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    engine = OpenAIEngine(server.options(idle_timeout_s=0.1))
    server.will_say(says("one"), asyncio.Event())
    assert (await fails(engine, asks("hello")))[0] == "one"
    assert "no data for 0.1 s" in caplog.text
    await server.client_left.wait()
    await engine.close()


async def test_a_slow_reader_is_not_the_servers_silence(server: FakeOpenAI) -> None:
    engine = OpenAIEngine(server.options(idle_timeout_s=0.05, first_token_timeout_s=30))
    server.will_say(says("one "), says("two"), finish())
    pieces = engine.step(asks("hello"))
    assert await first_piece(pieces) == "one "
    await asyncio.sleep(0.2)  # the time of the reader is tested here
    assert [piece async for piece in pieces] == [TextDelta("two")]
    await engine.close()


# Cancellation.


async def test_closing_the_step_closes_the_connection(
    server: FakeOpenAI, engine: OpenAIEngine
) -> None:
    server.will_say(says("one "), asyncio.Event())
    pieces = engine.step(asks("hello"))
    assert await first_piece(pieces) == "one "
    assert not server.client_left.is_set()
    await pieces.aclose()
    await server.client_left.wait()


# Secrets and untrusted input.


async def test_the_key_and_the_servers_words_stay_inside(
    server: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    engine = OpenAIEngine(server.options(tries=2))
    refusal = json.dumps({"error": f"wrong key {KEY}\nDO AS I SAY " + "x" * 10_000}).encode()
    server.will_say(refusal, status=500, headers={"Retry-After": "0"})
    server.will_say(event({"error": f"wrong key {KEY}"}))
    server.will_say(f"wrong key {KEY}".encode(), content_type="text/plain")
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            assert str((await fails(engine, asks("hello")))[1]) == GENERAL
    assert caplog.text.count("wrong key ***") == 3, "told to the operator"
    assert KEY not in caplog.text
    assert all(len(record.getMessage()) < 700 for record in caplog.records)
    assert KEY not in repr(engine)
    await engine.close()


async def test_half_a_character_does_not_reach_the_client(
    server: FakeOpenAI, engine: OpenAIEngine
) -> None:
    server.will_say(b'data: {"choices": [{"delta": {"content": "\\ud83d!"}}]}\n\n', finish())
    assert await run(engine, asks("hello")) == ("\ufffd!", [])


async def test_cookies_do_not_go_from_one_session_to_another(server: FakeOpenAI) -> None:
    # By name: clients accept no cookies from an IP address.
    url = server.base_url.replace("127.0.0.1", "localhost")
    engine = OpenAIEngine(server.options(base_url=url))
    for _ in range(2):
        server.will_say(says("hi"), finish(), headers={"Set-Cookie": "user=ada"})
        await run(engine, asks("hello"))
    assert "Cookie" not in server.asked[1].headers
    await engine.close()


# Summaries.


async def test_a_summary_is_asked_for_with_the_conversation_quoted(
    server: FakeOpenAI, engine: OpenAIEngine
) -> None:
    server.will_say(says(" Ada likes "), says("tea. "), finish())
    call = {"id": "c1", "name": "clock", "arguments": {}}
    messages: list[Any] = [
        {"role": "system", "content": "Her name is Ada."},
        {"role": "user", "content": "I like tea"},
        {"role": "assistant", "content": "Noted.", "tool_calls": [call]},
        {"role": "tool", "content": "x" * 5000, "tool_call_id": "c1"},
    ]
    assert await engine.summarise(messages) == "Ada likes tea."
    instruction, quoted = server.asked[0].body["messages"]
    assert "tools" not in server.asked[0].body
    assert instruction["role"] == "system"
    assert quoted == {
        "role": "user",
        "content": "Earlier summary: Her name is Ada.\n\nUser: I like tea\n\n"
        f"Assistant: Noted. [calls clock]\n\nTool: {'x' * 2000}...",
    }


async def test_an_empty_summary_is_a_failure(server: FakeOpenAI, engine: OpenAIEngine) -> None:
    server.will_say(finish())
    with pytest.raises(Exception, match=GENERAL):
        await engine.summarise([{"role": "user", "content": "hello"}])


# Options.


@pytest.mark.parametrize("name", ["openai", "hermes"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs the base URL"),
        ({"base_url": "127.0.0.1:8000/v1"}, "is not a base URL"),
        ({"base_url": "ftp://host/v1"}, "is not a base URL"),
        ({"base_url": "http:///v1"}, "is not a base URL"),
        ({"base_url": "http://host:99999/v1"}, "is not a base URL"),
        ({"base_url": "http://[::1/v1"}, "is not a base URL"),
        ({"base_url": "http://host/v1?key=1"}, "is not a base URL"),
        ({"base_url": "http://user:word@host/v1"}, "give it as API key"),
        ({"base_url": "http://host/v1", "api_key": "sk-word\n"}, "API key"),
        ({"base_url": "http://host/v1", "tries": 0}, "tries must be 1 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_once(
    name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        create_engine(name, EngineOptions(**options))
    assert "sk-word" not in str(refused.value)
    assert "user:word" not in str(refused.value)


async def test_an_engine_that_was_never_used_closes() -> None:
    engine = create_engine("openai", EngineOptions(base_url="http://127.0.0.1:9/v1"))
    assert not engine.can_continue
    assert repr(engine) == (
        "OpenAIEngine(ChatClient(openai at http://127.0.0.1:9/v1/chat/completions))"
    )
    await engine.close()
