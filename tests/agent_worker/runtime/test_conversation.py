"""The part of a history that a model gets: the window, the summary, and their boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from agent_worker.runtime.conversation import Conversation, tokens_in
from agent_worker.sessions import Summary
from tests.support.agent.runtime import ME, SID, call, grant, result, said, user

if TYPE_CHECKING:
    from agent_worker.sessions import Message

# A text of n tokens of four characters each; a message costs four tokens more.
FOUR = "abcd"


def text(tokens: int) -> str:
    return FOUR * tokens


def turn(name: str, tokens: int) -> list[Message]:
    """A question of few tokens and its answer; 16 + `tokens` in all."""
    return [user(f"{name:>16}"), said(f"{name:>16}" + text(tokens))]


def test_an_estimate_counts_texts_calls_and_each_message() -> None:
    assert tokens_in([]) == 0
    assert tokens_in([user("")]) == 4
    assert tokens_in([user("abcd"), result("abcdefgh")]) == 5 + 6
    arguments = {"a": "b"}
    assert tokens_in([said("", call("tool", **arguments))]) == 4 + (4 + len(str(arguments))) // 4


def test_a_conversation_that_fits_goes_to_the_model_as_it_is() -> None:
    history = [*turn("first", 10), user("second")]
    conversation = Conversation(grant(history, turn_at=2, notes={"a": "b"}), 1000)
    assert conversation.for_model() == history
    assert conversation.outgrown() == []
    assert (conversation.length, conversation.of_turn) == (3, history[2:])
    assert (conversation.session_id, conversation.principal) == (SID, ME)
    assert conversation.notes == {"a": "b"}


def test_a_window_that_is_just_full_is_not_outgrown() -> None:
    history = [*turn("first", 10), user("second")]
    full = tokens_in(history)
    assert Conversation(grant(history, turn_at=2), full).outgrown() == []
    assert Conversation(grant(history, turn_at=2), full - 1).outgrown() == history[:2]


def test_the_summary_is_the_models_first_message_and_counts_for_the_window() -> None:
    history = [*turn("fourth", 10), user("fifth")]
    summary = Summary(text(50), 6)
    conversation = Conversation(grant(history, turn_at=8, summary=summary), 1000)
    first = {"role": "system", "content": summary.text}
    assert conversation.for_model() == [first, *history]
    assert conversation.length == 9
    assert conversation.of_turn == history[2:]
    tight = Conversation(grant(history, turn_at=8, summary=summary), tokens_in(history))
    assert tight.outgrown() == [first, *history[:2]]


def test_the_newest_turns_that_fill_half_of_the_window_stay() -> None:
    turns = [turn(f"turn {n}", 24) for n in range(5)]  # 40 tokens each
    history = [*(message for each in turns for message in each), user("x" * 64)]
    assert tokens_in(turns[0]) == 40
    # Half of it is 100: the running turn takes 20, and two more turns fit exactly.
    conversation = Conversation(grant(history, turn_at=10), 200)
    assert conversation.outgrown() == [*turns[0], *turns[1], *turns[2]]
    # With one token less only one of them fits.
    assert Conversation(grant(history, turn_at=10), 198).outgrown() == history[:8]


def test_a_summary_takes_the_place_of_what_was_outgrown() -> None:
    turns = [turn(f"turn {n}", 24) for n in range(5)]
    history = [*(message for each in turns for message in each), user("x" * 64)]
    conversation = Conversation(grant(history, turn_at=10), 200)
    assert conversation.sum_up("short") == Summary("short", 6)
    assert conversation.for_model() == [{"role": "system", "content": "short"}, *history[6:]]
    assert (conversation.length, conversation.of_turn) == (11, history[10:])
    assert conversation.outgrown() == []


def test_the_next_summary_carries_the_last_one_on_and_moves_the_watermark() -> None:
    history = [message for n in range(4) for message in turn(f"turn {n}", 24)]
    conversation = Conversation(
        grant([*history, user("now")], turn_at=14, summary=Summary("so far", 6)), 100
    )
    outgrown = conversation.outgrown()
    assert outgrown == [{"role": "system", "content": "so far"}, *history[:6]]
    assert conversation.sum_up("all of it") == Summary("all of it", 12)
    assert conversation.for_model()[0]["content"] == "all of it"


def test_a_turn_is_never_cut_in_two() -> None:
    """The cut is at a message that opens a turn, even if half of a turn would fit."""
    old = [
        user("first"),
        said("", call("look")),
        result(text(200), "look"),
        said("done"),
    ]
    # Two queued messages open one turn together.
    queued = [user("second"), user("third"), said(text(30))]
    conversation = Conversation(grant([*old, *queued, user("now")], turn_at=7), 120)
    assert conversation.outgrown() == old
    # Without room for both, the second does not open a turn by itself.
    tight = Conversation(grant([*old, *queued, user("now")], turn_at=7), 92)
    assert tokens_in([*queued[1:], user("now")]) <= 46 < tokens_in([*queued, user("now")])
    assert tight.outgrown() == [*old, *queued]


def test_the_running_turn_is_not_summed_up_though_it_outgrows_the_window() -> None:
    history = [*turn("first", 10), user("now"), said("", call("look")), result("x" * 2000)]
    conversation = Conversation(grant(history, turn_at=2), 100)
    assert conversation.outgrown() == history[:2]
    conversation.sum_up("short")
    assert conversation.messages == history[2:]
    assert conversation.outgrown() == []


def test_a_summary_comes_before_the_clipping_of_results() -> None:
    """It is summarised even if clipping alone would make it fit."""
    old = [user("first"), said("", call("look")), result("x" * 4000, "look"), said("seen")]
    conversation = Conversation(grant([*old, user("now")], turn_at=4), 500)
    assert tokens_in(conversation.for_model()) <= 500
    assert conversation.outgrown() == old


def test_old_results_of_a_turn_that_outgrows_the_window_are_clipped_oldest_first() -> None:
    history = [user("now")]
    for n in range(3):
        history += [said("", call("look", f"c{n}")), result(str(n) * 2000, "look", f"c{n}")]
    conversation = Conversation(grant(history, turn_at=0), tokens_in(history) - 100)
    for_model = conversation.for_model()
    assert [len(message["content"]) for message in for_model[2::2]] == [406, 2000, 2000]
    assert for_model[2]["content"] == "0" * 400 + " [...]"
    assert {**for_model[2], "content": ""} == {**history[2], "content": ""}
    assert conversation.messages == history
    tiny = Conversation(grant(history, turn_at=0), 10).for_model()
    # The last one is the result that the model has just asked for.
    assert [len(message["content"]) for message in tiny[2::2]] == [406, 406, 2000]


def test_only_results_are_clipped_and_short_ones_are_not() -> None:
    history = [user("u" * 1000), said("a" * 1000, call("t")), result("r" * 400), said("b" * 1000)]
    conversation = Conversation(grant([*history, result("last")], turn_at=0), 10)
    assert conversation.for_model() == [*history, result("last")]


_size = st.integers(0, 700)
_finished_turn = st.builds(
    lambda asked, results, answer: [
        *(user("u" * size) for size in asked),
        *(
            message
            for n, size in enumerate(results)
            for message in (said("", call("t", f"c{n}")), result("r" * size, "t", f"c{n}"))
        ),
        said("a" * answer),
    ],
    st.lists(_size, min_size=1, max_size=2),
    st.lists(_size, max_size=2),
    _size,
)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    before = draw(st.lists(_finished_turn, max_size=5))
    running = draw(_finished_turn)
    running = running[: draw(st.integers(1, len(running)))]
    earlier = [message for each in before for message in each]
    stands_for = draw(st.integers(0, 20))
    summary = Summary("s" * draw(_size) + "!", stands_for) if stands_for else Summary("", 0)
    history = [*earlier, *running]
    at = summary.stands_for + len(earlier)
    return Conversation(grant(history, turn_at=at, summary=summary), draw(st.integers(1, 1000)))


@given(conversations())
def test_a_model_gets_every_message_and_the_last_one_whole(conversation: Conversation) -> None:
    for_model = conversation.for_model()
    summary = [conversation.summary.text] if conversation.summary.text else []
    kept = for_model[len(summary) :]
    assert [message["content"] for message in for_model[: len(summary)]] == summary
    assert kept[-1] == conversation.messages[-1]
    assert len(kept) == len(conversation.messages)
    for given_one, whole in zip(kept, conversation.messages, strict=True):
        head = given_one["content"].removesuffix(" [...]")
        assert whole["content"].startswith(head)
        assert given_one == whole or (whole["role"] == "tool" and len(head) == 400)


@given(conversations())
def test_what_was_outgrown_and_what_stays_are_all_of_it(conversation: Conversation) -> None:
    before, of_turn = list(conversation.messages), conversation.of_turn
    length, watermark = conversation.length, conversation.summary.stands_for
    outgrown = [m for m in conversation.outgrown() if m["role"] != "system"]
    if outgrown:
        summary = conversation.sum_up("short")
        assert summary.stands_for == watermark + len(outgrown)
        assert before[len(outgrown)]["role"] == "user"
        assert outgrown[-1]["role"] != "user"
    assert [*outgrown, *conversation.messages] == before
    assert (conversation.length, conversation.of_turn) == (length, of_turn)


@given(conversations())
def test_all_is_summed_up_that_has_to_be_and_nothing_else(conversation: Conversation) -> None:
    window = conversation._window
    summary = [{"role": "system", "content": conversation.summary.text}]
    whole = [*(summary if conversation.summary.text else []), *conversation.messages]
    outgrown = [m for m in conversation.outgrown() if m["role"] != "system"]
    if tokens_in(whole) <= window:
        assert outgrown == []
        return
    if outgrown:
        # The newest of the removed turns would not fit into half of the window.
        oldest = outgrown[max(i for i, m in enumerate(outgrown) if _opens_turn(outgrown, i)) :]
        conversation.sum_up("short")
        assert tokens_in([*oldest, *conversation.messages]) > window // 2
    earlier = conversation.messages[: len(conversation.messages) - len(conversation.of_turn)]
    assert not earlier or tokens_in(conversation.messages) <= window // 2


def _opens_turn(messages: list[Message], index: int) -> bool:
    return messages[index]["role"] == "user" and (
        index == 0 or messages[index - 1]["role"] != "user"
    )
