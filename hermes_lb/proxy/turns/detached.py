"""An exchange whose client has left, and whose turn goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hermes_lb.proxy.ports import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.proxy.live import LiveConnections
    from hermes_lb.proxy.ports import Peer, ResponseSink, TurnRequest


class Detached(Connection):
    """It stands where its client's connection stood, for the sweep and the operator.

    `deadline`: when it is cut, in monotonic seconds, unless it is followed: `expired` is called,
    and sets another one.
    """

    __slots__ = ("_exchange", "_expired", "_live", "deadline", "peer")

    def __init__(
        self,
        exchange: TurnRequest,
        peer: Peer,
        live: LiveConnections,
        deadline: float,
        expired: Callable[[], None],
    ) -> None:
        self.peer = peer
        self.deadline = deadline
        self._exchange: TurnRequest | None = exchange
        self._live = live
        self._expired = expired
        live.detached.add(self)

    def __repr__(self) -> str:
        return f"<Detached {self._exchange!r}>"

    @property
    def is_idle(self) -> bool:
        return False

    def exchanges(self) -> tuple[ResponseSink, ...]:
        return () if self._exchange is None else (cast("ResponseSink", self._exchange),)

    def sweep(self, now: float) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if now >= self.deadline:
            self.deadline = float("inf")
            self._expired()
        else:
            exchange.sweep(now)

    def close_gracefully(self, now: float) -> None:
        """It has no client that could wait for another response."""

    def shut_down(self) -> None:
        if self._exchange is not None:
            self._exchange.shut_down()

    def close(self) -> None:
        self.shut_down()

    def abort(self) -> None:
        self.shut_down()

    def leave(self) -> None:
        """Its exchange has ended."""
        self._exchange = None
        self._live.detached.discard(self)
        self._live.connection_gone()
