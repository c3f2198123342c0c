from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.models import INVALID_ARGUMENTS, ToolCall
from agent_worker.models.chat_answer import MAX_CALLS, BadAnswer, ChatAnswer
from agent_worker.models.sse import ServerEvent
from tests.agent_worker.models.fake_openai import fragment


def chunk(delta: Any, finish: Any = None) -> ServerEvent:
    return ServerEvent(
        "", json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
    )


def called(*fragments: Any) -> list[ToolCall]:
    answer = ChatAnswer()
    for part in fragments:
        answer.take(chunk({"tool_calls": [part]}))
    return answer.tool_calls()


def arguments(text: str) -> dict[str, Any]:
    (call,) = called(fragment(0, id="c", name="f", arguments=text))
    return call.arguments


def test_a_refusal_is_text_too() -> None:
    assert ChatAnswer().take(chunk({"content": None, "refusal": "I will not."})) == "I will not."


def test_thoughts_are_not() -> None:
    assert ChatAnswer().take(chunk({"reasoning_content": "Hm.", "content": None})) == ""


def test_after_the_end_nothing_counts() -> None:
    answer = ChatAnswer()
    assert answer.take(chunk({"content": "a"}, "stop")) == "a"
    assert answer.take(chunk({"content": "b"})) == ""
    assert answer.take(ServerEvent("", '{"error": "late"}')) == ""
    assert (answer.is_ended, answer.finish_reason) == (True, "stop")


@pytest.mark.parametrize(
    "event",
    [
        ServerEvent("hermes.tool.progress", '{"tool": "terminal", "error": "none yet"}'),
        ServerEvent("hermes.status", "busy"),
        ServerEvent("", '{"choices": [], "usage": {"total_tokens": 3}}'),
        ServerEvent("", '{"choices": [7]}'),
        ServerEvent("", '{"choices": [{"delta": 7}]}'),
        ServerEvent("", '{"choices": [{"delta": {"content": 7, "tool_calls": 7}}]}'),
        ServerEvent("", '{"choices": [{"delta": {"tool_calls": [7]}, "finish_reason": 7}]}'),
        ServerEvent("", "{}"),
    ],
)
def test_what_adds_nothing_passes_by(event: ServerEvent) -> None:
    answer = ChatAnswer()
    assert answer.take(event) == ""
    assert not answer.is_ended
    assert answer.tool_calls() == []


FIELDS = ["index", "delta", "content", "tool_calls", "function", "id", "name", "arguments"]
JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from([*FIELDS, "finish_reason"]), inner)
    ),
)


@given(JSON_VALUES)
def test_whatever_a_choice_holds_it_is_read_or_refused(choice: Any) -> None:
    answer = ChatAnswer()
    try:
        answer.take(ServerEvent("", json.dumps({"choices": [choice]})))
    except BadAnswer:
        return
    for call in answer.tool_calls():
        json.dumps(call.arguments, ensure_ascii=False).encode()


# Tool calls, as various servers send them.


def test_calls_that_are_all_numbered_0_are_distinguished_by_their_ids() -> None:
    calls = called(
        fragment(0, id="a", name="f", arguments="{}"), fragment(0, id="b", name="g", arguments="{}")
    )
    assert [(call.id, call.name) for call in calls] == [("a", "f"), ("b", "g")]


def test_fragments_without_a_number_belong_to_the_last_call() -> None:
    calls = called(
        fragment(None, id="a", name="f", arguments='{"x":'),
        fragment(None, arguments=" 1}"),
        fragment(None, id="b", name="g", arguments="{}"),
    )
    assert calls == [ToolCall("a", "f", {"x": 1}), ToolCall("b", "g", {})]


def test_an_id_and_a_name_that_are_repeated_count_once() -> None:
    part = fragment(0, id="a", name="f", arguments="")
    assert called(part, part, part) == [ToolCall("a", "f", {})]


def test_ids_are_unique_within_the_answer() -> None:
    parts = [fragment(n, id=id, name="f") for n, id in enumerate(["a", "a", None, "", "b c", "ü"])]  # noqa: A001
    ids = [call.id for call in called(*parts)]
    assert ids == ["a", "call-2", "call-3", "call-4", "call-5", "call-6"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [("note_get", "note_get"), ("a tool!", "a_tool_"), ("x" * 99, "x" * 64), (None, "unknown")],
)
def test_a_made_up_name_can_be_sent_back(name: str | None, kept: str) -> None:
    assert [call.name for call in called(fragment(0, id="a", name=name))] == [kept]


@pytest.mark.parametrize("text", ["", " ", "{}", "{ }\n"])
def test_no_arguments(text: str) -> None:
    assert arguments(text) == {}


def test_arguments_that_are_no_text_but_the_object_itself() -> None:
    part = {"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": 1}}}
    assert called(part) == [ToolCall("a", "f", {"x": 1})]


@pytest.mark.parametrize(
    "text",
    [
        '{"x": 1',
        "[1]",
        '"x"',
        "null",
        "x: 1",
        '{"x": NaN}',
        '{"x": 1e999}',
        '{"x": "\\ud83d"}',
        '{"x": ' + "[" * 100 + "]" * 100 + "}",
        "[" * 100_000,
        '{"x": ' + "9" * 5000 + "}",
    ],
)
def test_arguments_that_are_no_json_object_are_marked(text: str) -> None:
    assert arguments(text) == {INVALID_ARGUMENTS: text[:200]}


def test_an_answer_is_bounded() -> None:
    answer = ChatAnswer(max_size=100)
    answer.take(chunk({"content": "x" * 60}))
    with pytest.raises(BadAnswer, match="more than 100 characters"):
        answer.take(chunk({"tool_calls": [fragment(0, arguments="y" * 60)]}))


def test_calls_are_bounded() -> None:
    with pytest.raises(BadAnswer, match=f"more than {MAX_CALLS} tool calls"):
        called(*(fragment(n, id=f"c{n}") for n in range(MAX_CALLS + 1)))
