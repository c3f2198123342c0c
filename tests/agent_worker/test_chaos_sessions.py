"""The chaos harness of the sessions: a short run; its checks find violations."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.errors import AgentError
from agent_worker.models.scripted import reply
from agent_worker.sessions import Event as StoredEvent
from agent_worker.sessions import Grant
from bench.chaos_sessions.backends import Standalone
from bench.chaos_sessions.history import (
    TOOLS,
    Asked,
    check_expiries,
    check_history,
    check_mails,
    check_messages,
    check_results,
)
from bench.chaos_sessions.reading import Event, Followed, Transcript, check_followed, check_ids
from bench.chaos_sessions.resuming import TurnStream, check_stream
from bench.chaos_sessions.run import Plan, Run
from bench.chaos_sessions.tally import INVARIANTS, Tally

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent_worker.sessions import SessionStore

SID = "s" * 32
OWNER = "token:owner"


def broken(tally: Tally) -> list[str]:
    return [violation.invariant for violation in tally.violations]


# Histories.


def said(*contents: str) -> list[dict[str, Any]]:
    """A correct history: each question with the script's answer."""
    messages: list[dict[str, Any]] = []
    for content in contents:
        messages.append({"role": "user", "content": content})
        while True:
            step = reply(messages, TOOLS)  # type: ignore[arg-type]
            messages.append({"role": "assistant", "content": step.text})
            if not step.calls:
                break
            calls = [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in step.calls]
            messages[-1]["tool_calls"] = calls
            messages += [
                {"role": "tool", "tool_call_id": c.id, "name": c.name, "content": "sent to ada"}
                for c in step.calls
            ]
    return messages


MAIL = "what time is it?\nsend mail to ada: u-2"


def judged(messages: list[dict[str, Any]], fences: Sequence[int] = ()) -> list[str]:
    tally = Tally()
    check_history(tally, SID, messages, fences)
    assert tally.tested["3"] >= len(messages) > 0
    return broken(tally)


def test_a_right_history_passes() -> None:
    messages = said("hello u-1", MAIL, "how many messages? u-3")
    assert judged(messages, [1, 1, 2, 2, 2, 2, 2, 3, 3]) == []
    # An interrupted turn, before its answer.
    assert judged([*messages, {"role": "user", "content": "u-4"}, *said("u-5")[:1]]) == []


def test_an_answer_to_another_history_breaks_3() -> None:
    messages = said("hello u-1", "hello u-2")
    assert judged(messages[2:]) == ["3"]


@pytest.mark.parametrize("index", range(2, 6))
def test_a_lost_message_breaks_3(index: int) -> None:
    messages = said("hello u-1", MAIL)
    # Whether the turn of the last one was finished is unknown.
    assert len(messages) == 7
    del messages[index]
    assert "3" in judged(messages)


def test_results_in_another_order_break_3() -> None:
    messages = said(MAIL)
    messages[2], messages[3] = messages[3], messages[2]
    assert "3" in judged(messages)


def test_a_second_answer_breaks_3() -> None:
    messages = said("hello u-1")
    assert "3" in judged([*messages, messages[-1]])


def test_a_turn_with_open_calls_breaks_3() -> None:
    assert "3" in judged([*said(MAIL)[:2], {"role": "user", "content": "u-3"}])


def test_a_message_of_an_older_fence_behind_a_newer_one_breaks_1() -> None:
    assert judged(said("hello u-1"), [2, 1]) == ["1"]


def asked(uid: str = "u-1", *, accepted: bool = True, answers: Sequence[str] = ()) -> Asked:
    at = 50.0 if accepted else None
    return Asked(uid, SID, f"hello {uid}", "key", at, at or 0.0, list(answers), is_settled=True)


def messages_judged(
    messages: list[dict[str, Any]], *all_asked: Asked, failovers: Sequence[tuple[float, float]] = ()
) -> Tally:
    tally = Tally()
    check_messages(tally, SID, messages, all_asked, failovers)
    return tally


def test_messages_that_are_there_once_pass_and_so_does_a_refused_one() -> None:
    messages = said("hello u-1")
    answer = messages[-1]["content"]
    tally = messages_judged(messages, asked(answers=[answer]), asked("u-2", accepted=False))
    assert broken(tally) == []
    assert (tally.tested["4"], tally.tested["answers"]) == (2, 1)


