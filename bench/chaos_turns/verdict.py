"""What must hold of all turns; each test of it is counted."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from bench.chaos_turns.heard import DONE
from bench.chaos_turns.script import answer_as_json, expected

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.chaos_sessions.tally import Tally
    from bench.chaos_turns.executions import Execution, Executions
    from bench.chaos_turns.heard import Heard, Turn

INVARIANTS: Mapping[str, str] = {
    "once": "an accepted turn is executed at most once",
    "apart": "no two requests of a session are open at once, nor within `settle` of a cut one",
    "strict": "nothing overlaps at a backend that checks the fence",
    "bytes": "a client that comes back gets exactly the backend's bytes, or a visible cut",
    "ends": "a client that comes back gets an end that the table of states allows",
    "continued": "a turn whose backend can continue it is not lost with its balancer",
    "leaving": "where leaving cancels, a turn ends with its last client at any balancer",
    "principals": "no principal gets a byte of another one",
    "fences": "the fences of a session grow",
    "ttl": "each key in the store expires",
    "quotas": "in the end the store's quotas are given back",
}
UNKNOWN, CANCELLED = "409 outcome_unknown", "409 turn_cancelled"
AHEAD = "409 unknown_event_id"  # the client had an event that its dead owner has not journaled
NOT_KEPT, FENCED = "410 result_not_kept", "409 an older fence"
NO_WAY_BACK = "nothing to come back to"
# Seconds that the store's clock, the backend's and ours may be apart in what they see.
_SLACK = 0.1
# Until the lease of the last follower is over, at a machine that is busy.
_LEASE = 14.0


class Faults(NamedTuple):
    """What the faults of a phase may explain."""

    #: Processes are killed or stopped: an outcome may be unknown.
    loses_owners: bool
    #: The store is away at times: responses are not kept, journals have gaps.
    loses_store: bool
    #: From when to when owners stood still, with their sockets open (`time.time()`).
    stopped: Sequence[tuple[float, float]] = ()


class Verdict:
    def __init__(self, tally: Tally, executions: Executions, faults: Faults, settle: float) -> None:
        self._tally = tally
        self._executions = executions
        self._faults = faults
        self._settle = settle

    def judge(self, turns: Sequence[Turn]) -> None:
        uids = {turn.uid: turn for turn in turns}
        for turn in turns:
            self._judge_once(turn)
            for heard in turn.heard:
                self._judge_heard(turn, heard, uids)
        for (_, session), executions in self._executions.by_session().items():
            self._judge_session(session, executions, uids)
        unfenced = self._executions.unfenced
        self._tally.check("fences", not unfenced, f"{unfenced} requests without a fence")

    def _judge_once(self, turn: Turn) -> None:
        done = self._executions.of(turn.uid)
        what = f"{turn} ran {len(done)} times: {', '.join(map(str, done))}; {_report_of(turn)}"
        self._tally.check("once", len(done) < 2, what)
        for each in done:
            if turn.left and not self._was_stopped(each):
                # The lease of a follower, and a look for it.
                late = (each.ended or float("inf")) - turn.left
                is_over = each.is_whole or late < _LEASE
                self._tally.check("leaving", is_over, f"{turn}: {late:.1f} s after it was left")
            is_own = each.principal == turn.principal
            self._tally.check("principals", is_own, f"{turn} ran as {each.principal}")

    # What a client got.

    def _judge_heard(self, turn: Turn, heard: Heard, uids: Mapping[str, Turn]) -> None:
        self._judge_principal(turn, heard, uids)
        done = self._executions.of(turn.uid)
        if len(done) > 1:
            return  # reported already
        if turn.question.as_json:
            wanted = {answer_as_json(turn.question, each.id) for each in done}
            what = f"{turn} got {heard.bodies}, not {wanted}; {heard}"
            self._tally.check("bytes", set(heard.bodies) <= wanted, what)
        else:
            self._judge_events(turn, heard, done[0] if done else None)
        self._judge_end(turn, heard, done[0] if done else None)

    def _judge_principal(self, turn: Turn, heard: Heard, uids: Mapping[str, Turn]) -> None:
        for event in itertools.chain(*(s.events for s in heard.segments), heard.bodies):
            what = f"{turn} got {event[:120]!r}"
            self._tally.check("principals", b'"uid": "%s"' % turn.uid.encode() in event, what)

    def _judge_events(self, turn: Turn, heard: Heard, done: Execution | None) -> None:
        wanted = expected(turn.question, done.id) if done else []
        for after, events, is_clean in heard.segments:
            due = wanted[after : after + len(events)]
            what = f"{turn} behind {after} got {_first(events, due)}; {heard}"
            self._tally.check("bytes", events == due, what)
            if is_clean:
                what = f"{turn} ended after {after + len(events)} of {len(wanted)}; {heard}; {done}"
                self._tally.check("bytes", after + len(events) == len(wanted), what)

    def _judge_end(self, turn: Turn, heard: Heard, done: Execution | None) -> None:
        if not heard.end:
            return  # it left for good
        self._tally.figures[f"ends: {heard.end}"] += 1
        if heard.end == UNKNOWN:
            is_whole = done is not None and done.is_whole
            self._tally.figures["outcomes unknown, but executed"] += is_whole
        faults = self._faults
        # Faults may keep the last client away for longer than its lease.
        is_left = turn.kind == "leaving" and (faults.loses_owners or faults.loses_store)
        allowed = {
            DONE: done is not None,
            UNKNOWN: faults.loses_owners or faults.loses_store,
            AHEAD: faults.loses_owners or faults.loses_store,
            CANCELLED: turn.is_deleted or is_left,
            NOT_KEPT: turn.kind == "big" or faults.loses_store,
            NO_WAY_BACK: not turn.key,
            FENCED: bool(faults.stopped),
        }
        if turn.kind == "continued" and heard.position and not faults.loses_store:
            # Its head was stored long before its second event came.
            is_lost = heard.end == UNKNOWN and heard.position > 1
            self._tally.check("continued", not is_lost, f"{turn}: {heard}; {done}")
        is_due = allowed.get(heard.end, heard.end.startswith("refused: ") and not turn.key)
        self._tally.check("ends", is_due, f"{turn}: {heard}; {done}")

    # Sessions.

    def _judge_session(
        self, session: str, executions: Sequence[Execution], uids: Mapping[str, Turn]
    ) -> None:
        for before, after in itertools.pairwise(executions):
            saw = f"{session}: {before}, then {after}"
            self._tally.check("fences", before.fence < after.fence, saw)
            if after.is_checked:
                self._tally.check("strict", _is_over(before, after.begun), saw)
                continue
            if self._was_stopped(before):
                self._tally.figures["pairs with a stopped owner"] += 1
                continue
            is_over = _is_over(before, after.begun)
            self._tally.check("apart", is_over, saw)
            if is_over and not before.is_whole and before.ended is not None:
                pause = after.begun - before.ended
                self._tally.figures["pauses after a cut"] += 1
                is_settled = pause >= self._settle - _SLACK
                self._tally.check("apart", is_settled, f"{saw}: {pause:.2f} s")

    def _was_stopped(self, execution: Execution) -> bool:
        end = execution.ended or float("inf")
        return any(begun < end and execution.begun < over for begun, over in self._faults.stopped)


def _is_over(execution: Execution, at: float) -> bool:
    return execution.ended is not None and execution.ended <= at + _SLACK


def _first(events: Sequence[bytes], due: Sequence[bytes]) -> str:
    """The first difference."""
    for number, (got, wanted) in enumerate(itertools.zip_longest(events, due)):
        if got != wanted:
            return f"{number}: {got!r}, not {wanted!r}"
    return "the same"


def _report_of(turn: Turn) -> str:
    return " | ".join(map(str, turn.heard))
