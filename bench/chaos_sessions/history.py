"""What must be true of a session's messages, of the mails that were sent, and of its keys' expiry.

Pure: from what was read at the end, and what the clients saw.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent_worker.errors import EngineFailed
from agent_worker.models.scripted import reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.chaos_sessions.tally import Tally

Message = dict[str, Any]

#: In each text of a user's: says which message it is, and is in no other.
UID = re.compile(r"\bu-\d+\b")
#: The tools that a worker with a mail file offers to these questions.
TOOLS = ("calculator", "clock", "note_set", "note_get", "send_mail")


@dataclass
class Asked:
    """One message of a user's, and what its client learnt of it."""

    uid: str
    session_id: str
    content: str
    key: str | None
    #: It was said to be in the history, or to wait: first and last when (time.monotonic()).
    accepted_at: float | None = None
    last_said_at: float = 0.0
    #: Contents of the answers that the client received, by JSON or by `done`.
    answers: list[str] = field(default_factory=list)
    #: It will not be sent again; its client knows how it ended, or did not want to know.
    is_settled: bool = False
    #: How often it was sent.
    tries: int = 0

    def accept(self, now: float) -> None:
        if self.accepted_at is None:
            self.accepted_at = now
        self.last_said_at = now


def check_history(
    tally: Tally, session_id: str, messages: Sequence[Message], fences: Sequence[int]
) -> None:
    """Turns one after another: users, then steps whose calls are all answered, in their order.

    `fences`: under which each message was written. The script is deterministic, so each step must
    also be what it says to exactly the messages before it.
    """

    def check(holds: bool, what: str) -> None:
        tally.check("3", holds, what, session_id)

    open_calls: list[str] = []
    is_over = True  # the turn has had its last word
    for index, message in enumerate(messages):
        role = message["role"]
        where = f"message {index} {str(message)[:200]}"
        if role == "user":
            check(not open_calls, f"a turn with unanswered calls {open_calls} before {where}")
            open_calls, is_over = [], False
        elif role == "assistant":
            check(not is_over, f"no request asked for {where}")
            check(not open_calls, f"{open_calls} are not answered before {where}")
            wanted = _script(messages[:index])
            check(wanted == (message["content"], _calls(message)), f"{wanted=}, {where}")
            open_calls = [call["id"] for call in message.get("tool_calls", ())]
            is_over = not open_calls
        else:
            expected = open_calls.pop(0) if open_calls else None
            check(message["tool_call_id"] == expected, f"{expected=}, {where}")
    for before, after in itertools.pairwise(fences):
        tally.check("1", before <= after, f"fences of messages {before} > {after}", session_id)


def _calls(message: Message) -> list[Any]:
    calls = message.get("tool_calls", ())
    return [(call["id"], call["name"], call["arguments"]) for call in calls]


def _script(before: Sequence[Message]) -> tuple[str, list[Any]] | None:
    try:
        said = reply(before, TOOLS)  # type: ignore[arg-type]
    except EngineFailed:
        return None
    return said.text, [(call.id, call.name, call.arguments) for call in said.calls]


def uids_of(messages: Sequence[Message]) -> list[str]:
    """Of the users' messages, in order."""
    texts = [message["content"] for message in messages if message["role"] == "user"]
    return [uid for text in texts for uid in UID.findall(text)[:1]]


def check_messages(
    tally: Tally,
    session_id: str,
    messages: Sequence[Message],
    asked: Sequence[Asked],
    failovers: Sequence[tuple[float, float]] = (),
) -> None:
    """Each accepted message once; each answer that a client received is the one in the history.

    `failovers`: from when to when (time.monotonic()) acknowledged writes may be lost.
    """
    count = Counter(uids_of(messages))
    turns = _answers(messages)
    for each in asked:
        found = count.pop(each.uid, 0)
        about = f"{each.uid} (key {each.key}) is {found} times in the history"
        if each.accepted_at is None:
            tally.check("4", found <= 1, about, session_id)
        elif found == 0 and _lost_by(failovers, each):
            tally.figures["accepted messages lost by failovers"] += 1
        else:
            tally.check("4", found == 1, about, session_id)
        for answer in each.answers:
            kept = turns.get(each.uid)
            if kept != answer and _lost_by(failovers, each):
                tally.figures["answers lost by failovers"] += 1
            else:
                what = f"{each.uid}: reported {answer[-200:]!r}, kept {str(kept)[-200:]!r}"
                tally.check("answers", kept == answer, what, session_id)
    for uid in count:
        tally.check("4", False, f"{uid} was never sent to this session", session_id)


