from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.errors import EngineFailed
from agent_worker.models import (
    EngineOptions,
    StepRequest,
    TextDelta,
    ToolCall,
    create_engine,
    engine_names,
)
from agent_worker.models import faults as faults_module
from agent_worker.models.scripted import MAX_WORDS, ScriptedEngine, reply, summary, tokens, words
from agent_worker.tools import Effect, ToolSpec
from agent_worker.tools.calculator import Calculator
from agent_worker.tools.mail import SendMail
from agent_worker.tools.memory import MemorySave, MemorySearch
from agent_worker.tools.notes import NoteGet, NoteSet
from agent_worker.tools.preferences import PreferenceGet, PreferenceSet
from agent_worker.tools.produce import Produce

TOOLS = ["clock", "calculator", "note_set", "note_get", "send_mail", "produce"]
TOOLS += ["memory_save", "memory_search", "preference_set", "preference_get"]
SPECS = [ToolSpec(name, "for a test", Effect.READ) for name in TOOLS]

QUESTION = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "my name is Ada",
            "my name is O'Neill-2.",
            "what is my name?",
            "write 7 words",
            "how many turns?",
            "what time is it? and calculate 2 + 3",
            "send mail to ada: hello",
            "Summary: 7 turns, 9 messages so far.",
        ]
    ),
)
TURNS = st.lists(QUESTION, min_size=1, max_size=5)


def talk(*questions: str) -> list[Any]:
    """The history after these questions, with tool results "RESULT"; the last one is unanswered."""
    history: list[Any] = []
    for number, question in enumerate(questions, 1):
        history.append({"role": "user", "content": question})
        if number < len(questions):
            answer_all(history)
    return history


def answer_all(history: list[Any]) -> None:
    while True:
        said = reply(history, TOOLS)
        history.append({"role": "assistant", "content": said.text})
        if not said.calls:
            return
        history += [result_of(call, "RESULT") for call in said.calls]


def result_of(call: ToolCall, content: str) -> dict[str, str]:
    return {"role": "tool", "content": content, "tool_call_id": call.id, "name": call.name}


def answer(*questions: str) -> str:
    return reply(talk(*questions), TOOLS).text


def told(question: str, content: str) -> str:
    """The text on a tool's result."""
    history = talk(question)
    (call,) = reply(history, TOOLS).calls
    return reply([*history, result_of(call, content)], TOOLS).text


def request(*questions: str, prefix: str = "", session_id: str = "") -> StepRequest:
    return StepRequest(talk(*questions), SPECS, prefix, session_id)


async def run(engine: ScriptedEngine, asked: StepRequest) -> tuple[str, list[ToolCall], bool]:
    """Text and calls of one attempt, and whether it finished."""
    text, calls = "", []
    try:
        async for item in engine.step(asked):
            if isinstance(item, TextDelta):
                text += item.text
            else:
                calls.append(item)
    except EngineFailed:
        return text, calls, False
    return text, calls, True


@given(TURNS)
def test_the_same_history_always_gets_the_same_reply(questions: list[str]) -> None:
    assert reply(talk(*questions), TOOLS) == reply(talk(*questions), TOOLS)


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokens(text)) == text
    assert all(tokens(text))


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 400])
def test_writes_exactly_as_many_words_as_asked(count: int) -> None:
    assert len(answer(f"write {count} words").split()) == count
    assert len(tokens(words(count))) == count


def test_the_number_of_words_is_bounded() -> None:
    assert len(answer("write 999999999 words").split()) == MAX_WORDS


def test_it_remembers_the_name_that_was_given_last() -> None:
    assert answer("my name is Ada", "what is my name?") == "Your name is Ada."
    assert answer("my name is Ada", "my name is Bob", "What's my name?") == "Your name is Bob."
    assert answer("what is my name?") == "You have not told me your name yet."


def test_it_counts_turns_and_messages() -> None:
    assert answer("a", "b", "how many messages?") == "This is turn 3, and I have seen 5 messages."
    assert answer("a", "hello") == "Turn 2, 3 messages seen. You said: hello"


def test_a_step_without_a_user_message_fails() -> None:
    with pytest.raises(EngineFailed):
        reply([{"role": "system", "content": "Be brief."}])


# Tools.


def test_a_question_for_tools_is_answered_with_their_results() -> None:
    history = talk("what time is it? and calculate 2 + 3")
    first = reply(history, TOOLS)
    assert first.text == "Let me use clock and calculator. "
    assert [(call.id, call.name, call.arguments) for call in first.calls] == [
        ("call-1-1", "clock", {}),
        ("call-1-2", "calculator", {"expression": "2 + 3"}),
    ]
    history += [
        {"role": "assistant", "content": first.text},
        {"role": "tool", "content": "noon", "tool_call_id": "call-1-1"},
        {"role": "tool", "content": "error: tired", "tool_call_id": "call-1-2"},
    ]
    assert reply(history, TOOLS).text == "It is noon. The calculator says: tired."
    assert reply(history, TOOLS).calls == ()


