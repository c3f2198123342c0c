"""The chaos harness of the sessions: its audit of all writes to Redis finds violations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from agent_worker.sessions.scripts import load_scripts
from bench.chaos_sessions.audit import Audit, Known, Line, read_line
from bench.chaos_sessions.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

SID = "s" * 32
OWNER = "token:owner"
META, LEASE, MSGS, TOOLS_KEY, EV = (
    f"hermes:{{{SID}}}:{kind}" for kind in ("meta", "lease", "msgs", "tools", "ev")
)
SCRIPTS = load_scripts()


def broken(tally: Tally) -> list[str]:
    return [violation.invariant for violation in tally.violations]


class Redis:
    """Produces MONITOR's output for scripts; the clock is the test's."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.audit = Audit(self.tally)
        self.at = 1000.0
        self.run("create", "nonce", writes=[("HSET", META, "version", "1")])

    def run(
        self,
        script: str,
        *args: str,
        writes: Sequence[tuple[str, ...]] = (),
        principal: str = OWNER,
    ) -> None:
        words = ("EVALSHA", SCRIPTS[script].sha, "1", META, principal, SID, "0", "0", *args)
        self.audit.feed(Line(self.at, "127.0.0.1:1", words))
        for each in writes:
            self.audit.feed(Line(self.at, "lua", each))
        self.audit.flush()

    def begin(
        self,
        fence: int,
        version: int,
        message: str = "hi",
        *,
        taken_over: str = "",
        is_resumed: bool = False,
    ) -> str:
        """`taken_over`: the turn to take over, whose holder has been silent for 300 ms.

        `is_resumed`: by its key.
        """
        lease = f"{fence}|worker.{fence}"
        arguments = ["nonce", *["-"] * 9, taken_over, "300"]
        writes = [
            ("SET", LEASE, lease, "PX", "1000"),
            ("HSET", META, "fence", str(fence), "version", str(version)),
        ]
        if is_resumed:
            writes.append(("HSET", META, "turn_outcome", "RESUME"))
        elif not taken_over:
            new_turn = ("HSET", META, "turn_event", f"{fence}-0")
            writes = [("RPUSH", MSGS, message), new_turn, *writes]
        self.run("begin", *arguments, writes=writes)
        return lease

    def hand_over(self, lease: str, version: int, handed: str | None = None) -> None:
        handed = handed or lease.replace("|", "|handed.")
        kept = ("SET", LEASE, handed, "PX", "5000")
        self.run(
            "hand_over", lease, "5000", writes=[kept, ("HINCRBY", META, "version", str(version))]
        )

    def ask_for_tool(self, lease: str, attempt: str, state: str = "pending") -> None:
        record = json.dumps({"state": state, "attempt": attempt})
        arguments = (lease, "1.0", "once", "hash", attempt)
        self.run("tool_begin", *arguments, writes=[("HSET", TOOLS_KEY, "1.0", record)])

    def append(self, lease: str, event_id: str) -> None:
        event = ("XADD", EV, "MAXLEN", "~", "20000", event_id, "e", "message.delta", "d", "{}")
        self.run("append", lease, "1", writes=[event])

    def commit(self, lease: str, version: int, *, principal: str = OWNER) -> None:
        writes = [
            ("RPUSH", MSGS, "answer"),
            ("HSET", META, "version", str(version), "step", "1"),
            ("DEL", LEASE),
        ]
        self.run("commit", lease, str(version - 1), writes=writes, principal=principal)


def test_the_audit_accepts_turns_one_after_another() -> None:
    redis = Redis()
    for turn in range(3):
        lease = redis.begin(100 + turn, 2 + 2 * turn)
        redis.append(lease, f"{100 + turn}-1")
        redis.append(lease, f"{100 + turn}-1")  # again, after a lost reply
        redis.commit(lease, 3 + 2 * turn)
    assert broken(redis.tally) == []
    known = redis.audit.sessions[SID]
    assert (known.version, known.fence, known.lease) == (7, 102, None)
    assert known.messages == ["hi", "answer"] * 3
    assert known.fences == [100, 100, 101, 101, 102, 102]
    assert [event[0] for event in known.events] == ["100-1", "101-1", "102-1"]
    assert redis.tally.tested["1"] > 0
    assert redis.tally.tested["2"] == 6