def test_an_accepted_message_that_is_missing_breaks_4() -> None:
    assert broken(messages_judged([], asked())) == ["4"]


@pytest.mark.parametrize("accepted", [True, False])
def test_a_message_that_is_there_twice_breaks_4(accepted: bool) -> None:
    messages = said("hello u-1", "hello u-1")
    assert broken(messages_judged(messages, asked(accepted=accepted))) == ["4"]


def test_a_message_that_nobody_sent_breaks_4() -> None:
    assert broken(messages_judged(said("hello u-9"))) == ["4"]


def test_another_answer_than_the_one_reported_is_found() -> None:
    tally = messages_judged(said("hello u-1"), asked(answers=["something else"]))
    assert broken(tally) == ["answers"]


def test_a_message_lost_by_a_failover_is_counted_apart_and_only_near_to_it() -> None:
    tally = messages_judged([], asked(), failovers=[(45.0, 55.0)])
    assert broken(tally) == []
    assert tally.figures["accepted messages lost by failovers"] == 1
    assert broken(messages_judged([], asked(), failovers=[(60.0, 70.0)])) == ["4"]


def mails_judged(messages: list[dict[str, Any]], *mails: tuple[str, str]) -> Tally:
    tally = Tally()
    lines = [{"id": f"{SID}.{key}", "to": "ada", "text": text} for key, text in mails]
    check_mails(tally, lines, {SID: messages})
    return tally


def test_a_mail_that_was_sent_once_passes() -> None:
    tally = mails_judged(said(MAIL), ("1.0", "u-2"))
    assert broken(tally) == []
    assert (tally.figures["mails sent"], tally.tested["5"]) == (1, 2)


@pytest.mark.parametrize("key", ["1.0", "5.0"])
def test_a_mail_that_was_sent_twice_breaks_5(key: str) -> None:
    tally = mails_judged(said(MAIL), ("1.0", "u-2"), (key, "u-2"))
    assert "5" in broken(tally)
    assert tally.figures["mails sent twice"] == 1


def test_a_mail_that_is_reported_as_sent_and_was_not_breaks_5() -> None:
    assert broken(mails_judged(said(MAIL))) == ["5"]


def test_a_mail_that_is_reported_as_not_sent_and_was_breaks_5() -> None:
    messages = said(MAIL)
    messages[2]["content"] = "error: interrupted"
    assert broken(mails_judged(messages, ("1.0", "u-2"))) == ["5"]
    assert broken(mails_judged(messages)) == []


@pytest.mark.parametrize("mails", [(), (("1.0", "u-2"),)])
def test_of_an_unknown_mail_both_may_be_true(mails: tuple[tuple[str, str], ...]) -> None:
    messages = said(MAIL)
    messages[2]["content"] = "unknown: it may have been done"
    tally = mails_judged(messages, *mails)
    assert broken(tally) == []
    assert tally.figures["mails UNKNOWN"] == 1
    assert tally.figures["mails UNKNOWN that were sent"] == len(mails)


# Events.

LOG = [(f"{fence}-{seq}", "message.delta", "{}") for fence in (1, 2) for seq in (1, 2, 3)]


def followed(*ids: str) -> Followed:
    found = Followed()
    for event_id in ids:
        name = "reset" if event_id.endswith("r") else "message.delta"
        found.add(Event(event_id.removesuffix("r"), name, "{}"), 50.0)
    return found


def followed_judged(found: Followed, **arguments: Any) -> list[str]:
    tally = Tally()
    check_followed(tally, SID, found, LOG, **arguments)
    assert tally.tested["6"] > 0
    return broken(tally)


def test_a_follower_with_a_piece_of_the_log_passes() -> None:
    assert followed_judged(followed("1-2", "1-3", "2-1", "2-2")) == []


def test_a_reset_stands_for_what_is_missing_but_only_if_events_may_be_missing() -> None:
    found = followed("1-1", "2-1r", "2-2", "2-3")
    assert followed_judged(found, failovers=[(60.0, 70.0)]) == []
    assert followed_judged(found) == ["6"]


def test_a_follower_with_a_gap_breaks_6() -> None:
    assert followed_judged(followed("1-1", "1-3")) == ["6"]
    assert followed_judged(followed("1-1r", "1-3"), failovers=[(60.0, 70.0)]) == ["6"]