def _lost_by(failovers: Sequence[tuple[float, float]], asked: Asked) -> bool:
    """Whether something was said of it while a failover could take it back."""
    said = (asked.accepted_at or 0.0, asked.last_said_at)
    return any(begin <= at <= end for begin, end in failovers for at in said)


def _answers(messages: Sequence[Message]) -> dict[str, str]:
    """By the uid of each message that opened a turn: all that the turn says."""
    answers: dict[str, str] = {}
    opening: list[str] = []
    is_open = False
    for message in messages:
        if message["role"] == "user":
            opening = [*opening, *uids_of([message])] if is_open else uids_of([message])
            is_open = True
            answers.update(dict.fromkeys(opening, ""))
        elif message["role"] == "assistant":
            is_open = False
            for uid in opening:
                answers[uid] += message["content"]
    return answers


def check_mails(
    tally: Tally, mails: Sequence[Mapping[str, str]], histories: Mapping[str, Sequence[Message]]
) -> None:
    """No mail twice; one that the history calls sent was, one that it calls not sent was not."""
    by_id = Counter(mail["id"] for mail in mails)
    by_text = Counter(mail["text"] for mail in mails)
    twice = sum(count - 1 for count in by_text.values())
    tally.figures["mails sent"] += len(mails)
    tally.figures["mails sent twice"] += twice
    for mail in mails:
        is_once = by_id[mail["id"]] == by_text[mail["text"]] == 1
        session_id = mail["id"].rpartition(".")[0].rpartition(".")[0]
        tally.check("5", is_once, f"sent twice: {mail}", session_id)
    for session_id, messages in histories.items():
        for key, result in _mail_results(messages):
            if result.startswith("unknown: "):
                tally.figures["mails UNKNOWN"] += 1
                tally.figures["mails UNKNOWN that were sent"] += by_id[f"{session_id}.{key}"]
                continue
            wanted = int(result.startswith("sent to"))
            sent = by_id[f"{session_id}.{key}"]
            what = f"{session_id}.{key}: {result!r}, and {sent} were sent"
            tally.check("5", sent == wanted, what, session_id)


def _mail_results(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Call key (index of the message, place in it) and result of each call of send_mail."""
    results = []
    asked_at = 0
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            asked_at = index
        elif message["role"] == "tool" and message["name"] == "send_mail":
            results.append((f"{asked_at}.{index - asked_at - 1}", message["content"]))
    return results


def check_results(
    tally: Tally,
    session_id: str,
    messages: Sequence[Message],
    log: Sequence[tuple[str, str, str]],
) -> None:
    """A tool result in a stream is the one that the model received, however often it was sent.

    `log`: id, name and data of each event. A result of an unfinished turn may have been sent and
    not kept; such a turn has no `done`.
    """
    kept = {m["tool_call_id"]: m["content"] for m in messages if m["role"] == "tool"}
    reported: list[dict[str, Any]] = []
    for _, name, text in log:
        if name == "tool.completed":
            reported.append(json.loads(text))
        elif name in {"done", "error"}:
            for each in reported if name == "done" else ():
                result = kept.get(each["tool_call_id"], "")
                plain = result.removeprefix("error: ").removeprefix("unknown: ")
                what = f"reported {each}, kept {result!r}"
                tally.check("answers", plain == each["result"], what, session_id)
            reported = []


def check_expiries(tally: Tally, session_id: str, expiries: Mapping[str, int]) -> None:
    """By kind of key when it expires (ms; -1: never, -2: there is none), all read at one moment."""
    there = {kind: at for kind, at in expiries.items() if at != -2}
    together = {at for kind, at in there.items() if kind not in {"lease", "ev"}}
    latest = max(together, default=-1)
    earlier = [there[kind] for kind in ("lease", "ev") if kind in there]
    holds = len(together) <= 1 and -1 not in there.values()
    holds &= all(at <= latest for at in earlier)
    tally.check("7", holds, f"expiries {there}", session_id)
