"""Comments that keep a silent stream of a turn open (`sse_keep_alive`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hermes_lb.http.sse import chunk
from hermes_lb.proxy import phases

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import TurnRequest

# One line end and no blank line: a client with an id in effect would see an empty event.
_COMMENT: Final = b": keep-alive\n"


class KeepAlive:
    """After `allowed` seconds of silence a comment is sent, while whole events have been.

    It looks a few times within that time: the clock is not read for each event.
    """

    __slots__ = ("_allowed", "_context", "_exchange", "_is_between_events", "_quiet_since", "_seen",
                 "_timer")  # fmt: skip

    def __init__(
        self,
        exchange: TurnRequest,
        context: Context,
        allowed: float,
        is_between_events: Callable[[], bool],
    ) -> None:
        self._exchange = exchange
        self._context = context
        self._allowed = allowed
        self._is_between_events = is_between_events
        self._seen = -1
        self._quiet_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        exchange = self._exchange
        now = self._context.clock()
        if exchange.bytes_out != self._seen:
            self._seen, self._quiet_since = exchange.bytes_out, now
        elif now - self._quiet_since >= self._allowed and self._may_say():
            framed = chunk(_COMMENT) if exchange.client.takes_chunks else _COMMENT
            exchange.insert(framed)
            self._seen, self._quiet_since = exchange.bytes_out, now
        self._timer = self._context.loop.call_later(self._allowed / 4, self._look)

    def _may_say(self) -> bool:
        return self._exchange.phase == phases.DATA and self._is_between_events()
