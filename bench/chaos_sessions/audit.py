"""Every write of Redis, in its own order (MONITOR), checked by the rules of a session.

It knows the scripts by name and their first arguments, and ignores their answers: only their writes
count. A script's own commands follow its EVALSHA, before those of any other client.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent_worker.sessions.scripts import load_scripts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.chaos_sessions.tally import Tally

_LINE = re.compile(r"\+?(\d+\.\d+) \[\d+ (\S+)\] (.*)", re.S)
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)", re.S)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
_KEY = re.compile(r"hermes:\{([^}]*)\}:(\w+)")

_WRITES = {"set", "del", "hset", "hdel", "hincrby", "rpush", "xadd"}
# Of the lease's holder: the lease is their first own argument.
_HOLDERS = {"append", "commit", "renew", "tool_begin", "tool_end", "hand_over"}
# Among the arguments of `begin`: the turn to take over ("": none), and for how many ms a holder
# must not have been heard of for its turn to be resumed ("": until its lease is over).
_TAKEN_OVER, _SILENT_MS = 10, 11
# Seconds that MONITOR's clock may be behind the one that a script's expiries are judged by.
_CLOCK = 0.02
# The arguments that all scripts share (principal, session, two lives) come first.
_SHARED = 4


@dataclass(frozen=True)
class Line:
    """One command as MONITOR shows it; `source` is "lua" within a script."""

    at: float
    source: str
    words: tuple[str, ...]


def read_line(raw: bytes) -> Line | None:
    """None: no command (the OK of MONITOR itself)."""
    match = _LINE.match(raw.decode("latin-1").rstrip("\r\n"))
    if match is None:
        return None
    return Line(float(match[1]), match[2], tuple(map(_unescaped, _WORD.findall(match[3]))))


def _unescaped(word: str) -> str:
    raw = word.encode("latin-1")
    if b"\\" in raw:
        raw = _ESCAPE.sub(_escape, raw)
    return raw.decode()


def _escape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if len(code) == 3:
        return bytes([int(code[1:], 16)])
    return _ESCAPED.get(code, code)


@dataclass
class Script:
    """A script's run, and the commands of it that write to its session."""

    name: str
    session_id: str
    principal: str
    args: tuple[str, ...]
    at: float
    #: (command, kind of key, the other words)
    writes: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)

    def of(self, command: str, kind: str) -> list[tuple[str, ...]]:
        return [words for name, key, words in self.writes if (name, key) == (command, kind)]


@dataclass
class Known:
    """A session as its writes have left it."""

    owner: str
    version: int = 1
    fence: int = 0
    lease: str | None = None
    lease_until: float = 0.0
    #: The last heartbeat of the lease's holder.
    heard_at: float = 0.0
    #: By their names, the fences that they began with; not those that only went on with one.
    turns: list[int] = field(default_factory=list)
    #: `once` calls that ran: which attempt, by the call's key.
    once: dict[str, str] = field(default_factory=dict)
    is_deleted: bool = False
    #: The turn that runs was asked to stop for another message.
    is_stopped: bool = False
    messages: list[str] = field(default_factory=list)
    #: Of each message, the fence that wrote it.
    fences: list[int] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    #: Redis' time at which it was read as it stands; what was done before is in it.
    since: float = 0.0