@pytest.mark.parametrize(
    ("question", "tool", "arguments"),
    [
        ("what is 6 * 7?", Calculator.spec, {"expression": "6 * 7"}),
        ("note colour: sky blue", NoteSet.spec, {"name": "colour", "value": "sky blue"}),
        ("remember that size is 3", NoteSet.spec, {"name": "size", "value": "3"}),
        ("recall colour", NoteGet.spec, {"name": "colour"}),
        ("send mail to ada: see you", SendMail.spec, {"to": "ada", "text": "see you"}),
        ("Remember for good: tea is at 5", MemorySave.spec, {"text": "tea is at 5"}),
        ("what do you remember about my tea?", MemorySearch.spec, {"query": "my tea"}),
        ("prefer tone = very brief", PreferenceSet.spec, {"name": "tone", "value": "very brief"}),
        ("what are my preferences?", PreferenceGet.spec, {}),
        ("produce 100 KB", Produce.spec, {"kilobytes": 100}),
    ],
)
def test_sentences_that_call_a_tool(
    question: str, tool: ToolSpec, arguments: dict[str, Any]
) -> None:
    (call,) = reply(talk(question), TOOLS).calls
    assert (call.name, call.arguments) == (tool.name, arguments)
    assert set(tool.parameters.get("required", ())) <= set(arguments)
    assert set(arguments) <= set(tool.parameters["properties"])


def test_nothing_is_looked_for_in_a_text_that_is_passed_on() -> None:
    (call,) = reply(talk("send mail to ada: what time is it? note x: y"), TOOLS).calls
    assert call.arguments == {"to": "ada", "text": "what time is it? note x: y"}


def test_call_ids_do_not_repeat_within_a_session() -> None:
    (first,) = reply(talk("what time is it"), TOOLS).calls
    (second,) = reply(talk("hello", "what time is it"), TOOLS).calls
    assert first.id != second.id


def test_a_tool_that_is_not_offered_is_said_to_be_missing() -> None:
    history = talk("send mail to ada: hello")
    assert reply(history).text == "I have no tool send_mail."
    assert reply(history).calls == ()
    some = reply(talk("send mail to ada: hello\nwhat time is it"), ["clock"])
    assert some.text == "I have no tool send_mail. Let me use clock. "
    assert [call.name for call in some.calls] == ["clock"]


@pytest.mark.parametrize(
    ("question", "result", "text"),
    [
        ("send mail to ada: hello", "sent", "Mail to ada: sent."),
        ("send mail to ada: hello", "error: no such box", "The send_mail says: no such box."),
        (
            "send mail to ada: hello",
            "unknown: its worker died",
            "It is unknown whether send_mail was done: its worker died.",
        ),
        ("remember for good: tea", "m1", "I will remember: tea."),
        ("what do you remember about tea?", "tea at 5", "About tea I remember: tea at 5."),
        ("prefer tone = brief", "kept", "Your preference tone is brief."),
        ("my preferences", "tone = brief", "Your preferences: tone = brief."),
        ("produce 2 KB", "x" * 2048, "The produce gave 2048 bytes."),
        ("recall long", "y" * 500, f"long is {'y' * 400}...."),
    ],
)
def test_results_are_reported(question: str, result: str, text: str) -> None:
    assert told(question, result) == text


def test_a_result_that_is_kept_elsewhere_is_reported_with_its_whole_size() -> None:
    history = talk("produce 100 KB")
    (call,) = reply(history, TOOLS).calls
    kept = {**result_of(call, "xxx"), "blob": "a/b", "size": 102_400}
    assert reply([*history, kept], TOOLS).text == "The produce gave 102400 bytes."


def test_results_of_unknown_calls_do_not_make_it_call_again() -> None:
    other = {"role": "tool", "content": "sent", "tool_call_id": "another-script's"}
    said = reply([*talk("send mail to ada: hello"), other], TOOLS)
    assert (said.text, said.calls) == ("The tools have answered.", ())


# Summaries.


def test_a_summary_is_readable_and_holds_what_the_script_relies_on() -> None:
    assert summary(talk("my name is Ada", "what time is it")[:-1]) == (
        "Summary: 1 turns, 2 messages so far; the user's name is Ada."
    )
    assert summary([]) == "Summary: 0 turns, 0 messages so far."


