"""One turn's stream, read as a balancer does: its worker may die, and another one goes on with it.

`X-Hermes-Resume` and the last id are all that it takes along (docs/unbroken-streams.md).
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.chaos_sessions.audit import event_order
from bench.chaos_sessions.reading import (
    LOST,
    Event,
    Followed,
    Transcript,
    check_piece,
    is_within,
    read_events,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import aiohttp

    from bench.chaos_sessions.clients import Crowd
    from bench.chaos_sessions.reading import Logged
    from bench.chaos_sessions.tally import Tally

ACCEPT = {"Accept": "text/event-stream", "X-Hermes-Handover": "accept"}
# Errors without an id that say nothing of the turn: its worker, or the way to Redis, is lost.
_NOT_ITS_END = {"lease_lost", "store_unavailable"}
# Share of the connections that we leave during the turn, and after how many events.
_LEFT, _LEFT_AFTER = 0.2, (1, 30)


@dataclass
class TurnStream:
    """What one client has of one turn, from its first event on, over all of its connections."""

    #: The fence with which it began.
    turn: int
    heard: Followed = field(default_factory=Followed)


def check_stream(
    tally: Tally,
    session_id: str,
    stream: TurnStream,
    log: Sequence[Logged],
    turns: Sequence[int],
    failovers: Sequence[tuple[float, float]] = (),
) -> None:
    """It is, event by event, what the log has of its turn; with its `done`, all of that.

    `turns` are the fences with which the session's turns began. What a failover took back while
    the stream went on may be missing at its ends. The `error` of an attempt that the client
    repeated may be missing, too (`agent_worker.runtime.turn_takeover`).
    """
    heard = stream.heard
    end = min((turn for turn in turns if turn > stream.turn), default=math.inf)
    of_turn = [each for each in log if stream.turn <= event_order(each[0])[0] < end]
    of_turn = [
        each
        for each in of_turn
        if each[1] != "error" or each is of_turn[-1] or each[0] in heard.came_at
    ]
    check_piece(tally, "resumed", session_id, heard, of_turn, failovers)
    if heard.last is None or any(is_within(failovers, at) for at in heard.came_at.values()):
        return
    first, last = heard.segments[0][0].id, heard.last.id
    what = f"the stream of {stream.turn} is {first} to {last}, and the log {of_turn[:1]} to"
    is_whole = bool(of_turn) and first == of_turn[0][0]
    is_whole &= heard.last.name != "done" or last == of_turn[-1][0]
    tally.check("resumed", is_whole, f"{what} {of_turn[-1:]}", session_id)


class TurnReader:
    """`hear` the first response, if there is one; then `go_on` until the turn is over."""

    def __init__(self, crowd: Crowd, authorization: Mapping[str, str], path: str) -> None:
        """`path` is what `X-Hermes-Resume` said."""
        self.stream = TurnStream(int(path.rpartition("=")[2]))
        self.transcript = Transcript()
        self._end: Event | None = None
        self._crowd = crowd
        self._authorization = authorization
        self._path = path
        self._last_id = ""
        self._connections = 0

    async def hear(self, response: aiohttp.ClientResponse) -> None:
        """To the end of the turn, or of the connection; perhaps we leave before. Closes it."""
        figures, rng = self._crowd.tally.figures, self._crowd.rng
        left = rng.randint(*_LEFT_AFTER) if rng.random() < _LEFT else -1
        self._connections += 1
        try:
            async for event in read_events(response):
                if event.name == "handover":
                    figures["streams handed over"] += 1
                    is_ours = not event.id and event.data == {"turn": str(self.stream.turn)}
                    self._crowd.tally.check("resumed", is_ours, f"{self._path}: {event}")
                    return
                if event.name == "error" and not event.id and event.data["code"] in _NOT_ITS_END:
                    return
                self._add(event)
                if event.name in {"done", "error"}:
                    self._end = event
                    return
                left -= 1
                if left == 0:
                    figures["streams left by their client"] += 1
                    return
        except LOST:
            figures["streams broken"] += 1
        finally:
            response.close()

    async def go_on(self) -> Event:
        """At one worker and then another, until the turn is over: its last event.

        In its place a refusal, named by its status: the turn or its events are not there any more.
        """
        while self._end is None:
            headers = {**self._authorization, **ACCEPT}
            if self._last_id:
                headers["Last-Event-ID"] = self._last_id
            with contextlib.suppress(*LOST):
                url = self._crowd.at(self._path)
                async with self._crowd.http.get(url, headers=headers) as response:
                    if response.status in {404, 410}:
                        self._end = Event("", str(response.status), await response.text())
                    elif response.status == 200:
                        await self.hear(response)
            if self._end is None:
                await self._crowd.pause()
        is_resumed = self._connections > 1 and self._end.name == "done"
        self._crowd.tally.figures["streams resumed to their end"] += is_resumed
        return self._end

    def _add(self, event: Event) -> None:
        self._last_id = event.id or self._last_id
        self.stream.heard.add(event, time.monotonic())
        self.transcript.add(event)
