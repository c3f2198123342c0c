"""Sends a session's events from the log to one socket: in order, each once, while wanted."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from agent_worker.errors import AgentError, StoreUnavailable
from agent_worker.runtime.events import DONE, ERROR, error_event
from agent_worker.sessions.event_log import event_order

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.runtime import Tail
    from agent_worker.runtime.events import Emit

# Seconds between two attempts while Redis is away.
_STORE_RETRY_S = 0.25


@dataclass(eq=False)
class SocketEvents:
    """`run` sends what is wanted, and returns; more may be wanted meanwhile.

    `on_end` is called after each `done` or `error` of the log. `waits_for_store`: whether to wait
    for Redis while it is away.
    """

    tail: Tail
    session_id: str
    principal: str
    send: Emit
    _: KW_ONLY
    on_end: Callable[[], None]
    waits_for_store: Callable[[], object]
    _starts: deque[str | None] = field(default_factory=deque, init=False)
    # The number of ends of turns that are wanted; or whether to run until the session is idle.
    _ends: int = field(default=0, init=False)
    _until_idle: bool = field(default=False, init=False)
    #: The id of the last event sent.
    last: str | None = field(default=None, init=False)
    #: The number of events sent.
    sent: int = field(default=0, init=False)

    def __repr__(self) -> str:
        return f"SocketEvents(behind {self.last}, {self._ends} ends awaited)"

    def want_turn(self, name: str) -> None:
        """Send the events of a turn that has begun, to its end."""
        self._starts.append(f"{name}-0")
        self._ends += 1

    def want_rest(self, after: str | None) -> None:
        """Send the events after `after` (None: of the running turn) until no turn runs.

        The client has `after`, so earlier events are not sent.
        """
        self.last = after
        self._starts.append(after)
        self._until_idle = True

    async def run(self) -> None:
        """Raises ConnectionError when the client has left, or does not read."""
        try:
            while self._starts and (self._ends or self._until_idle):
                await self._follow(self._starts.popleft())
        except AgentError as error:
            await self.send(error_event(error))
            self.sent += 1
        finally:
            self._starts.clear()
            self._ends, self._until_idle = 0, False

    async def _follow(self, after: str | None) -> None:
        while True:
            if self.last is not None and (
                after is None or event_order(after) < event_order(self.last)
            ):
                after = self.last
            try:
                await self._follow_from(after)
            except StoreUnavailable:
                if not self.waits_for_store():
                    raise
                await asyncio.sleep(_STORE_RETRY_S)
            else:
                return

    async def _follow_from(self, after: str | None) -> None:
        events = self.tail.follow(self.session_id, self.principal, after, until_idle=True)
        async with aclosing(events):
            async for event in events:
                if event is None:
                    continue
                await self.send(event)
                self.sent += 1
                if not event.id:
                    continue
                self.last = event.id
                if event.name in {DONE, ERROR}:
                    self.on_end()
                    self._ends = max(self._ends - 1, 0)
                    if not self._ends and not self._until_idle:
                        return
        # No turn runs: nothing more will come, except from turns that are just beginning.
        self._ends, self._until_idle = len(self._starts), False
