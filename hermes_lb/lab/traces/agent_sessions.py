"""Model calls of coding agents: `agent_sessions.csv`, from callanjfox/kv-cache-tester (Apache-2.0).

A row is a call: `session, agent, t, new, input_tokens, output_tokens, prefix_tokens, api_s,
think_s`, in order of each session. `prefix_tokens` of the input are those of the same agent's call
before. A sub-agent (`agent`) has a loop and a prefix of its own; its first call comes after the
latest of its session's that had ended before. Starts of sessions are not recorded.
"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, Final

from hermes_lb.lab.prefix_cache import BLOCK
from hermes_lb.lab.recording import IDLE, PRIVATE, START, Call, Recording, Session
from hermes_lb.lab.traces.columns import number, rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_lb.lab.workloads import Blocks

_COLUMNS: Final = (
    "session", "agent", "t", "input_tokens", "output_tokens", "prefix_tokens", "api_s", "think_s",
)  # fmt: skip
_AGENT: Final = 1 << 20  # blocks between those of two agents


def is_first(line: str) -> bool:
    return set(_COLUMNS) <= {name.strip() for name in line.split(",")}


def read(lines: Iterable[str]) -> Recording:
    sessions: list[Session] = []
    loops: dict[str, _Loop] = {}
    calls: list[Call] = []
    ends: list[float] = []  # of `calls`, as recorded
    name, agents, names = "", 0, 0
    for line, (session, agent, *texts) in rows(lines, _COLUMNS):
        t, total, output, prefix, seconds, think = (number(text, line) for text in texts)
        is_new = session != name
        if is_new:
            name, names = session, names + 1
        if is_new or (ends and t - max(ends) > IDLE):
            calls, ends = [], []
            sessions.append(Session(f"{names}.{len(sessions)}", nan, calls))
            loops = {}
        loop = loops.get(agent)
        if loop is None:
            loop = loops[agent] = _Loop(PRIVATE + agents * _AGENT)
            agents += 1
            ended = [(end, place) for place, end in enumerate(ends) if end <= t]
            end, after = max(ended, default=(t, START))
            pause = t - end
        else:
            after, pause = loop.last, think
        blocks = loop.next(int(total), int(prefix))
        loop.last = len(calls)
        calls.append(Call(after, pause, 0.0, seconds, int(total), max(1, int(output)), blocks))
        ends.append(t + seconds)
    recording = Recording(sessions, "")
    recording.text = (
        f"{recording.requests:,} model calls of {names:,} recorded sessions of coding agents; a "
        f"pause of more than {IDLE / 60:g} minutes begins another session."
    )
    return recording


class _Loop:
    """The calls of one agent: the blocks of each one's input, by what it shares with the last."""

    def __init__(self, first: int) -> None:
        self.last = START
        self._free = first
        self._blocks: Blocks = ()

    def next(self, tokens: int, prefix: int) -> Blocks:
        kept: list[range] = []
        left = prefix // BLOCK
        for some in self._blocks:
            if left <= 0:
                break
            kept.append(some[:left])
            left -= len(kept[-1])
        new = -(-tokens // BLOCK) - sum(map(len, kept))
        if new > 0:
            fresh = range(self._free, self._free + new)
            self._free = fresh.stop
            if kept and kept[-1].stop == fresh.start:
                kept[-1] = range(kept[-1].start, fresh.stop)
            else:
                kept.append(fresh)
        self._blocks = tuple(kept)
        return self._blocks
