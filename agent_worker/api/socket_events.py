"""A session's events on their way from the log to one socket: in order, each once, while wanted."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING

from agent_worker.errors import AgentError, StoreUnavailable
from agent_worker.runtime.events import DONE, ERROR, error_data, unlogged
from agent_worker.sessions.event_log import event_order

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.runtime import Tail
    from agent_worker.runtime.events import Emit

# While Redis is away, and a turn of this worker still waits for it.
_STORE_RETRY_S = 0.25


class SocketEvents:
    """`run` sends what has been asked for, and returns; it may be asked for more meanwhile.

    `on_end` is called behind each `done` or `error` of the log. `is_hopeful`: whether to wait for
    Redis when it is away.
    """

    def __init__(
        self,
        tail: Tail,
        session_id: str,
        principal: str,
        send: Emit,
        *,
        on_end: Callable[[], None],
        is_hopeful: Callable[[], object],
    ) -> None:
        self._tail = tail
        self._session_id = session_id
        self._principal = principal
        self._send = send
        self._on_end = on_end
        self._is_hopeful = is_hopeful
        self._starts: deque[str | None] = deque()
        # How many ends of turns are waited for; or whether the end of all that runs is.
        self._ends = 0
        self._until_idle = False
        self._last: str | None = None
        #: How many events were sent.
        self.sent = 0

    def __repr__(self) -> str:
        return f"SocketEvents(behind {self._last}, {self._ends} ends awaited)"

    def want_turn(self, name: str) -> None:
        """The events of a turn that has begun, to its end."""
        self._starts.append(f"{name}-0")
        self._ends += 1

    def want_rest(self, after: str | None) -> None:
        """Those behind `after` (None: of the turn that runs), until nothing runs any more.

        The client has `after`, and nothing before it is sent from now on.
        """
        self._last = after
        self._starts.append(after)
        self._until_idle = True

    @property
    def last(self) -> str | None:
        """The last event that was sent."""
        return self._last

    async def run(self) -> None:
        """Raises ConnectionError when the client has left, or does not read."""
        try:
            while self._starts and (self._ends or self._until_idle):
                await self._follow(self._starts.popleft())
        except AgentError as error:
            await self._send(unlogged(ERROR, error_data(error)))
            self.sent += 1
        finally:
            self._starts.clear()
            self._ends, self._until_idle = 0, False

    async def _follow(self, after: str | None) -> None:
        while True:
            if self._last is not None and (
                after is None or event_order(after) < event_order(self._last)
            ):
                after = self._last
            try:
                await self._follow_from(after)
            except StoreUnavailable:
                if not self._is_hopeful():
                    raise
                await asyncio.sleep(_STORE_RETRY_S)
            else:
                return

    async def _follow_from(self, after: str | None) -> None:
        events = self._tail.follow(self._session_id, self._principal, after, until_idle=True)
        async with aclosing(events):
            async for event in events:
                if event is None:
                    continue
                await self._send(event)
                self.sent += 1
                if not event.id:
                    continue
                self._last = event.id
                if event.name in {DONE, ERROR}:
                    self._on_end()
                    self._ends = max(self._ends - 1, 0)
                    if not self._ends and not self._until_idle:
                        return
        # Nothing runs: what was wanted has come, or never will, but for turns that begin just now.
        self._ends, self._until_idle = len(self._starts), False
