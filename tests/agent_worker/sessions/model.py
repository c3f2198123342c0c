"""A session as docs/sessions.md describes it, in plain Python: what each operation must answer.

It knows no Redis, no clock and no concurrency. The fence, which comes from a clock, is given to it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent_worker.errors import (
    IdempotencyMismatch,
    InboxFull,
    LeaseLost,
    TurnAbandoned,
    TurnBusy,
    TurnGivenUp,
    TurnInProgress,
)
from agent_worker.sessions import (
    Answer,
    Event,
    Grant,
    Lease,
    Nothing,
    NotTaken,
    Queued,
    Replay,
    Summary,
    ToolStart,
    turn_text,
)
from tests.agent_worker.sessions.support import ME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_worker.sessions import Message
    from agent_worker.sessions.records import Status

MOST_WAITING = 3
NO_SUMMARY = Summary("", 0)
MOST_DEATHS = 3
FOR_A_WHILE = 1.0
GIVEN_UP = json.dumps(TurnGivenUp().as_json(), separators=(",", ":"))
IT_MAY_HAVE_BEEN_DONE = "unknown: interrupted; it may have been done, and is not repeated"


@dataclass
class Key:
    """An Idempotency-Key."""

    content: str
    state: str
    turn_at: int = -1
    replay: Replay | None = None


@dataclass
class Begun:
    """A call in the ledger."""

    effect: str
    digest: str
    attempt: str
    state: str = "pending"
    message: Message | None = None


@dataclass
class Model:
    sid: str
    history: list[Message] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    inbox: list[tuple[Message, str]] = field(default_factory=list)
    keys: dict[str, Key] = field(default_factory=dict)
    ledger: dict[str, Begun] = field(default_factory=dict)
    summary: Summary = NO_SUMMARY
    version: int = 1
    step: int = 0
    state: str = "idle"
    #: Who may write.
    lease: Lease | None = None
    #: The nonce, keys and first message of the last turn, and where its unfinished step began.
    nonce: str = ""
    of_turn: list[str] = field(default_factory=list)
    turn_at: int = -1
    step_event: str = "0-0"
    step_from: int = 0
    is_asked_to_stop: bool = False
    #: Where each turn began, in the order of the turns: `<fence>-0`, and how many events before.
    begins: dict[str, int] = field(default_factory=dict)
    #: Whether the last turn told of an error as its end; whose lease was handed over, and is kept.
    has_failed: bool = False
    handed: Lease | None = None
    #: How many holders died in a row, in which step, and the most that one of them had said in it.
    deaths: tuple[int, str, int] = (0, "", 0)

    @property
    def status(self) -> Status:
        if self.state == "idle":
            return "idle"
        return "running" if self.is_held else "interrupted"

    @property
    def last_event(self) -> str:
        return self.events[-1].id if self.events else "0-0"

    # Turns.

    def begin(
        self,
        nonce: str,
        message: Message | None,
        key: str,
        policy: str,
        fence: int,
        *,
        is_silent: bool,
    ) -> Grant | Replay | Queued | type[Nothing]:
        if not key and policy == "enqueue":
            key = f" {nonce}"
        outcome = "GRANTED" if self.state == "idle" else "ORPHAN"
        known = self.keys.get(key)
        if known is not None:
            assert message is not None
            if known.content != message["content"]:
                raise IdempotencyMismatch
            if known.replay is not None:
                return known.replay
            if known.state == "running":
                if self.turn_at != known.turn_at or self.state == "idle":
                    raise TurnAbandoned
                if self.deaths[0] > MOST_DEATHS:
                    raise TurnGivenUp
                if self.is_held and not self._is_free(is_silent):
                    raise TurnInProgress(retry_after_s=1, free_in_s=1.0, silent_s=0.0, holder="")
                return self._resume(nonce, fence)
            elif self.is_held:
                return Queued(len(self.inbox))
            else:
                message = None  # it is in the inbox
        if self.is_held and not (self.is_asked_to_stop and is_silent):
            return self._wait(message, key, policy)
        if message is None and not self.inbox:
            return Nothing
        self._open(outcome, message, key, fence)
        return self._take(nonce, fence, outcome)

    def take_over(self, turn: str, nonce: str, fence: int, *, is_silent: bool) -> Grant | NotTaken:
        """`is_silent`: nothing was heard of its holder for as long as was asked for."""
        state, _, _ = self.told_of(turn)
        if state in {"told", "untold"}:
            return NotTaken(None)
        if not self._is_free(is_silent):
            return NotTaken(FOR_A_WHILE)
        try:
            return self._resume(nonce, fence)
        except TurnGivenUp:
            return NotTaken(None)

    def _is_free(self, is_silent: bool) -> bool:
        """Whether the last turn, which is held or not finished, can be resumed."""
        if self.has_failed or self.is_asked_to_stop:
            return False
        return self.lease is None or is_silent

    def _resume(self, nonce: str, fence: int) -> Grant:
        if self.state == "running" and self.handed is None:
            count, step, most_said = self.deaths
            said = len(self._emitted())
            is_further = step != self.step_event or said > most_said
            self.deaths = (1 if is_further else count + 1, self.step_event, said)
            if self.deaths[0] > MOST_DEATHS:
                self.events.append(Event(f"{fence}-1", "error", GIVEN_UP))
                self.lease, self.state, self.has_failed = None, "interrupted", True
                self.nonce, self.version = "", self.version + 1
                raise TurnGivenUp
        return self._take(nonce, fence, "RESUME")

    def _emitted(self) -> str:
        emitted = ""
        for event in self.events[self.step_from :]:
            emitted = "" if event.name == "rewind" else emitted + content_of(event)
        return emitted

    def hand_over(self, lease: Lease) -> None:
        if self.handed != lease:
            self._check_holder(lease)
            self.lease, self.handed = None, lease
            self.version += 1

    @property
    def is_held(self) -> bool:
        """Whether a lease keeps others from beginning."""
        return self.lease is not None or self.handed is not None

    @property
    def turn(self) -> str:
        """The fence with which the last turn began."""
        return list(self.begins)[-1].split("-")[0] if self.begins else ""

    def _take(self, nonce: str, fence: int, outcome: str) -> Grant:
        self.lease = Lease(self.sid, ME, fence, nonce)
        self.nonce, self.state, self.is_asked_to_stop = nonce, "running", False
        self.has_failed, self.handed = False, None
        self.version += 1
        return self._grant(outcome)

    def _wait(self, message: Message | None, key: str, policy: str) -> Queued:
        if message is None or policy != "enqueue":
            raise TurnBusy
        if len(self.inbox) == MOST_WAITING:
            raise InboxFull
        self.inbox.append((message, key))
        self.keys[key] = Key(message["content"], "queued")
        return Queued(len(self.inbox))

    def _open(self, outcome: str, message: Message | None, key: str, fence: int) -> None:
        if outcome == "ORPHAN":
            self._close_open_calls()
        opening = [*self.inbox, *([(message, key)] if message is not None else [])]
        self.inbox = []
        self.turn_at, self.of_turn = len(self.history), []
        for each, its_key in opening:
            self.history.append(each)
            if its_key:
                self.of_turn.append(its_key)
                self.keys[its_key] = Key(each["content"], "running", self.turn_at)
        self.step_event, self.step_from = f"{fence}-0", len(self.events)
        self.deaths = (0, "", 0)
        self.begins[self.step_event] = len(self.events)

    def _close_open_calls(self) -> None:
        asked_at = len(self.history) - 1
        for place, call in enumerate(self.history[-1].get("tool_calls", ())):
            begun = self.ledger.get(f"{asked_at}.{place}")
            message = begun.message if begun else None
            if message is None:
                is_once = begun is not None and begun.effect == "once"
                content = IT_MAY_HAVE_BEEN_DONE if is_once else "error: interrupted"
                message = tool_message(call["id"], call["name"], content)
            self.history.append(message)
        self.ledger.clear()

    def _grant(self, outcome: str) -> Grant:
        assert self.lease is not None
        return Grant(
            outcome=outcome,
            lease=self.lease,
            version=self.version,
            step=self.step,
            summary=self.summary,
            history=self.history[self.summary.stands_for :],
            turn_at=self.turn_at,
            notes={},
            last_event=self.last_event,
            step_event=self.step_event,
            emitted=self._emitted() if outcome == "RESUME" else "",
            turn_event=f"{self.turn}-0",
        )

    def commit(
        self,
        lease: Lease,
        version: int,
        messages: Sequence[Message],
        *,
        is_step: bool = True,
        ends_turn: bool = False,
        events: Sequence[Event] = (),
        settled: Sequence[str] = (),
        summary: Summary | None = None,
    ) -> tuple[int, int, int]:
        self._check_holder(lease)
        if version != self.version:
            raise LeaseLost
        self._log(events)
        for call_key in settled:
            self.ledger.pop(call_key, None)
        self.history += messages
        self.version += 1
        self.step += is_step
        self.summary = summary or self.summary
        self.step_event, self.step_from = self.last_event, len(self.events)
        if ends_turn:
            self.lease, self.state = None, "idle"
            messages = self.history[self.turn_at :]
            answer = Answer(self.sid, self.step, turn_text(messages), is_final=True)
            for key in self.of_turn:
                replay = Replay(lease.fence, answer, self.last_event, messages, f"{self.turn}-0")
                self.keys[key] = Key(self.keys[key].content, "done", self.turn_at, replay)
        return self.version, self.step, len(self.inbox)

    def renew(self, lease: Lease) -> bool:
        self._check_holder(lease)
        return self.is_asked_to_stop

    def release(self, nonce: str) -> int | None:
        if self.lease is not None and self.lease.nonce == nonce:
            self.lease, self.state = None, "interrupted"
            self.version += 1
        elif self.is_held or self.state != "interrupted" or self.nonce != nonce:
            return None
        return len(self.inbox)

    def interrupt(self) -> bool:
        self.is_asked_to_stop = self.is_asked_to_stop or self.is_held
        return self.is_held

    def _check_holder(self, lease: Lease) -> None:
        if self.lease != lease:
            raise LeaseLost

    # Events and tools.

    def append(self, lease: Lease, events: Sequence[Event]) -> bool:
        self._check_holder(lease)
        self._log(events)
        self.has_failed = self.has_failed or bool(events and events[-1].name == "error")
        return self.is_asked_to_stop

    def told_of(self, turn: str) -> tuple[str, str, list[Event]]:
        """Who goes on with a turn, the event that ended it, and all of its events."""
        state, events = self._state_of(turn)
        is_over = state in {"told", "untold"}
        ends = [event.id for event in events[-1:] if event.name in {"done", "error"}]
        return state, ends[0] if is_over and ends else "", events

    def _state_of(self, turn: str) -> tuple[str, list[Event]]:
        ends = dict(zip(self.begins, [*list(self.begins.values())[1:], None], strict=True))
        events = self.events[self.begins[f"{turn}-0"] : ends[f"{turn}-0"]]
        is_last = turn == self.turn
        if is_last and self.state == "idle":
            return "told", events
        if is_last and not self.has_failed and (self.is_held or not self.is_asked_to_stop):
            is_free = not self.is_asked_to_stop and self.lease is None
            return "free" if is_free else "held", events
        is_told = events and events[-1].name in {"done", "error"}
        return "told" if is_told else "untold", events

    @property
    def last_turn_state(self) -> str:
        """Who goes on with the last turn, for those who only look."""
        if self.state in {"idle", "interrupted"} or self.has_failed:
            return "over"
        if self.is_asked_to_stop:
            return "stopping" if self.is_held else "over"
        return "free" if self.lease is None else "held"

    def _log(self, events: Sequence[Event]) -> None:
        known = {event.id for event in self.events}
        self.events += [event for event in events if event.id not in known]

    def tool_begin(
        self, lease: Lease, call_key: str, effect: str, digest: str, attempt: str
    ) -> ToolStart:
        self._check_holder(lease)
        begun = self.ledger.get(call_key)
        if begun is not None:
            if begun.digest != digest:
                return ToolStart("ARGS_MISMATCH")
            if begun.message is not None:
                return ToolStart("REPLAY", begun.message)
            if begun.effect == "once" and begun.attempt != attempt:
                return ToolStart("UNKNOWN")
        self.ledger[call_key] = Begun(effect, digest, attempt)
        return ToolStart("RUN")

    def tool_end(self, lease: Lease, call_key: str, attempt: str, message: Message | None) -> None:
        """None: the call has not run after all."""
        self._check_holder(lease)
        begun = self.ledger.get(call_key)
        if begun is None and message is None:
            return
        if begun is None or begun.attempt != attempt:
            raise LeaseLost
        if message is None:
            del self.ledger[call_key]
        else:
            begun.message = message


def tool_message(call_id: str, name: str, content: str) -> Message:
    return {"role": "tool", "tool_call_id": call_id, "name": name, "content": content}


def content_of(event: Event) -> str:
    """The text of a delta; other events have none."""
    return json.loads(event.data)["content"] if event.name == "message.delta" else ""