class Audit:
    """Feed it lines; what breaks a rule goes to the tally."""

    def __init__(self, tally: Tally) -> None:
        self.sessions: dict[str, Known] = {}
        self.markers: set[str] = set()
        #: Redis' own order was lost sight of: judge nothing until `rebase`.
        self.is_blind = False
        #: Set, and for the taker to clear, when a `once` call is about to run.
        self.once_begun = asyncio.Event()
        self._tally = tally
        self._names = {script.sha: name for name, script in load_scripts().items()}
        self._unknown: set[str] = set()
        self._script: Script | None = None

    def feed(self, line: Line) -> None:
        name = line.words[0].lower() if line.words else ""
        if line.source == "lua":
            if self._script is not None:
                self._add(self._script, name, line.words[1:])
                self._tell_of_once(self._script)
            return
        self.flush()
        if name in {"eval", "evalsha"}:
            self._script = self._begun(line, name)
        elif name == "echo":
            self.markers.add(line.words[1])

    def flush(self) -> None:
        """The script that ran last is complete."""
        script, self._script = self._script, None
        if script is not None and not self.is_blind:
            self._judge(script)

    def rebase(self, session_id: str, seen: Known) -> None:
        """Sight was lost, or another is master now: go on from `seen`, and count what is gone."""
        known = self.sessions.setdefault(session_id, Known(seen.owner))
        kept = {event[0] for event in seen.events}
        # Events before the oldest one were trimmed; if there are none, they have expired.
        oldest = event_order(seen.events[0][0]) if seen.events else (math.inf, 0)
        gone = {
            each[0]
            for each in known.events
            if each[0] not in kept and event_order(each[0]) > oldest
        }
        self._tally.figures["events lost by failovers"] += len(gone)
        if not seen.is_deleted:
            # A tombstone has no version.
            self._tally.figures["writes lost by failovers"] += max(0, known.version - seen.version)
        log = {each[0]: each for each in known.events if each[0] not in gone}
        log.update({each[0]: each for each in seen.events})
        seen.events = sorted(log.values(), key=lambda each: event_order(each[0]))
        seen.fences = [0] * len(seen.messages)
        # `seen` has the latest only.
        older = [turn for turn in known.turns if not seen.turns or turn < seen.turns[0]]
        seen.turns = older + seen.turns
        self.sessions[session_id] = seen

    def forget(self, session_id: str) -> None:
        """A failover took back the session itself."""
        del self.sessions[session_id]
        self._tally.figures["sessions lost by failovers"] += 1

    def _begun(self, line: Line, how: str) -> Script | None:
        words = line.words
        sha = words[1] if how == "evalsha" else hashlib.sha1(words[1].encode()).hexdigest()
        name = self._names.get(sha)
        if name is None:
            if sha not in self._unknown and _KEY.fullmatch(words[3]):
                self._unknown.add(sha)
                what = f"a script that is not known, {sha}: was the code changed meanwhile?"
                self._tally.check("logs", False, what)
            return None
        args = words[3 + int(words[2]) :]
        return Script(name, args[1], args[0], args[_SHARED:], line.at)

    def _add(self, script: Script, command: str, words: Sequence[str]) -> None:
        match = _KEY.fullmatch(words[0]) if words else None
        is_renewal = command == "pexpire" and match is not None and match[2] == "lease"
        if match is None or not (command in _WRITES or is_renewal):
            return
        if command == "del":
            kinds = [found[2] for key in words if (found := _KEY.fullmatch(key))]
            script.writes += [("del", kind, ()) for kind in kinds]
        else:
            script.writes.append((command, match[2], tuple(words[1:])))

    def _tell_of_once(self, script: Script) -> None:
        # At once: the call runs as soon as its worker has the reply.
        if _runs_once(script):
            self.once_begun.set()

    # The rules.

    def _judge(self, script: Script) -> None:
        known = self.sessions.get(script.session_id)
        if known is None:
            if script.name == "create" and script.writes:
                self.sessions[script.session_id] = Known(script.principal)
            return
        if script.at <= known.since:
            return
        say = f"{script.name} at {script.at:.6f}, {known.lease=}, args {script.args[:3]}"
        if script.principal != known.owner and script.name not in {"unarchived", "archived"}:
            self._check("8", not script.writes, f"another principal wrote: {say}", script)
        if known.is_deleted:
            self._check("deleted", not script.writes, f"written behind its end: {say}", script)
            return
        if script.name == "delete":
            known.is_deleted = bool(script.writes)
            return
        if script.name in _HOLDERS:
            self._judge_holder(script, known, say)
        self._judge_once(script, known, say)
        self._judge_version(script, known, say)
        if script.name == "hand_over" and script.writes:
            self._judge_handover(script, known, say)
        elif script.of("set", "lease"):
            self._judge_grant(script, known, say)
        elif script.name == "begin" and script.of("del", "lease"):
            self._judge_given_up(script, known, say)
        elif script.name == "interrupt":
            known.is_stopped |= bool(script.of("hset", "meta"))
        self._judge_lease_end(script, known)
        self._judge_log(script, known, say)

    def _judge_holder(self, script: Script, known: Known, say: str) -> None:
        lease = script.args[0]
        if not script.writes:
            self._tally.figures["writes refused"] += known.lease not in {lease, _handed(lease)}
            return
        self._check("1", lease == known.lease, f"not the holder of the lease: {say}", script)
        self._check(
            "1", script.at <= known.lease_until + _CLOCK, f"behind its lease's end: {say}", script
        )
        if renewed := script.of("pexpire", "lease"):
            known.lease_until = script.at + int(renewed[-1][0]) / 1000
            known.heard_at = script.at

    def _judge_once(self, script: Script, known: Known, say: str) -> None:
        if _runs_once(script):
            key, attempt = script.args[1], script.args[4]
            is_first = known.once.setdefault(key, attempt) == attempt
            self._check("5", is_first, f"{key} runs again: {say}", script)
            self._tally.figures["once calls begun"] += 1
        elif script.name == "tool_end" and script.of("hdel", "tools"):
            # It has not run after all.
            known.once.pop(script.args[1], None)

    def _judge_version(self, script: Script, known: Known, say: str) -> None:
        grown = [int(words[1]) for words in script.of("hincrby", "meta") if words[0] == "version"]
        after = [known.version + by for by in grown]
        for words in script.of("hset", "meta"):
            fields = dict(zip(words[::2], words[1::2], strict=True))
            after += [int(fields["version"])] if "version" in fields else []
            if script.of("set", "lease") and "turn_outcome" in fields:
                self._tally.figures[f"turns {fields['turn_outcome']}"] += 1
        is_write = bool(
            script.of("rpush", "msgs") or script.of("set", "lease") or script.of("del", "lease")
        )
        is_write |= script.name == "commit" and bool(script.writes)
        wanted = [known.version + 1] if is_write else []
        if is_write or after:
            what = f"version {known.version} -> {after}, wanted {wanted}: {say}"
            self._check("2", after == wanted, what, script)
        if after:
            known.version = after[-1]

    def _judge_grant(self, script: Script, known: Known, say: str) -> None:
        [(value, _px, ms)] = script.of("set", "lease")
        fence = int(value.partition("|")[0])
        is_free = known.lease is None or script.at >= known.lease_until - _CLOCK
        turn = script.args[_TAKEN_OVER]
        is_resumed = bool(turn) or "RESUME" in [
            word for words in script.of("hset", "meta") for word in words
        ]
        if is_resumed or known.is_stopped:
            how = "freed" if is_free else "left silent"
            if known.lease is not None and _is_handed(known.lease):
                is_free, how = True, "handed over"
            is_free |= _is_silent(script, known)
            self._tally.figures[f"turns taken over: {how}"] += bool(turn)
        if turn:
            what = f"{turn} is taken over, and the last turn is {known.turns[-1:]}: {say}"
            self._check("1", int(turn) in known.turns[-1:], what, script)
        self._check("1", is_free, f"granted while another holds it: {say}", script)
        self._check("1", fence > known.fence, f"fence {known.fence} -> {fence}: {say}", script)
        known.fence, known.lease, known.is_stopped = fence, value, False
        known.lease_until, known.heard_at = script.at + int(ms) / 1000, script.at
        known.turns += [fence] * any("turn_event" in words for words in script.of("hset", "meta"))

    def _judge_given_up(self, script: Script, known: Known, say: str) -> None:
        """A turn that kills its workers ends under a fence of its own, which has no holder."""
        [fence] = [
            int(words[words.index("fence") + 1])
            for words in script.of("hset", "meta")
            if "fence" in words
        ]
        is_free = known.lease is None or script.at >= known.lease_until - _CLOCK
        is_free |= _is_silent(script, known)
        self._check("1", is_free, f"given up while another holds it: {say}", script)
        self._check("1", fence > known.fence, f"fence {known.fence} -> {fence}: {say}", script)
        known.fence = fence
        self._tally.figures["turns given up"] += 1

    def _judge_handover(self, script: Script, known: Known, say: str) -> None:
        """The lease is kept for the next holder of the turn; no worker can write under it."""
        [(value, _px, ms)] = script.of("set", "lease")
        self._check("1", value == _handed(script.args[0]), f"handed over as {value}: {say}", script)
        known.lease, known.lease_until = value, script.at + int(ms) / 1000
        self._tally.figures["turns handed over"] += 1

    def _judge_lease_end(self, script: Script, known: Known) -> None:
        if script.of("del", "lease"):
            known.lease = None
            self._tally.figures["turns done"] += script.name == "commit"

    def _judge_log(self, script: Script, known: Known, say: str) -> None:
        for words in script.of("rpush", "msgs"):
            is_allowed = script.name in {"begin", "commit"}
            self._check("3", is_allowed, f"who appends to the history? {say}", script)
            known.messages += words
            known.fences += [known.fence] * len(words)
        for words in script.of("xadd", "ev"):
            *_, event_id, _e, name, _d, data = words
            last = event_order(known.events[-1][0]) if known.events else (0.0, 0)
            if event_order(event_id) <= last:
                # Refused by the stream itself: a repetition after a lost reply.
                self._tally.figures["events repeated and refused"] += 1
                continue
            what = f"event {event_id} under the fence {known.fence}: {say}"
            self._check("1", event_order(event_id)[0] == known.fence, what, script)
            known.events.append((event_id, name, data))

    def _check(self, invariant: str, holds: bool, what: str, script: Script) -> None:
        self._tally.check(invariant, holds, what, script.session_id)


def _is_silent(script: Script, known: Known) -> bool:
    """Whether the holder was not heard of for as long as this `begin` asks."""
    silent_ms = script.args[_SILENT_MS]
    return bool(silent_ms) and script.at - known.heard_at >= int(silent_ms) / 1000 - _CLOCK


def _runs_once(script: Script) -> bool:
    """Whether it lets a `once` call run: an UNKNOWN one is written down as well."""
    if script.name != "tool_begin" or script.args[2] != "once":
        return False
    return any(json.loads(record)["state"] == "pending" for _, record in script.of("hset", "tools"))


def _handed(lease: str) -> str:
    fence, _, nonce = lease.partition("|")
    return f"{fence}|handed.{nonce}"


def _is_handed(lease: str) -> bool:
    return "|handed." in lease


def event_order(event_id: str) -> tuple[float, int]:
    fence, _, seq = event_id.partition("-")
    return int(fence), int(seq)