@given(TURNS, st.data())
def test_a_summary_of_the_older_turns_changes_no_reply(
    questions: list[str], data: st.DataObject
) -> None:
    history = talk(*questions)
    if data.draw(st.booleans(), label="the last turn has tool results"):
        for call in reply(history, TOOLS).calls:
            history.append(result_of(call, "RESULT"))
    begins = [i for i, message in enumerate(history) if message["role"] == "user"]
    first, second = sorted(data.draw(st.tuples(st.sampled_from(begins), st.sampled_from(begins))))

    folded = summary(history[:first])
    assert reply([{"role": "system", "content": folded}, *history[first:]], TOOLS) == reply(
        history, TOOLS
    )
    again = summary([{"role": "system", "content": folded}, *history[first:second]])
    assert again == summary(history[:second])
    assert reply([{"role": "system", "content": again}, *history[second:]], TOOLS) == reply(
        history, TOOLS
    )


def test_somebody_elses_summary_counts_for_nothing() -> None:
    history = [{"role": "system", "content": "They talked."}, *talk("how many messages?")]
    assert reply(history).text == "This is turn 1, and I have seen 1 messages."


async def test_the_engine_gives_the_summary() -> None:
    assert await ScriptedEngine().summarise(talk("a", "b")) == summary(talk("a", "b"))


# Streaming and continuation.


async def test_the_engine_streams_the_reply_token_by_token() -> None:
    engine = ScriptedEngine()
    items = [item async for item in engine.step(request("write 3 words"))]
    assert items == [TextDelta("The"), TextDelta(" agent"), TextDelta(" reads.")]
    await engine.close()


async def test_it_calls_only_what_the_request_offers() -> None:
    asked = StepRequest(talk("what time is it"), [ToolSpec("note_get", "", Effect.READ)])
    assert await run(ScriptedEngine(), asked) == ("I have no tool clock.", [], True)


@given(TURNS, st.integers(0, 200))
async def test_a_step_goes_on_behind_any_prefix_of_itself(questions: list[str], cut: int) -> None:
    engine = ScriptedEngine()
    assert engine.can_continue
    text, calls, _ = await run(engine, request(*questions))
    rest = await run(engine, request(*questions, prefix=text[:cut]))
    assert rest == (text[cut:], calls, True)


async def test_a_step_does_not_go_on_behind_another_text() -> None:
    assert await run(ScriptedEngine(), request("hello", prefix="Turn 2")) == ("", [], False)


# Faults.


async def outcomes(engine: ScriptedEngine, asked: StepRequest, attempts: int) -> list[Any]:
    return [await run(engine, asked) for _ in range(attempts)]


async def test_faults_are_the_same_for_the_same_seed() -> None:
    asked = request("write 20 words")
    first = await outcomes(ScriptedEngine(fault_rate=0.5, seed=1), asked, 20)
    assert first == await outcomes(ScriptedEngine(fault_rate=0.5, seed=1), asked, 20)
    assert first != await outcomes(ScriptedEngine(fault_rate=0.5, seed=2), asked, 20)


async def test_a_step_that_failed_can_succeed_when_tried_again() -> None:
    engine = ScriptedEngine(fault_rate=0.5)
    whole, _, _ = await run(ScriptedEngine(), request("write 20 words"))
    tries = await outcomes(engine, request("write 20 words"), 40)
    assert {is_whole for _, _, is_whole in tries} == {True, False}
    assert all(whole.startswith(text) for text, _, _ in tries)
    assert len({text for text, _, is_whole in tries if not is_whole}) > 3, "at various places"


async def test_as_many_steps_fail_as_the_rate_says() -> None:
    engine = ScriptedEngine(fault_rate=0.3, seed=7)
    tries = [await run(engine, request("hello", session_id=f"s{n}")) for n in range(400)]
    assert 90 < sum(not is_whole for _, _, is_whole in tries) < 150
    always = await outcomes(ScriptedEngine(), request("hello"), 20)
    assert all(is_whole for _, _, is_whole in always)
    never = await outcomes(ScriptedEngine(fault_rate=1), request("hello"), 20)
    assert not any(is_whole for _, _, is_whole in never)


async def test_a_step_that_fails_calls_no_tool() -> None:
    tries = await outcomes(ScriptedEngine(fault_rate=0.5), request("what time is it"), 40)
    assert all(bool(calls) == is_whole for _, calls, is_whole in tries)


def test_only_so_many_attempts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults_module, "_MAX_COUNTED", 3)
    counted = faults_module.Faults(0.5, 0)
    rng = random.Random(0)
    for _ in range(50):
        counted.next_fault(request("a", session_id=str(rng.random())), 5)
        assert len(counted._attempts) <= 3


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_fault_rate_is_a_share(rate: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        create_engine("scripted", EngineOptions(fault_rate=rate))


def test_engines_are_found_by_name() -> None:
    assert engine_names() == ["hermes", "openai", "scripted"]
    assert isinstance(create_engine("scripted", EngineOptions()), ScriptedEngine)
    with pytest.raises(ValueError, match=r"'gpt'.*hermes, openai, scripted"):
        create_engine("gpt", EngineOptions())
