"""The stored state of a session, and the rules that need nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent_worker.sessions.event_log import event_order
from agent_worker.sessions.operations import dump, to_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_worker.sessions import Event, Message, Replay, StoreOptions, Summary

HOUR_MS = 3600 * 1000
HANDED = "handed."
MAY_HAVE_BEEN_DONE = "unknown: interrupted; it may have been done, and is not repeated"


@dataclass
class Key:
    """An Idempotency-Key. `turn_at`: the index of the first message of its turn."""

    fingerprint: str
    state: str
    at: int
    turn_at: int = -1
    replay: Replay | None = None


@dataclass
class Call:
    """A call in the ledger."""

    effect: str
    digest: str
    attempt: str
    message: str | None = None


@dataclass
class Session:
    """Messages are JSON texts, so that no caller shares them."""

    sid: str
    owner: str
    created: int
    metadata: str
    rest_ms: int | None
    messages: list[str]
    summary: Summary
    expires: int = 0
    deleted: bool = False
    version: int = 1
    fence: int = 0
    step: int = 0
    status: str = "idle"
    notes: str = "{}"
    archived: int = 0
    events: list[Event] = field(default_factory=list)
    events_expire: int | None = None
    first_event: str = ""
    last_event: str = "0-0"
    inbox: list[tuple[str, str, str]] = field(default_factory=list)
    keys: dict[str, Key] = field(default_factory=dict)
    tools: dict[str, Call] = field(default_factory=dict)
    lease: str = ""
    lease_until: int = 0
    lease_ms: int = 0
    #: Of the last turn: the fence of its begin, its first message, its attempt, its keys.
    turn: int = 0
    turn_at: int = -1
    turn_nonce: str = ""
    turn_outcome: str = ""
    turn_keys: list[str] = field(default_factory=list)
    turn_first: str = ""
    turn_before: str = ""
    step_event: str = "0-0"
    has_failed: bool = False
    is_asked_to_stop: bool = False
    is_left: bool = False
    #: Holders that died in a row, the step, and the longest text of one of them in it.
    deaths: tuple[int, str, int] = (0, "", 0)
    begun: list[str] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    commits: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(len(text.encode()) for text in self.messages)

    def holder(self, now: int) -> str:
        """The lease, or "" if there is none or it has expired."""
        return self.lease if now < self.lease_until else ""

    def silence(self, now: int) -> int:
        return max(0, self.lease_ms - (self.lease_until - now))

    def state_of(self, turn: int, now: int) -> tuple[str, int]:
        """'over', 'stopping', 'free' or 'held', and the silence of the holder."""
        if self.turn != turn or self.status == "idle" or self.has_failed:
            return "over", 0
        lease = self.holder(now)
        if self.is_asked_to_stop:
            return ("stopping" if lease else "over"), 0
        if not lease or nonce_of(lease).startswith(HANDED):
            return "free", 0
        return "held", self.silence(now)

    def last_turn(self, now: int) -> tuple[str, int]:
        state, silence = self.state_of(self.turn, now)
        is_released = self.status == "interrupted" and not self.is_left
        return "over" if is_released else state, silence

    def emitted(self) -> str:
        """The text of the unfinished step."""
        text = ""
        for event in self.events:
            if event_order(event.id) > event_order(self.step_event):
                if event.name == "message.delta":
                    text += json.loads(event.data)["content"]
                elif event.name == "rewind":
                    text = ""
        return text

    def touch(self, now: int, options: StoreOptions) -> None:
        is_resting = self.status != "running" and self.rest_ms is not None
        life = self.rest_ms if is_resting else to_ms(options.sliding_s)
        assert life is not None
        self.expires = min(now + life, self.created + to_ms(options.absolute_s))
        if self.status == "running":
            self.events_expire = None

    def rest_events(self, now: int) -> None:
        self.events = self.events[-2000:]
        self.events_expire = now + min(HOUR_MS, self.rest_ms or HOUR_MS)

    def log(self, events: Sequence[Event]) -> None:
        for event in events:
            if event_order(event.id) > event_order(self.last_event):
                self.first_event = self.first_event or event.id
                self.last_event = event.id
                self.events.append(event)

    def forget_keys(self, now: int, options: StoreOptions) -> None:
        """Make room for one more key; queued ones and those of the last turn stay."""
        for name, key in sorted(self.keys.items(), key=lambda item: item[1].at):
            is_bound = key.state == "queued" or (
                key.state == "running" and key.turn_at == self.turn_at
            )
            is_old = key.at + to_ms(options.idempotency_s) < now
            if not is_bound and (is_old or len(self.keys) >= options.max_idempotency_keys):
                del self.keys[name]


def close_open_calls(session: Session) -> None:
    """Add results for the open calls of an unfinished turn."""
    asked_at = len(session.messages) - 1
    asked: Message | None = json.loads(session.messages[-1]) if session.messages else None
    if asked is None or asked["role"] != "assistant" or "tool_calls" not in asked:
        return
    for place, call in enumerate(asked["tool_calls"]):
        known = session.tools.get(f"{asked_at}.{place}")
        text = known.message if known is not None else None
        if text is None:
            is_once = known is not None and known.effect == "once"
            content = MAY_HAVE_BEEN_DONE if is_once else "error: interrupted"
            result = {"role": "tool", "content": content, "tool_call_id": call["id"]}
            text = dump(result | {"name": call["name"]})
        session.messages.append(text)
    session.tools.clear()


def nonce_of(lease: str) -> str:
    return lease.partition("|")[2]


def worker_of(lease: str) -> str:
    name, dot, _ = nonce_of(lease).partition(".")
    return name if dot and name.isalnum() else ""


def attempt_of(nonce: str) -> str:
    return nonce.rpartition(".")[2]
