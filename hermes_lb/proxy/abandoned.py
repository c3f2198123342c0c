"""The rest of a request whose client has left, where its route lets the server finish it.

It stands where the exchange stood before its server: it takes what comes, and passes on nothing.
The place on the server is held until the end, as its work is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.errors import InvalidBody
from hermes_lb.http import make_body

if TYPE_CHECKING:
    import asyncio

    from hermes_lb.backends import Lease
    from hermes_lb.errors import ServerFailed
    from hermes_lb.http import Body, ResponseHead
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.http1.upstream import UpstreamConnection


class Detached:
    """`method`: of the request. `limit`: seconds for all of it; None: as long as bytes come.

    `about`: what `proxy.sessions` had to tell of the exchange at its end, which is `left_at`.
    `progress` grows with all that comes from the server.
    """

    __slots__ = (
        "_context",
        "_lease",
        "_limit",
        "_method",
        "_seen",
        "_timer",
        "_upstream",
        "about",
        "left_at",
        "progress",
    )

    def __init__(
        self,
        context: Context,
        upstream: UpstreamConnection,
        lease: Lease,
        method: bytes,
        limit: float | None,
        about: dict[str, Any],
    ) -> None:
        self.about = about
        self.left_at = context.clock()
        self.progress = 0
        self._seen = 0  # of `progress`
        self._context = context
        self._upstream = upstream
        self._lease = lease
        self._method = method
        self._limit = limit
        wait = context.timeouts.server if limit is None else limit
        self._timer: asyncio.TimerHandle = context.loop.call_later(wait, self._expired)
        upstream.exchange = self
        # The client may have been slow, before it left.
        upstream.resume_reading()

    def __repr__(self) -> str:
        return f"<Detached {self._method.decode()} at {self._upstream.home.server.name}>"

    @property
    def has_head(self) -> bool:
        """Its response has begun."""
        return self._upstream.body is not None

    @property
    def is_over(self) -> bool:
        return self._upstream.exchange is not self

    def cut(self) -> None:
        """End it at once: the server sees its client leave."""
        self._end(is_clean=False)

    def response_head(self, upstream: UpstreamConnection, head: ResponseHead, rest: bytes) -> None:
        length = head.body_length(self._method)
        upstream.body = make_body(length, to_http11=True)
        if head.status == 101:
            self._end(is_clean=False)
        elif upstream.body.is_done:
            self._end(is_clean=not rest)
        elif rest:
            self.response_data(upstream, upstream.body, rest)

    def response_data(self, upstream: UpstreamConnection, body: Body, data: bytes) -> None:
        self.progress += 1
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

    def response_begun(self) -> None:
        self.progress += 1

    def server_failed(self, error: ServerFailed) -> None:
        self._end(is_clean=False)

    def server_is_slow(self) -> None:
        """Nothing more is sent to it."""

    def server_caught_up(self) -> None:
        """Nothing more is sent to it."""

    def _expired(self) -> None:
        if self._limit is None and self.progress != self._seen:
            self._seen = self.progress
            wait = self._context.timeouts.server
            self._timer = self._context.loop.call_later(wait, self._expired)
        else:
            self._end(is_clean=False)

    def _end(self, *, is_clean: bool) -> None:
        self._timer.cancel()
        if self._upstream.exchange is self:
            self._upstream.give_back(self._context.clock(), is_clean)
        self._lease.release()
