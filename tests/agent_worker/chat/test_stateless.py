"""Chat completions without a session: the client's messages are the whole conversation."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.models import INVALID_ARGUMENTS, TextDelta, ToolCall
from agent_worker.sessions import connect
from agent_worker.storage.base import Storages
from agent_worker.storage.blobs import open_blobs
from agent_worker.tools import Effect, Toolbox
from tests.support.agent.chat import CLOCK, MODEL, assistant, chunks_of, text_of, user
from tests.support.agent.engines import FunctionTool, GatedEngine, PlannedEngine
from tests.support.needs import needs_package

if TYPE_CHECKING:
    from pathlib import Path

    from agent_worker.redis_server import RedisServer
    from tests.agent_worker.chat.conftest import StartSystem

openai = needs_package("openai")


async def one(arguments: dict[str, Any], context: Any) -> str:
    return "1"


async def test_an_answer_to_the_whole_conversation(start_system: StartSystem) -> None:
    system = await start_system()
    messages = ["my name is Ada", assistant("Nice to meet you, Ada."), "what is my name?"]
    answer = await system.answer(*messages)
    assert answer.headers["X-Session-Durability"] == "ephemeral"
    assert answer.headers["X-Hermes-Worker"] == "w1"
    assert "X-Hermes-Session-Id" not in answer.headers
    completion = answer.parse()
    assert completion.object == "chat.completion"
    assert completion.id.startswith("chatcmpl-")
    assert completion.model == MODEL
    (choice,) = completion.choices
    assert (choice.index, choice.finish_reason) == (0, "stop")
    assert choice.message.role == "assistant"
    assert choice.message.content == "Your name is Ada."
    assert choice.message.tool_calls is None
    # Four characters are a token, and each message costs four more.
    assert completion.usage.prompt_tokens == 3 + 5 + 4 + 3 * 4
    assert completion.usage.completion_tokens == 4 + 4
    assert completion.usage.total_tokens == 24 + 8


async def test_the_chunks_of_a_stream(start_system: StartSystem) -> None:
    system = await start_system()
    stream = await system.ask("write 40 words", stream=True)
    assert stream.response.headers["Content-Type"] == "text/event-stream"
    assert stream.response.headers["X-Session-Durability"] == "ephemeral"
    chunks = await chunks_of(stream)
    assert {(c.id, c.created, c.model, c.object) for c in chunks} == {
        (chunks[0].id, chunks[0].created, MODEL, "chat.completion.chunk")
    }
    first, *words, last = (chunk.choices[0] for chunk in chunks)
    assert (first.delta.role, first.delta.content) == ("assistant", "")
    assert len(words) == 40
    assert {(choice.delta.role, choice.finish_reason) for choice in words} == {(None, None)}
    assert (last.delta.content, last.finish_reason) == (None, "stop")
    assert all(chunk.usage is None for chunk in chunks)
    whole = await system.ask("write 40 words")
    assert text_of(chunks) == whole.choices[0].message.content


async def test_the_usage_comes_last_if_it_is_asked_for(start_system: StartSystem) -> None:
    system = await start_system()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = await chunks_of(await system.ask("write 40 words", **options))
    assert chunks[-1].choices == []
    assert chunks[-1].usage == (await system.ask("write 40 words")).usage
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-2].choices[0].finish_reason == "stop"


async def test_the_workers_own_tools_run_inside(start_system: StartSystem) -> None:
    system = await start_system()
    completion = await system.ask("calculate 2 + 3 * 4")
    assert completion.choices[0].finish_reason == "stop"
    assert completion.choices[0].message.tool_calls is None
    said = "Let me use calculator. 2 + 3 * 4 = 14."
    assert completion.choices[0].message.content == said
    assert text_of(await chunks_of(await system.ask("calculate 2 + 3 * 4", stream=True))) == said


async def test_only_tools_that_read_are_offered(start_system: StartSystem) -> None:
    toolbox = Toolbox([FunctionTool(effect.value, one, effect) for effect in Effect])
    engine = PlannedEngine([ToolCall("c1", "once"), ToolCall("c2", "read")], [TextDelta("done")])
    system = await start_system(engine=engine, toolbox=toolbox)
    await system.ask("go")
    assert [tool.name for tool in engine.requests[0].tools] == ["read"]
    results = [message["content"] for message in engine.histories[1][-2:]]
    assert results == ["error: there is no tool 'once'", "1"]


async def test_no_tools_are_offered_if_the_client_wants_none(start_system: StartSystem) -> None:
    engine = PlannedEngine([TextDelta("a")], [TextDelta("b")])
    system = await start_system(engine=engine)
    await system.ask("go", tool_choice="none")
    await system.ask("go", tool_choice="none", tools=[CLOCK])
    assert [request.tools for request in engine.requests] == [[], []]


async def test_calls_of_the_clients_tools_go_to_the_client(start_system: StartSystem) -> None:
    system = await start_system()
    asked = user("what time is it?")
    completion = await system.ask(asked, tools=[CLOCK])
    (choice,) = completion.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me use clock. "
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, call.function.arguments) == ("function", "clock", "{}")
    result = {"role": "tool", "tool_call_id": call.id, "content": "tea time"}
    completion = await system.ask(asked, choice.message, result, tools=[CLOCK])
    assert completion.choices[0].finish_reason == "stop"
    assert completion.choices[0].message.content == "It is tea time."


async def test_the_engine_is_offered_the_clients_tools_and_none_of_ours(
    start_system: StartSystem,
) -> None:
    engine = PlannedEngine([TextDelta("a")])
    system = await start_system(engine=engine)
    await system.ask("go", tools=[CLOCK])
    (tool,) = engine.requests[0].tools
    assert tool.name == "clock"
    assert tool.description == "The time on the user's desk"
    assert tool.parameters == {"type": "object", "properties": {}}
    assert engine.requests[0].session_id == ""


async def test_calls_in_a_stream(start_system: StartSystem) -> None:
    calls = [ToolCall("c1", "clock", {"zone": "\N{SNOWMAN}"}), ToolCall("c2", "clock")]
    system = await start_system(engine=PlannedEngine([TextDelta("wait"), *calls]))
    chunks = await chunks_of(await system.ask("go", tools=[CLOCK], stream=True))
    assert text_of(chunks) == "wait"
    got = [
        (call.index, call.id, call.type, call.function.name, json.loads(call.function.arguments))
        for chunk in chunks
        for call in chunk.choices[0].delta.tool_calls or []
    ]
    assert got == [
        (0, "c1", "function", "clock", {"zone": "\N{SNOWMAN}"}),
        (1, "c2", "function", "clock", {}),
    ]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_arguments_that_are_no_json_come_as_the_model_wrote_them(
    start_system: StartSystem,
) -> None:
    call = ToolCall("c1", "clock", {INVALID_ARGUMENTS: "{zone"})
    system = await start_system(engine=PlannedEngine([call]))
    message = (await system.ask("go", tools=[CLOCK])).choices[0].message
    assert message.content is None
    assert message.tool_calls[0].function.arguments == "{zone"


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"zone": "UTC"}', {"zone": "UTC"}),
        ("", {}),
        *(
            (text, {INVALID_ARGUMENTS: text[:200]})
            for text in (
                "{zone",
                "[1]",
                '{"a": NaN}',
                # Half of a character: it cannot be sent to an engine.
                '{"a": "\\ud800"}',
                '{"a":' * 65 + "1" + "}" * 65,
                "[" * 100_000,
            )
        ),
    ],
)
async def test_arguments_go_back_to_the_engine(
    start_system: StartSystem, text: str, arguments: dict[str, Any]
) -> None:
    engine = PlannedEngine([TextDelta("sorry")])
    system = await start_system(engine=engine)
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": text}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "noon"}
    await system.ask("go", asked, result, tools=[CLOCK])
    assert engine.histories == [
        [
            user("go"),
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c1", "name": "clock", "arguments": arguments}],
            },
            {"role": "tool", "content": "noon", "tool_call_id": "c1", "name": "clock"},
        ]
    ]


async def test_instructions_come_first_and_parts_are_joined(start_system: StartSystem) -> None:
    engine = PlannedEngine([TextDelta("a")])
    system = await start_system(engine=engine)
    await system.ask(
        {"role": "system", "content": "Be brief."},
        user([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]),
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
    )
    assert engine.histories == [
        [{"role": "system", "content": "Be brief.\n\nBe kind."}, user("one\ntwo")]
    ]


async def test_the_step_limit_is_a_length(start_system: StartSystem) -> None:
    call = ToolCall("c", "read")
    engine = PlannedEngine([TextDelta("a"), call], [TextDelta("b"), call], [], [])
    toolbox = Toolbox([FunctionTool("read", one)])
    system = await start_system(engine=engine, toolbox=toolbox, step_limit=1)
    # Earlier texts of the assistant do not belong to this turn.
    completion = await system.ask("go", assistant("gone"), "go")
    assert completion.choices[0].finish_reason == "length"
    assert completion.choices[0].message.content == "a"
    chunks = await chunks_of(await system.ask("go", stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len(engine.requests) == 2


async def test_what_has_no_effect_is_accepted(start_system: StartSystem) -> None:
    system = await start_system()
    completion = await system.ask(
        "hello",
        n=1,
        temperature=0.3,
        top_p=0.5,
        max_tokens=3,
        max_completion_tokens=3,
        stop=["x"],
        seed=4,
        user="ada",
        logit_bias={},
        parallel_tool_calls=True,
        response_format={"type": "text"},
        tool_choice="auto",
        extra_body={"top_k": 4, "made_up": {"deep": [1]}},
        extra_headers={"Idempotency-Key": "not for this"},
    )
    assert completion.choices[0].message.content == "Turn 1, 1 messages seen. You said: hello"


async def test_closing_the_stream_stops_the_engine(start_system: StartSystem) -> None:
    engine = GatedEngine()
    system = await start_system(engine=engine)
    (worker,) = system.workers
    stream = await system.ask("go", stream=True)
    await engine.started.wait()
    assert len(worker.worker.turns) == 1
    await stream.close()
    await engine.closed.wait()
    await worker.worker.turns.wait_idle()
    assert (
        'hermes_turns_total{outcome="interrupted"} 1.0' in worker.worker.metrics.render().decode()
    )


async def test_cancelling_the_call_stops_the_engine(start_system: StartSystem) -> None:
    engine = GatedEngine()
    system = await start_system(engine=engine)
    async with asyncio.TaskGroup() as group:
        call = group.create_task(system.ask("go"))
        await engine.started.wait()
        call.cancel()
    await engine.closed.wait()


async def test_it_counts_as_work_of_the_worker(start_system: StartSystem) -> None:
    engine = GatedEngine()
    system = await start_system(engine=engine)
    worker = system.workers[0].worker
    gauge = worker.metrics.active_sessions
    async with asyncio.TaskGroup() as group:
        call = group.create_task(system.ask("go"))
        await engine.started.wait()
        idle = group.create_task(worker.turns.wait_idle())
        assert gauge.collect()[0].samples[0].value == 1
        await worker.drain()
        assert not idle.done()
        engine.gate.set()
    assert idle.done()
    assert call.result().choices[0].message.content == "one two"
    assert gauge.collect()[0].samples[0].value == 0
    assert 'hermes_turns_total{outcome="completed"} 1.0' in worker.metrics.render().decode()


async def test_a_worker_that_stops_ends_it(start_system: StartSystem) -> None:
    engine = GatedEngine()
    system = await start_system(engine=engine)
    stream = await system.ask("go", stream=True)
    await engine.started.wait()
    await system.workers[0].worker.turns.cancel_all()
    assert engine.closed.is_set()
    with pytest.raises(openai.APIError):
        await chunks_of(stream)


async def test_it_needs_no_redis(start_system: StartSystem, own_redis_server: RedisServer) -> None:
    system = await start_system(redis_url=own_redis_server.url)
    own_redis_server.stop()
    answer = await system.answer("calculate 1 + 1")
    assert answer.headers["X-Session-Durability"] == "ephemeral"
    assert answer.parse().choices[0].message.content == "Let me use calculator. 1 + 1 = 2."
    chunks = await chunks_of(await system.ask("write 5 words", stream=True))
    assert len(text_of(chunks).split()) == 5


async def test_nothing_is_kept(
    start_system: StartSystem, own_redis_server: RedisServer, tmp_path: Path
) -> None:
    storages = Storages(blobs=open_blobs(tmp_path / "blobs"))
    system = await start_system(redis_url=own_redis_server.url, storages=storages)
    completion = await system.ask("produce 100 KB")
    assert completion.choices[0].message.content.startswith("Let me use produce. The produce gave")
    assert list((tmp_path / "blobs").iterdir()) == []
    client = connect(own_redis_server.url)
    try:
        kept = [key async for key in client.raw.scan_iter()]
        assert [key for key in kept if not key.startswith("hermes:heartbeat:")] == []
    finally:
        await client.aclose()


async def test_the_sdks_own_accumulation_of_a_stream(start_system: StartSystem) -> None:
    system = await start_system()
    asked = {"model": MODEL, "messages": [user("what time is it?")], "tools": [CLOCK]}
    async with system.client.chat.completions.stream(**asked) as stream:
        (choice,) = (await stream.get_final_completion()).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me use clock. "
    assert choice.message.tool_calls[0].function.name == "clock"