@pytest.mark.parametrize("ids", [("1-1", "1-2", "1-2"), ("1-2", "1-1")])
def test_a_follower_with_a_repetition_or_another_order_breaks_6(ids: tuple[str, ...]) -> None:
    assert "6" in followed_judged(followed(*ids))


def test_a_follower_with_an_event_of_another_text_breaks_6() -> None:
    found = Followed()
    found.add(Event("1-1", "message.delta", '{"content":"x"}'), 50.0)
    assert followed_judged(found) == ["6"]


def test_an_event_that_is_not_in_the_log_breaks_6_unless_a_failover_took_it_back() -> None:
    found = followed("1-3", "1-4", "2-1")
    assert followed_judged(found) == ["6"]
    assert followed_judged(found, failovers=[(60.0, 70.0)]) == ["6"]
    assert followed_judged(found, failovers=[(45.0, 55.0)]) == []


def test_ids_of_a_turns_stream_that_do_not_increase_break_6() -> None:
    tally = Tally()
    check_ids(
        tally, SID, [Event(each, "message.delta", "{}") for each in ("9-1", "", "10-1", "10-1")]
    )
    assert broken(tally) == ["6"]


def test_a_transcript_forgets_what_was_rewound() -> None:
    transcript = Transcript()
    for event_id, text in (("1-1", "a"), ("1-2", "b"), ("1-3", "c")):
        transcript.add(Event(event_id, "message.delta", json.dumps({"content": text})))
    transcript.add(Event("2-1", "rewind", '{"id": "1-1"}'))
    transcript.add(Event("2-2", "message.delta", '{"content": "d"}'))
    assert transcript.text == "ad"


# Streams that were resumed.


def stream(*ids: str, turn: int = 1, end: str = "done") -> TurnStream:
    """What a client received of a turn, whose last event has the name `end`."""
    found = TurnStream(turn)
    for event_id in ids:
        name = end if event_id == ids[-1] else "message.delta"
        found.heard.add(Event(event_id, name, "{}"), 50.0)
    return found


def stream_judged(
    found: TurnStream, *, second: str = "message.delta", **arguments: Any
) -> list[str]:
    """Of a turn that began with the fence 1 and continued with 2, and one that began with 3.

    `second` is the name of its event 1-2.
    """
    tally = Tally()
    log = [
        ("1-1", "message.delta", "{}"),
        ("1-2", second, "{}"),
        ("2-1", "done", "{}"),
        ("3-1", "message.delta", "{}"),
    ]
    check_stream(tally, SID, found, log, [1, 3], **arguments)
    assert tally.tested["resumed"] > 0
    return broken(tally)


def test_a_stream_over_two_workers_that_has_all_of_its_turn_passes() -> None:
    assert stream_judged(stream("1-1", "1-2", "2-1")) == []
    # Its turn was interrupted; what another client received of it since does not matter.
    assert stream_judged(stream("1-1", "1-2", end="message.delta")) == []


@pytest.mark.parametrize(
    "ids", [("1-1", "2-1"), ("1-2", "2-1"), ("1-1", "1-2", "1-2", "2-1"), ("1-1", "1-2", "2-0")]
)
def test_a_stream_that_lacks_or_repeats_an_event_is_found(ids: tuple[str, ...]) -> None:
    assert "resumed" in stream_judged(stream(*ids))


def test_a_stream_may_lack_the_error_of_an_attempt_that_was_repeated() -> None:
    assert stream_judged(stream("1-1", "2-1"), second="error") == []
    assert stream_judged(stream("1-1", "1-2", end="error"), second="error") == []
    assert "resumed" in stream_judged(stream("1-2", "2-1"), second="error")


def test_a_stream_that_goes_on_into_the_next_turn_is_found() -> None:
    assert "resumed" in stream_judged(stream("1-1", "1-2", "2-1", "3-1", end="message.delta"))


@pytest.mark.parametrize("last", ["message.delta", "error"])
def test_a_stream_whose_done_is_not_its_turns_last_event_is_found(last: str) -> None:
    tally = Tally()
    log = [("1-1", "done", "{}"), ("1-2", last, "{}")]
    check_stream(tally, SID, stream("1-1"), log, [1])
    assert broken(tally) == ["resumed"]


