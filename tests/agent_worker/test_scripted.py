import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.models import EngineOptions, TextDelta, create_engine, engine_names
from agent_worker.models.scripted import MAX_WORDS, ScriptedEngine, reply, tokens, words

TURNS = st.lists(
    st.one_of(
        st.text(max_size=40),
        st.sampled_from(["my name is Ada", "what is my name?", "write 7 words", "how many turns?"]),
    ),
    min_size=1,
    max_size=4,
)


def talk(*questions: str) -> list[dict]:
    """The history after these questions, tools answering "RESULT", the last one unanswered."""
    history: list[dict] = []
    for question in questions:
        history.append({"role": "user", "content": question})
        if question is questions[-1]:
            break
        history.append({"role": "assistant", "content": reply(history).text})
    return history


def answer(*questions: str) -> str:
    return reply(talk(*questions)).text


@given(TURNS)
def test_the_same_history_always_gets_the_same_reply(questions: list[str]) -> None:
    assert reply(talk(*questions)) == reply(talk(*questions))


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


def test_a_question_for_tools_is_answered_with_their_results() -> None:
    history = talk("what time is it? and calculate 2 + 3")
    first = reply(history)
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
    assert reply(history).text == "It is noon. The calculator says: tired."
    assert reply(history).calls == ()


@pytest.mark.parametrize(
    ("question", "name", "arguments"),
    [
        ("what is 6 * 7?", "calculator", {"expression": "6 * 7"}),
        ("note colour: sky blue", "note_set", {"name": "colour", "value": "sky blue"}),
        ("remember that size is 3", "note_set", {"name": "size", "value": "3"}),
        ("recall colour", "note_get", {"name": "colour"}),
    ],
)
def test_sentences_that_call_a_tool(question: str, name: str, arguments: dict) -> None:
    (call,) = reply(talk(question)).calls
    assert (call.name, call.arguments) == (name, arguments)


def test_call_ids_do_not_repeat_within_a_session() -> None:
    (first,) = reply(talk("what time is it")).calls
    (second,) = reply(talk("hello", "what time is it")).calls
    assert first.id != second.id


async def test_the_engine_streams_the_reply_token_by_token() -> None:
    items = [item async for item in ScriptedEngine().step(talk("write 3 words"), [])]
    assert items == [TextDelta("The"), TextDelta(" agent"), TextDelta(" reads.")]


def test_engines_are_found_by_name() -> None:
    assert "scripted" in engine_names()
    assert isinstance(create_engine("scripted", EngineOptions()), ScriptedEngine)
    with pytest.raises(ValueError, match=r"'gpt'.*scripted"):
        create_engine("gpt", EngineOptions())