def test_a_write_of_an_older_fence_breaks_1() -> None:
    redis = Redis()
    zombie = redis.begin(100, 2)
    redis.at += 2
    redis.begin(101, 3)
    redis.append(zombie, "100-1")
    assert set(broken(redis.tally)) == {"1"}


def test_a_write_behind_the_end_of_the_lease_breaks_1() -> None:
    redis = Redis()
    lease = redis.begin(100, 2)
    redis.at += 1.1
    redis.append(lease, "100-1")
    assert broken(redis.tally) == ["1"]


def test_a_renewal_prolongs_the_lease() -> None:
    redis = Redis()
    lease = redis.begin(100, 2)
    redis.at += 0.9
    redis.run("renew", lease, "1000", writes=[("PEXPIRE", LEASE, "1000")])
    redis.at += 0.9
    redis.append(lease, "100-1")
    assert broken(redis.tally) == []


def test_a_grant_while_another_holds_the_lease_breaks_1() -> None:
    redis = Redis()
    redis.begin(100, 2)
    redis.begin(101, 3)
    assert broken(redis.tally) == ["1"]


def test_a_turn_that_was_handed_over_or_left_silent_may_be_taken_over() -> None:
    redis = Redis()
    redis.hand_over(redis.begin(100, 2), 1)
    heir = redis.begin(101, 4, taken_over="100")
    redis.at += 0.4
    redis.append(heir, "101-1")
    redis.run("renew", heir, "1000", writes=[("PEXPIRE", LEASE, "1000")])
    redis.at += 0.4
    redis.commit(redis.begin(102, 5, taken_over="100"), 6)
    redis.commit(redis.begin(103, 7), 8)
    assert broken(redis.tally) == []
    assert redis.audit.sessions[SID].turns == [100, 103]
    figures = redis.tally.figures
    assert figures["turns handed over"] == figures["turns taken over: handed over"] == 1
    assert figures["turns taken over: left silent"] == 1


@pytest.mark.parametrize(
    ("pause", "is_stopped", "is_resumed", "breaks"),
    [
        (0.2, False, True, ["1"]),
        (0.4, False, True, []),
        (0.2, True, False, ["1"]),
        (0.4, True, False, []),
        (0.4, False, False, ["1"]),
    ],
)
def test_a_silent_turn_may_be_resumed_by_its_key_or_replaced_if_it_shall_stop(
    pause: float, is_stopped: bool, is_resumed: bool, breaks: list[str]
) -> None:
    redis = Redis()
    redis.begin(100, 2)
    if is_stopped:
        redis.run("interrupt", writes=[("HSET", META, "stop", "100|worker.100")])
    redis.at += pause
    redis.begin(101, 3, is_resumed=is_resumed)
    assert broken(redis.tally) == breaks


@pytest.mark.parametrize(("pause", "breaks"), [(0.2, ["1"]), (0.4, [])])
def test_a_turn_is_given_up_only_when_it_is_silent(pause: float, breaks: list[str]) -> None:
    redis = Redis()
    zombie = redis.begin(100, 2)
    redis.at += pause
    writes = [
        ("XADD", EV, "101-1", "e", "error", "d", "{}"),
        ("DEL", LEASE),
        ("HSET", META, "fence", "101", "version", "3", "status", "interrupted"),
    ]
    redis.run("begin", "nonce", *["-"] * 9, "100", "300", writes=writes)
    assert broken(redis.tally) == breaks
    redis.append(zombie, "101-2")
    assert broken(redis.tally) == [*breaks, "1"]


def test_a_takeover_breaks_1_while_its_holder_is_heard_of() -> None:
    redis = Redis()
    lease = redis.begin(100, 2)
    redis.at += 0.9
    redis.run("renew", lease, "1000", writes=[("PEXPIRE", LEASE, "1000")])
    redis.at += 0.2
    redis.begin(101, 3, taken_over="100")
    assert broken(redis.tally) == ["1"]


def test_a_takeover_of_another_turn_than_the_last_breaks_1() -> None:
    redis = Redis()
    redis.commit(redis.begin(100, 2), 3)
    redis.commit(redis.begin(101, 4), 5)
    redis.begin(102, 6, taken_over="100")
    assert broken(redis.tally) == ["1"]


def test_another_turn_amid_a_handover_breaks_1() -> None:
    redis = Redis()
    redis.hand_over(redis.begin(100, 2), 1)
    redis.begin(101, 4)
    assert broken(redis.tally) == ["1"]