def test_a_stream_may_lack_its_beginning_only_by_a_failover() -> None:
    assert stream_judged(stream("1-2", "2-1"), failovers=[(45.0, 55.0)]) == []
    assert stream_judged(stream("1-2", "2-1"), failovers=[(60.0, 70.0)]) == ["resumed"]


def results_judged(kept: str, *told: str, end: str = "done") -> list[str]:
    tally = Tally()
    messages = [{"role": "tool", "tool_call_id": "c1", "name": "clock", "content": kept}]
    about = {"tool_call_id": "c1", "name": "clock", "ok": True}
    log = [("1-1", "tool.completed", json.dumps({**about, "result": text})) for text in told]
    check_results(tally, SID, messages, [*log, ("1-9", end, "{}")])
    return broken(tally)


def test_a_result_may_be_reported_twice_but_not_otherwise_than_it_is_kept() -> None:
    assert results_judged("unknown: perhaps", "perhaps", "perhaps") == []
    assert results_judged("noon", "one", "noon") == ["answers"]
    assert results_judged("error: interrupted", "noon", end="error") == []


# Expiries.


@pytest.mark.parametrize(
    "other",
    [
        {"msgs": 1001},  # not together
        {"req": -1},  # never
        {"ev": -1},
        {"lease": 1001},  # later than the others
    ],
)
def test_keys_that_do_not_expire_together_break_7(other: dict[str, int]) -> None:
    tally = Tally()
    right = {"meta": 1000, "msgs": 1000, "lease": 10, "ev": 500, "tools": -2, "req": 1000}
    check_expiries(tally, SID, right)
    assert broken(tally) == []
    check_expiries(tally, SID, {**right, **other})
    assert broken(tally) == ["7"]


# Regressions found by the harness.


async def test_who_follows_from_before_the_first_event_lacks_none(store: SessionStore) -> None:
    session_id = await store.create(OWNER, {})
    before = await store.events.page(session_id, OWNER, None)
    message = {"role": "user", "content": "hello"}
    grant = await store.begin(session_id, OWNER, message, nonce="worker.1")  # type: ignore[arg-type]
    assert isinstance(grant, Grant)
    first = StoredEvent(f"{grant.lease.fence}-1", "message.delta", '{"content":"one"}')
    await store.events.append(grant.lease, [first])
    page = await store.events.page(session_id, OWNER, before.after)
    assert (page.is_trimmed, page.events) == (False, [first])


async def test_a_begin_repeated_behind_another_turn_appends_nothing(
    store: SessionStore, redis: Any
) -> None:
    session_id = await store.create(OWNER, {})
    one, two = ({"role": "user", "content": content} for content in ("one", "two"))
    await store.begin(session_id, OWNER, one, nonce="worker.1")  # type: ignore[arg-type]
    # Its reply is lost; the worker is stopped until its lease is over and another turn has begun.
    for nonce, message in (("worker.2", two), ("worker.1", one)):
        await redis.delete(f"hermes:{{{session_id}}}:lease")
        with contextlib.suppress(AgentError):
            await store.begin(session_id, OWNER, message, nonce=nonce)  # type: ignore[arg-type]
    history = (await store.read(session_id, OWNER)).messages
    assert [message["content"] for message in history] == ["one", "two"]


# Required in a run; whether a conversation is deleted is random.
MET = {
    *(INVARIANTS.keys() - {"deleted"}),
    "turns done", "workers killed", "workers drained", "replies dropped",
    "streams resumed to their end", "mails sent",
}  # fmt: skip
# The seed does not determine when a fault strikes: up to this number of runs may be needed.
RUNS = 3


@pytest.mark.slow
@pytest.mark.timeout(RUNS * 100)
async def test_the_invariants_hold_with_kills_drains_stops_and_lost_replies(tmp_path: Path) -> None:
    # A seed whose first two faults are a drain and a kill.
    plan = Plan(Standalone, seconds=12.0, seed=120, workers=3, sessions=5)
    missing = set(MET)
    for number in range(RUNS):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with Run(plan, folder, progress=lambda text: None) as run:
            await run.rush()
            await run.settle()
            await run.judge()
        tally = run.tally
        assert tally.violations == []
        assert tally.figures["mails sent twice"] == 0
        missing -= {name for name in MET if tally.tested[name] or tally.figures[name] > 0}
        if not missing:
            break
    assert missing == set()
