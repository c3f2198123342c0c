"""The agent loop with a recording port: emitted events and commits."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.backoff import jittered
from agent_worker.errors import CannotContinue, EngineCut, EngineFailed
from agent_worker.metrics import Metrics
from agent_worker.models import ScriptedEngine, TextDelta, ToolCall
from agent_worker.runtime import AgentLoop, LargeTexts, ToolCalls
from agent_worker.runtime import loop as loop_module
from agent_worker.runtime.conversation import Conversation
from agent_worker.sessions import Grant, Lease, Part, Summary, ToolStart
from agent_worker.storage.base import Storages
from agent_worker.tasks import spawn
from agent_worker.tools import Effect, Toolbox, ToolError, default_toolbox
from tests.support.agent.engines import FunctionTool, GatedEngine, PlannedEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = {"role": "user", "content": "go"}


class RecordingPort:
    def __init__(self, *, can_rewind: bool = True) -> None:
        self.can_rewind = can_rewind
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.commits: list[Part] = []
        #: For each step, whether another worker could have continued it.
        self.spoken: list[bool] = []

    @contextlib.contextmanager
    def speaking(self, *, can_continue: bool) -> Iterator[None]:
        self.spoken.append(can_continue)
        yield

    async def rewind(self) -> None:
        self.events.append(("rewind", {}))

    async def emit(self, name: str, data: dict[str, Any]) -> None:
        self.events.append((name, data))

    async def commit(self, part: Part) -> None:
        self.commits.append(part)

    async def tool_begin(self, key: str, effect: Effect, arguments: str, attempt: str) -> ToolStart:
        return ToolStart("RUN")

    async def tool_end(self, key: str, attempt: str, message: Any) -> None:
        pass


def make_loop(engine: Any, *tools: FunctionTool, step_limit: int = 16, **options: Any) -> AgentLoop:
    metrics = Metrics()
    box = Toolbox(tools) if tools else default_toolbox(Storages())
    calls = ToolCalls(box, metrics, LargeTexts(None), **options)
    return AgentLoop(engine, calls, metrics, step_limit=step_limit)


def talk(content: str = "go", notes: dict[str, str] | None = None) -> Conversation:
    """A session's first turn, just granted."""
    grant = Grant(
        outcome="GRANTED",
        lease=Lease("a-session", "user:me", 1, "nonce"),
        version=2,
        step=0,
        summary=Summary("", 0),
        history=[{"role": "user", "content": content}],
        turn_at=0,
        notes=notes or {},
        last_event="0-0",
        step_event="1-0",
    )
    return Conversation(grant, window=10_000)


async def test_text_alone_ends_the_turn_in_one_step() -> None:
    port, conversation = RecordingPort(), talk()
    engine = PlannedEngine([TextDelta("a "), TextDelta("b")])
    await make_loop(engine).run(port, conversation)
    assert port.events == [
        ("message.delta", {"content": "a "}),
        ("message.delta", {"content": "b"}),
    ]
    said = {"role": "assistant", "content": "a b"}
    assert port.commits == [Part([said], is_step=True, ends_turn=True)]
    assert conversation.messages == [USER, said]


async def test_a_step_with_a_tool_is_committed_before_it_runs_and_its_result_behind() -> None:
    async def shout(arguments: dict[str, Any], context: Any) -> str:
        return arguments["text"].upper()

    call = ToolCall("c1", "shout", {"text": "hey"})
    engine = PlannedEngine([TextDelta("wait"), call], [TextDelta("done")])
    port, conversation = RecordingPort(), talk()
    await make_loop(engine, FunctionTool("shout", shout)).run(port, conversation)
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
    assert [commit.messages for commit in port.commits] == [
        [asked],
        [result],
        [{"role": "assistant", "content": "done"}],
    ]
    assert [commit.is_step for commit in port.commits] == [True, False, True]
    assert [commit.ends_turn for commit in port.commits] == [False, False, True]
    # The ledger's record can be removed: the result is in the history.
    assert port.commits[1].settled == ["1.0"]
    assert engine.histories[1] == [USER, asked, result]


async def test_calls_of_one_step_run_together_and_keep_their_order() -> None:
    both = asyncio.Barrier(2)

    async def meet(arguments: dict[str, Any], context: Any) -> str:
        await both.wait()
        return arguments["n"]

    calls = [ToolCall("c1", "meet", {"n": "1"}), ToolCall("c2", "meet", {"n": "2"})]
    engine = PlannedEngine(calls, [])
    port = RecordingPort()
    await make_loop(engine, FunctionTool("meet", meet)).run(port, talk())
    assert [m["content"] for m in port.commits[1].messages] == ["1", "2"]


