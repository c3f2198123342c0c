"""The agent loop with a port that records: what is emitted, what is committed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from agent_worker.errors import EngineFailed
from agent_worker.metrics import Metrics
from agent_worker.models import ScriptedEngine, TextDelta, ToolCall
from agent_worker.runtime import AgentLoop
from agent_worker.tasks import spawn
from agent_worker.tools import Toolbox, ToolError, default_toolbox
from tests.agent_worker.support import FunctionTool, GatedEngine, PlannedEngine

USER = {"role": "user", "content": "go"}


class RecordingPort:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.commits: list[dict[str, Any]] = []

    async def emit(self, name: str, data: dict[str, Any]) -> None:
        self.events.append((name, data))

    async def commit(self, messages: Any, **about: Any) -> None:
        self.commits.append({"messages": list(messages), **about})


def make_loop(engine: Any, *tools: FunctionTool, **options: Any) -> AgentLoop:
    return AgentLoop(engine, Toolbox(tools), Metrics(), **options)


async def test_text_alone_ends_the_turn_in_one_step() -> None:
    port, history = RecordingPort(), [USER]
    engine = PlannedEngine([TextDelta("a "), TextDelta("b")])
    await make_loop(engine).run(port, history, {})
    assert port.events == [
        ("message.delta", {"content": "a "}),
        ("message.delta", {"content": "b"}),
    ]
    said = {"role": "assistant", "content": "a b"}
    assert port.commits == [
        {"messages": [said], "ends_turn": True, "is_final": True, "notes": None}
    ]
    assert history == [USER, said]


async def test_a_step_with_a_tool_is_committed_with_its_result() -> None:
    async def shout(arguments: dict[str, Any], context: Any) -> str:
        return arguments["text"].upper()

    call = ToolCall("c1", "shout", {"text": "hey"})
    engine = PlannedEngine([TextDelta("wait"), call], [TextDelta("done")])
    port, history = RecordingPort(), [USER]
    await make_loop(engine, FunctionTool("shout", shout)).run(port, history, {})
    assert port.events[1:3] == [
        ("tool.started", {"tool_call_id": "c1", "name": "shout", "arguments": {"text": "hey"}}),
        (
            "tool.completed",
            {"tool_call_id": "c1", "name": "shout", "ok": True, "result": "HEY"},
        ),
    ]
    asked = {
        "role": "assistant",
        "content": "wait",
        "tool_calls": [{"id": "c1", "name": "shout", "arguments": {"text": "hey"}}],
    }
    result = {"role": "tool", "content": "HEY", "tool_call_id": "c1", "name": "shout"}
    assert [commit["messages"] for commit in port.commits] == [
        [asked, result],
        [{"role": "assistant", "content": "done"}],
    ]
    assert [commit["ends_turn"] for commit in port.commits] == [False, True]
    assert engine.histories[1] == [USER, asked, result]


async def test_calls_of_one_step_run_together_and_keep_their_order() -> None:
    both = asyncio.Barrier(2)

    async def meet(arguments: dict[str, Any], context: Any) -> str:
        await both.wait()
        return arguments["n"]

    calls = [ToolCall("c1", "meet", {"n": "1"}), ToolCall("c2", "meet", {"n": "2"})]
    engine = PlannedEngine(calls, [])
    port = RecordingPort()
    await make_loop(engine, FunctionTool("meet", meet)).run(port, [USER], {})
    assert [m["content"] for m in port.commits[0]["messages"]] == ["", "1", "2"]


async def test_what_a_tool_cannot_do_is_told_to_the_model() -> None:
    async def refuse(arguments: dict[str, Any], context: Any) -> str:
        raise ToolError("not today")

    async def crash(arguments: dict[str, Any], context: Any) -> str:
        raise KeyError("secret")

    async def hang(arguments: dict[str, Any], context: Any) -> str:
        await asyncio.Event().wait()
        return "never"

    tools = [FunctionTool("refuse", refuse), FunctionTool("crash", crash)]
    calls = [ToolCall(name, name) for name in ("refuse", "crash", "hang", "made_up")]
    port = RecordingPort()
    loop = make_loop(
        PlannedEngine(calls, []), *tools, FunctionTool("hang", hang), tool_timeout_s=0.01
    )
    await loop.run(port, [USER], {})
    assert [m["content"] for m in port.commits[0]["messages"][1:]] == [
        "error: not today",
        "error: the tool failed",
        "error: no result within 0.01 s",
        "error: there is no tool 'made_up'",
    ]
    counted = loop.metrics.render().decode()
    assert 'hermes_tool_calls_total{result="timeout",tool="hang"} 1.0' in counted
    assert 'hermes_tool_calls_total{result="error",tool="unknown"} 1.0' in counted
    assert "made_up" not in counted


async def test_the_step_limit_ends_the_turn_without_calling_it_final() -> None:
    async def again(arguments: dict[str, Any], context: Any) -> str:
        return "again"

    call = ToolCall("c", "again")
    engine = PlannedEngine([call], [call], [call])
    port = RecordingPort()
    await make_loop(engine, FunctionTool("again", again), step_limit=2).run(port, [USER], {})
    assert [(c["ends_turn"], c["is_final"]) for c in port.commits] == [
        (False, False),
        (True, False),
    ]
    assert len(engine.steps) == 1


async def test_notes_are_committed_only_by_the_step_that_changed_them() -> None:
    port, notes = RecordingPort(), {"size": "3"}
    history = [{"role": "user", "content": "note colour: blue"}]
    await AgentLoop(ScriptedEngine(), default_toolbox(), Metrics()).run(port, history, notes)
    assert [commit["notes"] for commit in port.commits] == [{"size": "3", "colour": "blue"}, None]


async def test_the_time_comes_from_the_given_clock() -> None:
    loop = AgentLoop(
        ScriptedEngine(),
        default_toolbox(),
        Metrics(),
        now=lambda: datetime(2025, 3, 1, 12, 0, tzinfo=UTC),
    )
    port = RecordingPort()
    await loop.run(port, [{"role": "user", "content": "what time is it?"}], {})
    assert port.commits[-1]["messages"][0]["content"] == "It is 2025-03-01 12:00:00 UTC."


async def test_an_engine_that_fails_commits_nothing(caplog: pytest.LogCaptureFixture) -> None:
    port = RecordingPort()
    engine = PlannedEngine([TextDelta("half"), RuntimeError("boom")])
    with pytest.raises(EngineFailed) as failed:
        await make_loop(engine).run(port, [USER], {})
    assert "boom" not in str(failed.value)
    assert "boom" in caplog.text
    assert port.commits == []


async def test_cancelling_closes_the_engine_and_commits_nothing() -> None:
    engine, port = GatedEngine(), RecordingPort()
    task = spawn(make_loop(engine).run(port, [USER], {}), name="loop")
    await engine.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.closed.is_set()
    assert port.commits == []


async def test_a_client_that_leaves_during_tools_stops_them_all() -> None:
    stopped = asyncio.Event()

    async def hang(arguments: dict[str, Any], context: Any) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    class LeavingPort(RecordingPort):
        async def emit(self, name: str, data: dict[str, Any]) -> None:
            if data.get("tool_call_id") == "c2":
                raise ConnectionResetError

    calls = [ToolCall("c1", "hang"), ToolCall("c2", "hang")]
    with pytest.raises(ConnectionResetError):
        await make_loop(PlannedEngine(calls), FunctionTool("hang", hang)).run(
            LeavingPort(), [USER], {}
        )
    assert stopped.is_set()