def test_a_write_behind_its_handover_breaks_1() -> None:
    redis = Redis()
    lease = redis.begin(100, 2)
    redis.hand_over(lease, 1)
    redis.append(lease, "100-1")
    assert broken(redis.tally) == ["1"]


def test_a_lease_that_is_handed_over_under_another_name_breaks_1() -> None:
    redis = Redis()
    redis.hand_over(redis.begin(100, 2), 1, "100|worker.other")
    assert broken(redis.tally) == ["1"]


def test_a_handover_that_leaves_the_version_breaks_2() -> None:
    redis = Redis()
    redis.hand_over(redis.begin(100, 2), 0)
    assert broken(redis.tally) == ["2"]


def test_a_once_call_that_a_second_attempt_may_run_breaks_5() -> None:
    redis = Redis()
    lease = redis.begin(100, 2)
    for _ in range(2):  # again, after a lost reply
        redis.ask_for_tool(lease, "first")
    redis.ask_for_tool(lease, "second", "unknown")
    assert broken(redis.tally) == []
    redis.ask_for_tool(lease, "second")
    assert broken(redis.tally) == ["5"]


def test_a_once_call_that_has_not_run_may_run_later() -> None:
    redis = Redis()
    lease = redis.begin(100, 2)
    redis.ask_for_tool(lease, "first")
    redis.run("tool_end", lease, "1.0", "first", "", writes=[("HDEL", TOOLS_KEY, "1.0")])
    redis.ask_for_tool(lease, "second")
    assert broken(redis.tally) == []


def test_a_fence_that_does_not_grow_breaks_1() -> None:
    redis = Redis()
    redis.commit(redis.begin(100, 2), 3)
    redis.begin(100, 4)
    assert broken(redis.tally) == ["1"]


def test_an_event_of_another_fence_breaks_1() -> None:
    redis = Redis()
    redis.append(redis.begin(100, 2), "101-1")
    assert broken(redis.tally) == ["1"]


@pytest.mark.parametrize("version", [2, 4])
def test_a_version_that_stays_or_leaps_breaks_2(version: int) -> None:
    redis = Redis()
    redis.commit(redis.begin(100, 2), version)
    assert broken(redis.tally) == ["2"]


def test_a_version_that_an_event_raises_breaks_2() -> None:
    redis = Redis()
    lease = redis.begin(100, 2)
    redis.run("append", lease, "1", writes=[("HINCRBY", META, "version", "1")])
    assert broken(redis.tally) == ["2"]


def test_history_that_an_append_writes_breaks_3() -> None:
    redis = Redis()
    lease = redis.begin(100, 2)
    redis.run("append", lease, "1", writes=[("RPUSH", MSGS, "x")])
    assert "3" in broken(redis.tally)


def test_a_write_of_a_stranger_breaks_8() -> None:
    redis = Redis()
    redis.commit(redis.begin(100, 2), 3, principal="token:stranger")
    assert broken(redis.tally) == ["8"]


def test_a_write_to_a_deleted_session_is_found() -> None:
    redis = Redis()
    lease = redis.begin(100, 2)
    redis.run("delete", "nonce", "1", writes=[("DEL", META, LEASE, MSGS), ("HSET", META, "x", "y")])
    redis.append(lease, "100-1")
    assert broken(redis.tally) == ["deleted"]


def test_a_failover_that_took_writes_back_is_counted_and_no_violation() -> None:
    redis = Redis()
    lease = redis.begin(100, 2)
    redis.append(lease, "100-1")
    redis.append(lease, "100-2")
    redis.commit(lease, 3)
    first = ("100-1", "message.delta", "{}")
    seen = Known(OWNER, version=2, fence=100, messages=["hi"], events=[first], turns=[100])
    redis.audit.rebase(SID, seen)
    redis.commit(redis.begin(101, 3), 4)
    assert broken(redis.tally) == []
    assert redis.tally.figures["writes lost by failovers"] == 1
    assert redis.tally.figures["events lost by failovers"] == 1
    assert redis.audit.sessions[SID].messages == ["hi", "hi", "answer"]


def test_a_line_of_monitor_is_read_with_its_escapes() -> None:
    raw = b'+1700000000.123456 [0 lua] "RPUSH" "k" "{\\"a\\": \\"\\xc3\\xa9\\\\n\\"}\\n"\r\n'
    line = read_line(raw)
    assert line == Line(1700000000.123456, "lua", ("RPUSH", "k", '{"a": "é\\n"}\n'))
    assert read_line(b"+OK\r\n") is None
