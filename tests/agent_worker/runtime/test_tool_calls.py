"""The calls of one step: concurrent, bounded, timed, and recorded in the ledger."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.errors import LeaseLost
from agent_worker.metrics import Metrics
from agent_worker.models import INVALID_ARGUMENTS
from agent_worker.runtime import LargeTexts, ToolCalls
from agent_worker.runtime.conversation import Conversation
from agent_worker.sessions.records import ToolStart
from agent_worker.storage.base import StorageUnavailable
from agent_worker.tasks import spawn
from agent_worker.tools import Effect, Toolbox, ToolError
from tests.support.agent.engines import FunctionTool
from tests.support.agent.runtime import ME, SID, call, grant, result, said, user
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.sessions import Message

MAYBE = "it may have been done, and is not repeated"
NOT_SAFE = "error: not run: it cannot be recorded safely at the moment"


@dataclass
class FakeLedger:
    """Answers with `verdicts`, RUN if there are none; records its calls."""

    verdicts: dict[str, ToolStart] = field(default_factory=dict)
    fails: dict[str, Exception] = field(default_factory=dict)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    begun: list[tuple[str, Effect, str]] = field(default_factory=list)
    attempts: dict[str, str] = field(default_factory=dict)
    ended: dict[str, Message | None] = field(default_factory=dict)

    async def emit(self, name: str, data: dict[str, Any]) -> None:
        self.events.append((name, data))

    async def tool_begin(
        self, call_key: str, effect: Effect, arguments_hash: str, attempt: str
    ) -> ToolStart:
        self.begun.append((call_key, effect, arguments_hash))
        self.attempts[call_key] = attempt
        if call_key in self.fails:
            raise self.fails[call_key]
        return self.verdicts.get(call_key, ToolStart("RUN"))

    async def tool_end(self, call_key: str, attempt: str, message: Message | None) -> None:
        assert attempt == self.attempts[call_key]
        assert call_key not in self.ended
        self.ended[call_key] = message

    @property
    def keys(self) -> list[str]:
        return [key for key, _, _ in self.begun]


@dataclass
class FakeOnceLedger:
    """`known`: the result of a call that was claimed before, None if it is unknown.

    It was the same call, unless `is_another`.
    """

    known: dict[str, str | None] = field(default_factory=dict)
    is_another: bool = False
    is_away: bool = False
    claims: list[tuple[str, str]] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    finished: dict[str, str] = field(default_factory=dict)

    async def claim(self, session_id: str, call_key: str, arguments_hash: str) -> bool:
        if self.is_away:
            raise StorageUnavailable
        self.claims.append((session_id, call_key))
        self.hashes.append(arguments_hash)
        return call_key not in self.known

    async def finish(self, session_id: str, call_key: str, result: str) -> None:
        if self.is_away:
            raise StorageUnavailable
        self.finished[call_key] = result

    async def result(self, session_id: str, call_key: str, arguments_hash: str) -> str | None:
        assert arguments_hash == self.hashes[-1]
        return None if self.is_another else self.known[call_key]


class Step:
    """The calls of one step, of tools given as functions; all have the class `effect`."""

    def __init__(
        self,
        functions: dict[str, Callable[..., Any]],
        effect: Effect = Effect.READ,
        notes: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.ledger = FakeLedger()
        self.metrics = Metrics()
        self.conversation = Conversation(
            grant([user("now"), said("")], turn_at=0, notes=notes), 1000
        )
        tools = [FunctionTool(name, function, effect) for name, function in functions.items()]
        self._calls = ToolCalls(Toolbox(tools), self.metrics, LargeTexts(None), **options)

    async def run(self, *calls: dict[str, Any]) -> list[Message]:
        results, self.keys = await self._calls.run(
            self.ledger,
            self.conversation,
            1,
            calls,  # type: ignore[arg-type]
        )
        return results

    async def text(self, *calls: dict[str, Any]) -> str:
        (message,) = await self.run(*calls)
        return message["content"]

    def counted(self, tool: str, outcome: str) -> float:
        labels = {"tool": tool, "result": outcome}
        return self.metrics.registry.get_sample_value("hermes_tool_calls_total", labels) or 0.0


class Recorder:
    """A tool that records its arguments and returns `answer`, or raises it."""

    def __init__(self, answer: str | BaseException = "ok") -> None:
        self.ran: list[dict[str, Any]] = []
        self.contexts: list[Any] = []
        self._answer = answer

    async def __call__(self, arguments: dict[str, Any], context: Any) -> str:
        self.ran.append(arguments)
        self.contexts.append(context)
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


async def never(arguments: dict[str, Any], context: Any) -> str:
    await asyncio.Event().wait()
    raise AssertionError


async def echo(arguments: dict[str, Any], context: Any) -> str:
    return str(arguments["say"])


# Concurrency.


async def test_independent_calls_run_at_the_same_time() -> None:
    met = asyncio.Barrier(3)

    async def meet(arguments: dict[str, Any], context: Any) -> str:
        await met.wait()
        return "met"

    results = await Step({"meet": meet}).run(*(call("meet", f"c{n}") for n in range(3)))
    assert [message["content"] for message in results] == ["met"] * 3


async def test_no_more_calls_run_at_once_than_may() -> None:
    here: list[int] = []
    most = 0
    gate = asyncio.Event()

    async def crowd(arguments: dict[str, Any], context: Any) -> str:
        nonlocal most
        here.append(arguments["n"])
        most = max(most, len(here))
        await gate.wait()
        here.remove(arguments["n"])
        return "ok"

    step = Step({"crowd": crowd}, max_concurrent=3)
    running = spawn(step.run(*(call("crowd", f"c{n}", n=n) for n in range(8))), name="step")
    await until(lambda: len(here) == 3)
    assert step.ledger.keys == ["1.0", "1.1", "1.2"]
    gate.set()
    assert len(await running) == 8
    assert most == 3


async def test_results_come_in_the_order_of_the_calls_however_they_end() -> None:
    ended = [asyncio.Event() for _ in range(3)]

    async def backwards(arguments: dict[str, Any], context: Any) -> str:
        n = arguments["n"]
        if n < 2:
            await ended[n + 1].wait()
        ended[n].set()
        return f"result {n}"

    step = Step({"backwards": backwards})
    results = await step.run(*(call("backwards", f"c{n}", n=n) for n in range(3)))
    assert results == [result(f"result {n}", "backwards", f"c{n}") for n in range(3)]
    assert step.keys == ["1.0", "1.1", "1.2"]
    assert list(step.ledger.ended) == ["1.2", "1.1", "1.0"]


async def test_a_call_is_known_by_its_place_not_by_the_models_id() -> None:
    tool = Recorder()
    step = Step({"tool": tool})
    await step.run(call("tool", "same", a=1), call("tool", "same", a=2))
    assert sorted(step.ledger.keys) == ["1.0", "1.1"]
    keys = [context.idempotency_key for context in tool.contexts]
    assert sorted(keys) == [f"{SID}.1.0", f"{SID}.1.1"]
    assert {(c.session_id, c.principal) for c in tool.contexts} == {(SID, ME)}


async def test_when_the_ledger_fails_the_other_calls_have_ended() -> None:
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def slow(arguments: dict[str, Any], context: Any) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return "never"

    step = Step({"slow": slow})
    begin = step.ledger.tool_begin

    async def lost_for_the_second(key: str, *args: Any) -> ToolStart:
        if key == "1.1":
            await started.wait()
            raise LeaseLost
        return await begin(key, *args)

    step.ledger.tool_begin = lost_for_the_second  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        await step.run(call("slow", "c0"), call("slow", "c1"))
    assert cancelled.is_set()
    assert step.ledger.ended == {}


# Events and records.


async def test_the_client_hears_of_a_call_and_of_its_result() -> None:
    step = Step({"echo": echo})
    assert await step.text(call("echo", "c7", say="hi")) == "hi"
    about = {"tool_call_id": "c7", "name": "echo"}
    assert step.ledger.events == [
        ("tool.started", {**about, "arguments": {"say": "hi"}}),
        ("tool.completed", {**about, "ok": True, "result": "hi"}),
    ]
    assert step.ledger.ended == {"1.0": result("hi", "echo", "c7")}
    assert step.counted("echo", "ok") == 1


async def test_of_a_long_result_the_client_hears_the_beginning() -> None:
    step = Step({"echo": echo})
    assert await step.text(call("echo", say="x" * 2001)) == "x" * 2001
    assert step.ledger.events[-1][1]["result"] == "x" * 2000 + " [...]"
    step = Step({"echo": echo})
    await step.run(call("echo", say="x" * 2000))
    assert step.ledger.events[-1][1]["result"] == "x" * 2000


async def test_the_ledger_is_asked_with_a_hash_of_name_and_arguments() -> None:
    async def hash_of(name: str, **arguments: Any) -> str:
        step = Step({"a": echo, "b": echo})
        await step.run(call(name, say="x", **arguments))
        ((_, _, digest),) = step.ledger.begun
        return digest

    assert await hash_of("a", p=1, q=2) == await hash_of("a", q=2, p=1)
    different = {await hash_of("a", p=1), await hash_of("a", p=2), await hash_of("b", p=1)}
    assert len(different) == 3


@pytest.mark.parametrize("effect", list(Effect))
async def test_the_ledger_is_asked_with_the_tools_class(effect: Effect) -> None:
    step = Step({"tool": Recorder()}, effect)
    await step.run(call("tool"))
    assert [asked for _, asked, _ in step.ledger.begun] == [effect]


# Failures.


async def test_a_tool_that_does_not_exist_is_an_error_for_the_model() -> None:
    step = Step({"echo": echo})
    assert await step.text(call("made_up")) == "error: there is no tool 'made_up'"
    assert step.ledger.begun == []
    data = step.ledger.events[-1][1]
    assert (data["ok"], data["result"]) == (False, "there is no tool 'made_up'")
    # The name is the model's, so no metric carries it.
    assert (step.counted("unknown", "error"), step.counted("made_up", "error")) == (1, 0)


async def test_arguments_that_are_no_json_object_do_not_reach_the_tool() -> None:
    tool = Recorder()
    step = Step({"tool": tool})
    text = await step.text(call("tool", **{INVALID_ARGUMENTS: "{"}))
    assert text == "error: the arguments are not a JSON object; call it again with one"
    assert (tool.ran, step.ledger.begun) == ([], [])


async def test_what_a_tool_refuses_is_reported_and_recorded() -> None:
    step = Step({"tool": Recorder(ToolError("no such city"))})
    assert await step.text(call("tool")) == "error: no such city"
    assert step.ledger.ended == {"1.0": result("error: no such city")}
    assert step.ledger.events[-1][1]["ok"] is False


async def test_a_tool_that_breaks_tells_the_model_nothing_of_its_insides() -> None:
    step = Step({"tool": Recorder(RuntimeError("password in here"))})
    assert await step.text(call("tool")) == "error: the tool failed"
    assert step.counted("tool", "error") == 1


async def test_each_call_has_a_timeout_of_its_own() -> None:
    step = Step({"never": never, "echo": echo}, timeout_s=0.05)
    results = await step.run(call("never", "c0"), call("echo", "c1", say="hi"))
    assert [m["content"] for m in results] == ["error: no result within 0.05 s", "hi"]
    assert (step.counted("never", "timeout"), step.counted("echo", "ok")) == (1, 1)


async def test_a_timeout_inside_of_a_tool_is_reported_like_its_own() -> None:
    step = Step({"tool": Recorder(TimeoutError())}, timeout_s=9)
    assert await step.text(call("tool")) == "error: no result within 9 s"


@pytest.mark.parametrize("effect", [Effect.READ, Effect.IDEMPOTENT])
async def test_a_call_that_may_run_twice_is_cut_off_with_its_turn(effect: Effect) -> None:
    started = asyncio.Event()

    async def slow(arguments: dict[str, Any], context: Any) -> str:
        started.set()
        return await never(arguments, context)

    step = Step({"slow": slow}, effect)
    running = spawn(step.run(call("slow")), name="step")
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert step.ledger.ended == {}


# Verdicts of the ledger.


async def test_a_call_that_is_done_gives_its_kept_result_and_is_not_run() -> None:
    tool = Recorder()
    step = Step({"tool": tool})
    kept = result("kept")
    step.ledger.verdicts["1.0"] = ToolStart("REPLAY", kept)
    assert await step.run(call("tool")) == [kept]
    assert (tool.ran, step.ledger.ended) == ([], {})
    assert step.ledger.events[-1][1]["ok"] is True
    assert step.counted("tool", "replayed") == 1


@pytest.mark.parametrize(
    ("verdict", "text", "outcome"),
    [
        ("UNKNOWN", f"unknown: {MAYBE}", "unknown"),
        ("ARGS_MISMATCH", "error: this call was begun with other arguments", "error"),
    ],
)
async def test_a_call_that_the_ledger_refuses_is_reported_and_not_run(
    verdict: Any, text: str, outcome: str
) -> None:
    tool = Recorder()
    step = Step({"tool": tool}, Effect.ONCE)
    step.ledger.verdicts["1.0"] = ToolStart(verdict)
    assert await step.text(call("tool")) == text
    assert (tool.ran, step.ledger.ended) == ([], {})
    data = step.ledger.events[-1][1]
    assert (data["ok"], data["result"]) == (False, text.partition(": ")[2])
    assert step.counted("tool", outcome) == 1


async def test_a_call_that_cannot_be_recorded_safely_is_taken_back() -> None:
    tool = Recorder()
    step = Step({"tool": tool}, Effect.ONCE)
    step.ledger.verdicts["1.0"] = ToolStart("NOT_SAFE")
    assert await step.text(call("tool")) == NOT_SAFE
    assert (tool.ran, step.ledger.ended) == ([], {"1.0": None})


# Once.


async def test_a_once_call_that_has_begun_is_finished_and_recorded_before_a_cancel() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def pay(arguments: dict[str, Any], context: Any) -> str:
        started.set()
        await go_on.wait()
        return "paid"

    step = Step({"pay": pay}, Effect.ONCE, once_ledger=(strict := FakeOnceLedger()))
    running = spawn(step.run(call("pay")), name="step")
    await started.wait()
    running.cancel()
    # It was cancelled, and continues.
    await until(lambda: running.cancelling())
    assert not running.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert step.ledger.ended == {"1.0": result("paid", "pay")}
    assert strict.finished == {"1.0": "paid"}


async def test_a_once_call_that_is_still_to_begin_is_not_begun_by_a_cancelled_step() -> None:
    tool = Recorder()
    step = Step({"tool": tool}, Effect.ONCE)
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow_begin(*args: Any) -> ToolStart:
        asked.set()
        await answer.wait()
        return ToolStart("RUN")

    step.ledger.tool_begin = slow_begin  # type: ignore[method-assign]
    running = spawn(step.run(call("tool")), name="step")
    await asked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert tool.ran == []


@pytest.mark.parametrize(
    ("function", "told", "outcome"),
    [
        (never, "no result within 0.05 s", "unknown"),
        (Recorder(RuntimeError("boom")), "the tool failed", "unknown"),
    ],
)
async def test_a_once_call_that_failed_in_mid_air_may_have_been_done(
    function: Any, told: str, outcome: str
) -> None:
    step = Step({"pay": function}, Effect.ONCE, timeout_s=0.05)
    text = f"unknown: {told}; {MAYBE}"
    assert await step.text(call("pay")) == text
    assert step.ledger.ended == {"1.0": result(text, "pay")}
    assert step.counted("pay", outcome) == 1


async def test_a_once_call_that_refused_has_not_been_done() -> None:
    step = Step({"pay": Recorder(ToolError("no funds"))}, Effect.ONCE)
    assert await step.text(call("pay")) == "error: no funds"


async def test_the_strict_ledger_is_asked_before_a_once_call_and_reported_after_it() -> None:
    tool, strict = Recorder("paid"), FakeOnceLedger()
    step = Step({"pay": tool}, Effect.ONCE, once_ledger=strict)
    assert await step.text(call("pay")) == "paid"
    assert strict.claims == [(SID, "1.0")]
    assert strict.finished == {"1.0": "paid"}
    assert len(tool.ran) == 1


@pytest.mark.parametrize("effect", [Effect.READ, Effect.IDEMPOTENT])
async def test_the_strict_ledger_is_not_asked_about_other_calls(effect: Effect) -> None:
    strict = FakeOnceLedger()
    step = Step({"tool": Recorder()}, effect, once_ledger=strict)
    assert await step.text(call("tool")) == "ok"
    assert (strict.claims, strict.finished) == ([], {})


async def test_a_claim_that_somebody_had_before_gives_what_the_call_gave() -> None:
    tool, strict = Recorder(), FakeOnceLedger(known={"1.0": "paid before"})
    step = Step({"pay": tool}, Effect.ONCE, once_ledger=strict)
    assert await step.text(call("pay")) == "paid before"
    assert tool.ran == []
    assert step.counted("pay", "replayed") == 1


async def test_a_claim_whose_end_nobody_knows_is_reported_as_unknown() -> None:
    tool, strict = Recorder(), FakeOnceLedger(known={"1.0": None})
    step = Step({"pay": tool}, Effect.ONCE, once_ledger=strict)
    assert await step.text(call("pay")) == f"unknown: {MAYBE}"
    assert tool.ran == []
    assert step.counted("pay", "unknown") == 1


async def test_a_place_that_another_call_had_before_is_reported_as_unknown() -> None:
    """Redis has lost its last writes, including its ledger."""
    strict = FakeOnceLedger(known={"1.0": "sent to ada"}, is_another=True)
    step = Step({"mail": (tool := Recorder())}, Effect.ONCE, once_ledger=strict)
    assert await step.text(call("mail", to="bob")) == f"unknown: {MAYBE}"
    assert tool.ran == []
    assert step.counted("mail", "unknown") == 1
    ((_, _, asked),) = step.ledger.begun
    assert strict.hashes == [asked]


async def test_without_the_strict_ledger_a_once_call_is_not_run() -> None:
    tool, strict = Recorder(), FakeOnceLedger(is_away=True)
    step = Step({"pay": tool}, Effect.ONCE, once_ledger=strict)
    assert await step.text(call("pay")) == NOT_SAFE
    assert (tool.ran, step.ledger.ended) == ([], {"1.0": None})


async def test_a_once_call_is_recorded_though_the_strict_ledger_went_away_meanwhile() -> None:
    strict = FakeOnceLedger()

    async def pay(arguments: dict[str, Any], context: Any) -> str:
        strict.is_away = True
        return "paid"

    step = Step({"pay": pay}, Effect.ONCE, once_ledger=strict)
    assert await step.text(call("pay")) == "paid"
    assert step.ledger.ended == {"1.0": result("paid", "pay")}


# Notes.


async def test_a_call_that_changes_notes_is_recorded_only_with_its_step() -> None:
    async def note(arguments: dict[str, Any], context: Any) -> str:
        context.notes["colour"] = "blue"
        return "noted"

    step = Step({"note": note, "echo": echo}, notes={"name": "Ada"})
    await step.run(call("note", "c0"), call("echo", "c1", say="hi"))
    assert step.conversation.notes == {"name": "Ada", "colour": "blue"}
    assert list(step.ledger.ended) == ["1.1"]


async def test_a_call_that_only_reads_notes_is_recorded_at_once() -> None:
    async def recall(arguments: dict[str, Any], context: Any) -> str:
        return str(context.notes["name"])

    step = Step({"recall": recall}, notes={"name": "Ada"})
    assert await step.text(call("recall")) == "Ada"
    assert list(step.ledger.ended) == ["1.0"]


async def test_calls_that_run_together_each_keep_their_notes() -> None:
    met = asyncio.Barrier(2)

    async def note(arguments: dict[str, Any], context: Any) -> str:
        context.notes[arguments["key"]] = "noted"
        await met.wait()
        return "ok"

    step = Step({"note": note}, notes={"old": "x"})
    await step.run(call("note", "c0", key="a"), call("note", "c1", key="b"))
    assert step.conversation.notes == {"old": "x", "a": "noted", "b": "noted"}
    assert step.ledger.ended == {}


async def test_notes_of_a_call_that_timed_out_are_kept_as_it_left_them() -> None:
    async def note(arguments: dict[str, Any], context: Any) -> str:
        context.notes["colour"] = "blue"
        return await never(arguments, context)

    step = Step({"note": note}, timeout_s=0.05)
    assert await step.text(call("note")) == "error: no result within 0.05 s"
    assert step.conversation.notes == {"colour": "blue"}
    assert step.ledger.ended == {}