async def test_what_a_tool_cannot_do_is_reported_to_the_model() -> None:
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
    loop = make_loop(PlannedEngine(calls, []), *tools, FunctionTool("hang", hang), timeout_s=0.01)
    await loop.run(port, talk())
    assert [m["content"] for m in port.commits[1].messages] == [
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
    await make_loop(engine, FunctionTool("again", again), step_limit=2).run(port, talk())
    assert [c.is_step for c in port.commits] == [True, False, True, False]
    assert [c.ends_turn for c in port.commits] == [False, False, False, True]
    assert port.commits[-1].is_final is False
    assert len(engine.steps) == 1


async def test_notes_are_committed_only_by_the_step_that_changed_them() -> None:
    port = RecordingPort()
    conversation = talk("note colour: blue", {"size": "3"})
    await make_loop(ScriptedEngine()).run(port, conversation)
    kept = [commit.notes for commit in port.commits]
    assert kept == [None, {"size": "3", "colour": "blue"}, None]


async def test_the_time_comes_from_the_given_clock() -> None:
    loop = make_loop(ScriptedEngine(), now=lambda: datetime(2025, 3, 1, 12, 0, tzinfo=UTC))
    port = RecordingPort()
    await loop.run(port, talk("what time is it?"))
    assert port.commits[-1].messages[0]["content"] == "It is 2025-03-01 12:00:00 UTC."


async def test_an_engine_that_fails_commits_nothing(caplog: pytest.LogCaptureFixture) -> None:
    port = RecordingPort()
    engine = PlannedEngine([TextDelta("half"), RuntimeError("boom")])
    with pytest.raises(EngineFailed) as failed:
        await make_loop(engine).run(port, talk())
    assert "boom" not in str(failed.value)
    assert "boom" in caplog.text
    assert port.commits == []


async def test_cancelling_closes_the_engine_and_commits_nothing() -> None:
    engine, port = GatedEngine(), RecordingPort()
    task = spawn(make_loop(engine).run(port, talk()), name="loop")
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
        await make_loop(PlannedEngine(calls), FunctionTool("hang", hang)).run(LeavingPort(), talk())
    assert stopped.is_set()


# Interrupted answers.


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "jittered", lambda *bounds: 0.0)


def words(*texts: str) -> list[Any]:
    return [TextDelta(text) for text in texts]


def engine_that(*steps: list[Any], can_continue: bool) -> PlannedEngine:
    engine = PlannedEngine(*steps)
    engine.can_continue = can_continue
    return engine


def told(port: RecordingPort) -> list[str]:
    """The texts, and the names of other events."""
    return [data.get("content", name) for name, data in port.events]


@pytest.mark.parametrize(
    ("can_continue", "rest", "expected", "text"),
    [
        (True, words("c"), ["a ", "b ", "c"], "a b c"),
        (False, words("x ", "y"), ["a ", "b ", "rewind", "x ", "y"], "x y"),
    ],
)
async def test_an_answer_that_breaks_off_goes_on(
    no_backoff: None, can_continue: bool, rest: list[Any], expected: list[str], text: str
) -> None:
    engine = engine_that([*words("a ", "b "), EngineCut()], rest, can_continue=can_continue)
    port, loop = RecordingPort(), make_loop(engine)
    await loop.run(port, talk())
    assert told(port) == expected
    assert [request.prefix for request in engine.requests] == ["", "a b " if can_continue else ""]
    [part] = port.commits
    assert part.messages == [{"role": "assistant", "content": text}]
    assert port.spoken == [can_continue]
    how = "continue" if can_continue else "rewind"
    assert f'hermes_engine_retries_total{{how="{how}"}} 1.0' in loop.metrics.render().decode()


@pytest.mark.parametrize("can_continue", [True, False])
async def test_the_calls_of_an_answer_that_breaks_off_run_once(
    no_backoff: None, can_continue: bool
) -> None:
    """Calls count only with the end of an answer; those of the step before are not repeated."""
    runs: list[str] = []

    async def look(arguments: Any, context: Any) -> str:
        runs.append(context.idempotency_key)
        return "seen"

    call = ToolCall("c1", "look")
    whole = [call] if can_continue else [*words("I look. "), call]
    engine = engine_that(
        [*words("I look. "), call, EngineCut()],
        whole,
        [*words("I "), EngineCut()],
        words("see." if can_continue else "I see."),
        can_continue=can_continue,
    )
    port = RecordingPort()
    await make_loop(engine, FunctionTool("look", look, Effect.ONCE)).run(port, talk())
    assert len(runs) == 1
    assert [m["content"] for part in port.commits for m in part.messages] == [
        "I look. ", "seen", "I see."
    ]  # fmt: skip


async def test_a_continuation_that_is_refused_is_rewound(no_backoff: None) -> None:
    engine = engine_that(
        [*words("a "), EngineCut()], [CannotContinue()], words("b"), can_continue=True
    )
    port = RecordingPort()
    await make_loop(engine).run(port, talk())
    assert told(port) == ["a ", "rewind", "b"]
    assert [request.prefix for request in engine.requests] == ["", "a ", ""]


@pytest.mark.parametrize(
    ("steps", "can_continue", "can_rewind", "requests"),
    [
        # Before the first piece the engine itself retries.
        ([[EngineCut()]], True, True, 1),
        # Other failures are not retried.
        ([[*words("a"), EngineFailed()]], True, True, 1),
        # The client could not drop what it has.
        ([[*words("a"), EngineCut()]], False, False, 1),
        ([[*words("a"), EngineCut()], [CannotContinue()]], True, False, 2),
        # Two retries, with or without text in between.
        ([[*words("a"), EngineCut()]] * 3, True, True, 3),
        ([[*words("a"), EngineCut()], [EngineCut()], [EngineCut()]], True, True, 3),
        ([[*words("a"), EngineCut()]] * 3, False, True, 3),
    ],
)
async def test_an_answer_is_asked_for_again_within_bounds(
    no_backoff: None,
    steps: list[list[Any]],
    can_continue: bool,
    can_rewind: bool,
    requests: int,
) -> None:
    engine = engine_that(*steps, can_continue=can_continue)
    loop = replace(make_loop(engine), engine_retries=2)
    port = RecordingPort(can_rewind=can_rewind)
    with pytest.raises(EngineFailed):
        await loop.run(port, talk())
    assert len(engine.requests) == requests
    assert port.commits == []


def test_the_pauses_grow_and_are_bounded() -> None:
    bounds = (loop_module._BACKOFF_S, loop_module._MAX_BACKOFF_S)
    pauses = [[jittered(retry, *bounds) for _ in range(50)] for retry in range(1, 7)]
    longest = [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    for drawn, most in zip(pauses, longest, strict=True):
        assert most / 2 <= min(drawn) < max(drawn) <= most
