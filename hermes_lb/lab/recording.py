"""Recorded traffic as sessions, and workloads from it.

A session is a closed loop: a call comes a pause after another one of it has ended, so it can be
played to a fleet that is slower or faster than the recorded one. A pause of more than `IDLE` ends a
session.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf, isnan, nan
from typing import TYPE_CHECKING, Final, NamedTuple

from hermes_lb.lab.prefix_cache import BLOCK
from hermes_lb.lab.workloads import Tokens, Workload, addresses

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from hermes_lb.lab.llm import Model
    from hermes_lb.lab.workloads import Blocks

IDLE: Final = 1800.0  # seconds; 30 minutes, as web analytics have it
START: Final = -1  # what the first call of a session comes after
#: Blocks from this number on belong to one session; those below are shared by several.
PRIVATE: Final = 1 << 40
_COPY: Final = 1 << 44  # between the blocks of a session and those of its copy


class Call(NamedTuple):
    """A request of a session; 0: unknown."""

    after: int  # the place of an earlier call of the session, or START
    pause: float  # seconds between its end and this call
    first: float = 0.0  # seconds of work until the first byte
    length: float = 0.0  # seconds of all of its work
    input: int = 0  # tokens
    output: int = 0
    blocks: Blocks = ()  # of the input


class Session(NamedTuple):
    user: str
    start: float  # seconds since the recording's start; NaN: not recorded
    calls: Sequence[Call]


@dataclass(slots=True)
class Recording:
    """A trace that was read. `text`: what it is, in a sentence or two."""

    sessions: list[Session]
    text: str
    servers: list[str] = field(default_factory=list)  # of each request, as logged
    is_llm: bool = True  # its calls have tokens; otherwise seconds

    def __post_init__(self) -> None:
        if not self.sessions:
            raise ValueError("it has no request")

    @property
    def requests(self) -> int:
        return sum(len(session.calls) for session in self.sessions)

    @property
    def has_starts(self) -> bool:
        return not isnan(self.sessions[0].start)

    @property
    def seconds(self) -> float:
        """From the first session's start to the last one's."""
        starts = [session.start for session in self.sessions]
        return max(starts) - min(starts) if self.has_starts else 0.0

    def first(self, requests: int | None) -> Recording:
        """The first sessions, with this number of requests."""
        if requests is None or requests >= self.requests:
            return self
        kept: list[Session] = []
        count = 0
        for session in self.sessions:
            calls = session.calls[: requests - count]
            kept.append(session._replace(calls=calls))
            count += len(calls)
            if count >= requests:
                break
        return Recording(kept, self.text, self.servers, self.is_llm)

    def work(self, model: Model) -> float:
        """The average session's work, in seconds of a server of which all slots are occupied.

        Prefixes of a session's own calls are in the cache.
        """
        total = 0.0
        for session in self.sessions:
            stops: dict[int, int] = {}
            for call in session.calls:
                if self.is_llm:
                    new = uncached(call.input, call.blocks, stops)
                    total += model.work(new, call.output)
                else:
                    total += call.length / max(1, model.slots)
        return total / len(self.sessions)


def uncached(tokens: int, blocks: Blocks, stops: dict[int, int]) -> int:
    """Input tokens that are not in its session's earlier calls, of which `stops` has the blocks:
    the end of each range, by its start."""
    found = 0
    for some in blocks:
        known = min(some.stop, stops.get(some.start, some.start))
        found += known - some.start
        if known < some.stop:
            break
    for some in blocks:
        stops[some.start] = max(some.stop, stops.get(some.start, 0))
    return max(1, tokens - found * BLOCK)


def as_recorded(recording: Recording, speed: float) -> Workload:
    """Each session once, at its time."""
    starts = [session.start / speed for session in recording.sessions]
    order = sorted(range(len(starts)), key=starts.__getitem__)
    return _workload([recording.sessions[i] for i in order], [starts[i] for i in order])


def drawn(
    recording: Recording, rng: Random, *, rate: float | None = None, speed: float = 1.0
) -> Workload:
    """As many sessions as there are, each drawn from the recorded ones independently.

    They start by a Poisson process, `rate` a second. None: when the recorded ones did, by `speed`,
    so bursts stay, and only what starts then is drawn.
    """
    if rate is None:
        starts = sorted(session.start / speed for session in recording.sessions)
    else:
        starts, now = [], 0.0
        for _ in recording.sessions:
            now += rng.expovariate(rate)
            starts.append(now)
    return _workload([rng.choice(recording.sessions) for _ in starts], starts)


def _workload(sessions: Sequence[Session], starts: Sequence[float]) -> Workload:
    """`starts` in order."""
    firsts, lengths, arrivals = array("d"), array("d"), array("d")
    users, inputs, outputs = array("L"), array("L"), array("L")
    blocks: list[Blocks] = []
    heads: list[tuple[float, int]] = []
    followers: dict[int, list[tuple[int, float]]] = {}
    copies: dict[int, int] = {}
    for user, (session, start) in enumerate(zip(sessions, starts, strict=True)):
        base = len(arrivals)
        copy = copies[id(session)] = copies.get(id(session), -1) + 1
        for place, call in enumerate(session.calls):
            number = base + place
            arrives = nan
            if call.after == START:
                arrives = start + call.pause
                heads.append((arrives, number))
            else:
                followers.setdefault(base + call.after, []).append((number, call.pause))
            arrivals.append(arrives)
            firsts.append(call.first)
            lengths.append(call.length)
            users.append(user)
            inputs.append(call.input)
            outputs.append(call.output)
            blocks.append(_copied(call.blocks, copy))
    heads.sort()
    return Workload(
        arrivals,
        firsts,
        lengths,
        users,
        addresses(len(sessions)),
        [number for _, number in heads],
        followers,
        Tokens(inputs, outputs, blocks),
    )


def _copied(blocks: Blocks, copy: int) -> Blocks:
    """The same blocks, but the private ones are another session's."""
    if not copy:
        return blocks
    more = copy * _COPY
    return tuple(
        range(some.start + more, some.stop + more) if some.start >= PRIVATE else some
        for some in blocks
    )


class Threads:
    """Requests of one session or client, in order of their start, as a closed loop.

    A request comes after the latest one that had ended before; requests at the same time are
    threads of the same session.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.began = 0.0
        self._latest = -inf  # end of all
        self._running: list[tuple[float, int]] = []  # ends and places of those that had not ended
        self._last = -inf, START  # end and place of the latest that had

    def is_over(self, at: float) -> bool:
        """True if a request at this time begins another session: the last one ended long ago."""
        return bool(self.calls) and at - self._latest > IDLE

    def add(self, at: float, seconds: float, call: Call) -> None:
        """The call begins at `at` and ends `seconds` later; its `after` and `pause` are set."""
        if not self.calls:
            self.began = at
            self._last = at, START
        while self._running and self._running[0][0] <= at:
            self._last = heappop(self._running)
        end, after = self._last
        heappush(self._running, (at + seconds, len(self.calls)))
        self._latest = max(self._latest, at + seconds)
        self.calls.append(call._replace(after=after, pause=at - end))
