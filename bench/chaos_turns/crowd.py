"""The clients: each asks, leaves at random, and comes back at another balancer until it has all."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Self

import aiohttp

from bench.chaos_turns.asking import CLEAN, CUT, LEFT, Answer, Ask, ask
from bench.chaos_turns.heard import DONE, Heard, Turn
from bench.chaos_turns.kinds import KINDS

if TYPE_CHECKING:
    import random
    from collections import Counter
    from collections.abc import Awaitable, Callable, Sequence

    from bench.chaos.balancer import Balancer

# Seconds that a client comes back for: a dead owner's lease (15 s), several times, and queues.
PATIENCE = 120.0
# Seconds of silence until a client comes back: events are fractions of a second apart; in the queue
# of a session there are none.
_SILENCE = 8.0
_SILENCE_IN_A_QUEUE = 40.0
# Of a connection, that its client leaves before its end; at most so often.
_LEAVES = 0.6
_MOST_LEAVES = 3
_PAUSE = (0.0, 0.4)
#: What the balancer answers for its own reasons: to be asked again.
_AGAIN = frozenset((429, 502, 503, 504))
#: Reasons in the body of a 409 or 410 that are final.
_REASONS = (
    "outcome_unknown", "turn_cancelled", "result_not_kept", "ambiguous_event_id",
    "unknown_event_id", "key_reused", "no_such_turn", "an older fence",
)  # fmt: skip


class Crowd:
    """A context manager: all clients of one phase."""

    def __init__(
        self,
        balancers: Sequence[Balancer],
        rng: random.Random,
        uids: itertools.count[int],
        figures: Counter[str],
    ) -> None:
        self.rng = rng
        self.turns: list[Turn] = []
        self.figures = figures
        self.intrusions: list[str] = []  # that were not answered by 404
        self.is_over = False
        self.uids = uids
        self._balancers = balancers
        self._nodes = itertools.count()
        self.http: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        # A connection of its own for each request: what is judged is the turn.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self.http = aiohttp.ClientSession(connector=connector, read_bufsize=2**20)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()

    async def run(self, kinds: Sequence[str], clients: int) -> None:
        """Return when `is_over` and each has finished what it had begun."""
        async with asyncio.TaskGroup() as group:
            for number, kind in zip(range(clients), itertools.cycle(kinds), strict=False):
                group.create_task(self._client(kind, number))

    async def _client(self, kind: str, number: int) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, 2.0))
        while not self.is_over:
            await KINDS[kind](self, number)

    def turn(self, turn: Turn) -> Turn:
        """Keep it, to be judged."""
        turn.began = time.time()
        self.turns.append(turn)
        return turn

    def next_uid(self) -> str:
        return f"u-{next(self.uids)}"

    def url(self, path: str) -> str:
        """At another balancer than the last one."""
        balancer = self._balancers[next(self._nodes) % len(self._balancers)]
        host, port = balancer.address
        return f"http://{host}:{port}{path}"

    async def pause(self) -> None:
        await asyncio.sleep(self.rng.uniform(*_PAUSE))

    # A client of a turn.

    async def follow(
        self,
        turn: Turn,
        *,
        leaves: bool = True,
        until: int | None = None,
        by_path: bool = False,
        also: Callable[[], Awaitable[None]] | None = None,
    ) -> Heard:
        """Ask for the turn, and come back until its end.

        `until`: leave for good after as many events. `by_path`: ask by the path only. `also`: runs
        from the first event on.
        """
        heard = Heard()
        turn.heard.append(heard)
        gives_up_at = time.monotonic() + PATIENCE
        left = 0
        while not heard.end:
            leaves_after = until
            if until is None and leaves and left < _MOST_LEAVES and self.rng.random() < _LEAVES:
                leaves_after = self.rng.randint(-1, turn.question.words)
            asked = self._next_ask(turn, heard, leaves_after, by_path=by_path)
            async with asyncio.TaskGroup() as group:
                if also is not None:
                    group.create_task(also_once(turn, also))
                answer = await ask(self.http, turn, heard, asked)
            self._note(turn, heard, asked, answer)
            if answer.how == LEFT:
                left += 1
                if until is not None:
                    return heard
            self._conclude(turn, heard, asked, answer)
            if not heard.end:
                if time.monotonic() > gives_up_at:
                    heard.end = f"never ended: {answer}"
                await self.pause()
                await asyncio.sleep(min(answer.retry_after, 1.0))
        return heard

    def _next_ask(
        self, turn: Turn, heard: Heard, leaves_after: int | None, *, by_path: bool
    ) -> Ask:
        """One of the ways to come back."""
        ways = []
        can_resume = bool(heard.last_id) and not heard.is_degraded
        if by_path:
            pass
        elif turn.is_get:
            ways.append("EventSource")
        elif turn.key or not heard.connections:
            ways.append("again")
        if can_resume and turn.key and not turn.is_get:
            ways.append("again behind an id")
        if can_resume and turn.resume_path:
            ways.append("path")
        way = self.rng.choice(ways) if ways else "path"
        self.figures[f"requests: {way}"] += 1
        headers = dict(turn.headers)
        after = 0
        if way != "again" and heard.last_id:
            headers["Last-Event-ID"] = heard.last_id
            after = heard.position
        is_path = way == "path"
        return Ask(
            url=self.url(turn.resume_path if is_path else turn.path),
            method="GET" if is_path or turn.is_get else "POST",
            headers=headers,
            body=None if is_path or turn.is_get else turn.question.body,
            after=after,
            leaves_after=leaves_after,
            waits=_SILENCE_IN_A_QUEUE if turn.session else _SILENCE,
        )

    def _note(self, turn: Turn, heard: Heard, asked: Ask, answer: Answer) -> None:
        where = asked.url.removeprefix("http://").partition("/")[0]
        behind = f" behind {asked.after}" if asked.after else ""
        heard.log.append(
            f"{time.time():.2f} {asked.method} {where}{behind}: {answer.status} {answer.how} "
            f"at {heard.position} {answer.text[:80]}"
        )
        self.figures[f"connections: {answer.how}"] += 1
        self.figures["replays"] += answer.is_replay
        if asked.after and answer.status == 200:
            self.figures["streams resumed"] += 1

    def _conclude(self, turn: Turn, heard: Heard, asked: Ask, answer: Answer) -> None:
        """Set `heard.end` if this is one."""
        if answer.how == CLEAN and answer.status == 200:
            # An EventSource comes back once more, and gets a 204.
            if not turn.is_get or not heard.last_id:
                heard.end = DONE
        elif answer.status == 204 or (answer.status == 500 and heard.bodies):
            heard.end = DONE
        elif answer.how in (CUT, LEFT):
            is_lost = not turn.key and not (heard.last_id and turn.resume_path)
            if is_lost or (heard.is_degraded and not turn.key):
                heard.end = "nothing to come back to"
        elif answer.status in _AGAIN:
            if not turn.key and not turn.resume_path:
                heard.end = f"refused: {answer.status}"
        else:
            reason = next((each for each in _REASONS if each in answer.text), answer.text)
            heard.end = f"{answer.status} {reason}"


async def also_once(turn: Turn, also: Callable[[], Awaitable[None]]) -> None:
    """Once the turn has a path, or will not get one."""
    for _ in range(30):
        if turn.resume_path:
            await also()
            return
        await asyncio.sleep(0.1)
