"""The rest of a request whose client has left, where its route lets the server finish it.

It replaces the exchange as the server's sink: it discards the response. The lease is held until the
end of the server's work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.errors import InvalidBody
from hermes_lb.http import make_body
from hermes_lb.proxy.ports import ResponseSink

if TYPE_CHECKING:
    import asyncio

    from hermes_lb.backends import Lease
    from hermes_lb.errors import ServerFailed
    from hermes_lb.http import Body, ResponseHead
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import ServerSide


class Abandoned(ResponseSink):
    """`method`: of the request. `limit`: seconds for all of it; None: as long as bytes arrive.

    `about`: what `inflight` shows of the exchange at its end, which is `left_at`.
    """

    __slots__ = (
        "_chunks",
        "_chunks_before",
        "_context",
        "_lease",
        "_limit",
        "_silence",
        "_method",
        "_timer",
        "_upstream",
        "about",
        "left_at",
    )

    def __init__(
        self,
        context: Context,
        upstream: ServerSide,
        lease: Lease,
        method: bytes,
        silence: float,
        limit: float | None,
        about: dict[str, Any],
    ) -> None:
        self.about = about
        self.left_at = context.clock()
        self._chunks = 0  # of the response
        self._chunks_before = 0  # at the last look of the timer
        self._context = context
        self._upstream = upstream
        self._lease = lease
        self._method = method
        self._silence = silence
        self._limit = limit
        wait = silence if limit is None else limit
        self._timer: asyncio.TimerHandle = context.loop.call_later(wait, self._expired)
        upstream.pass_to(self)
        # The client may have been slow, before it left.
        upstream.resume_reading()

    def __repr__(self) -> str:
        return f"<Abandoned {self._method.decode()} at {self._upstream.server.name}>"

    @property
    def progress(self) -> tuple[float, int]:
        return self.left_at, self._chunks

    @property
    def is_over(self) -> bool:
        return self._upstream.sink is not self

    def describe(self, now: float) -> dict[str, Any]:
        return {
            **self.about,
            "client": None,
            "kind": "detached",
            "phase": "D" if self._upstream.body is not None else "H",
            "seconds": round(self.about["seconds"] + now - self.left_at, 3),
        }

    def shut_down(self) -> None:
        """The server sees its client leave."""
        self._end(is_clean=False)

    def response_head(self, upstream: ServerSide, head: ResponseHead, rest: bytes) -> None:
        length = head.body_length(self._method)
        body = make_body(length, to_http11=True)
        upstream.expect(body)
        if head.status == 101:
            self._end(is_clean=False)
        elif body.is_done:
            self._end(is_clean=not rest)
        elif rest:
            self.response_data(upstream, body, rest)

    def response_data(self, upstream: ServerSide, body: Body, data: bytes) -> None:
        self._chunks += 1
        try:
            body.feed(data)
        except InvalidBody:
            self._end(is_clean=False)
            return
        if body.is_done:
            self._end(is_clean=not body.excess)

    def response_ended(self, body: Body, error: Exception | None) -> None:
        self._end(is_clean=False)

    def informational(self, head: ResponseHead) -> bool:
        return True

    def server_failed(self, error: ServerFailed) -> None:
        self._end(is_clean=False)

    def not_sent(self) -> None:
        self._end(is_clean=False)

    def server_is_slow(self) -> None:
        """Nothing more is sent to it."""

    def server_caught_up(self) -> None:
        """Nothing more is sent to it."""

    def _expired(self) -> None:
        if self._limit is None and self._chunks != self._chunks_before:
            self._chunks_before = self._chunks
            self._timer = self._context.loop.call_later(self._silence, self._expired)
        else:
            self._end(is_clean=False)

    def _end(self, *, is_clean: bool) -> None:
        self._timer.cancel()
        if self._upstream.sink is self:
            self._upstream.give_back(self._context.clock(), is_clean)
        self._lease.release()
