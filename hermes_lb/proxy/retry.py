"""What may fail before the response head, and what becomes of the request then: the retry table.

docs/life-of-a-request.md has it as a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.errors import ClosedBeforeResponse, ConnectTimeout, Retry
from hermes_lb.proxy import local_replies, phases
from hermes_lb.proxy.state import ExchangeState

if TYPE_CHECKING:
    from hermes_lb.backends import Server
    from hermes_lb.errors import ExchangeFailed, ServerFailed
    from hermes_lb.proxy.select import Backend

# Seconds before a server that refused is tried again (HAProxy: min(timeout connect, 1 s)).
_TURN_AROUND = 1.0


class Retries(ExchangeState):
    """An exchange whose server has let it down, or that has none."""

    __slots__ = ()

    def server_failed(self, error: ServerFailed) -> None:
        """The server let us down before its response head: retry, or give up (the retry table)."""
        now = self.context.clock()
        server, backend = self.server, self.backend
        assert server is not None
        assert backend is not None
        upstream, self.upstream = self.upstream, None
        is_stale = False
        if upstream is None:
            server.counters.connect_errors += 1
        else:
            # A kept connection that is found closed says nothing of the server's health.
            is_stale = upstream.is_reused and isinstance(error, ClosedBeforeResponse)
            upstream.abort()
        if not is_stale:
            backend.failed(server, now, str(error))
        if self.stream is not None:
            self.stream.attempt_failed(error)
            return
        may_repeat = error.retry is Retry.SAFE or (
            error.retry is Retry.REPEATABLE_ONLY and self.head.can_repeat
        )
        is_whole = self.upload is None or not self.upload.is_forgotten
        if may_repeat and is_whole and self.retries < backend.retries:
            self._retry(error, server, backend, now, is_stale=is_stale)
        else:
            self.fail(error)

    def _retry(
        self, error: ServerFailed, server: Server, backend: Backend, now: float, *, is_stale: bool
    ) -> None:
        """On another server, at once; a cookie's is left only for the last retry (HAProxy).

        A server whose kept connection was stale may be restarting, so others are asked first. It
        has refused nothing, though: when all others have been tried, it is asked again.

        Where there is no other, the same one is tried again, after a while if it refused: it may be
        restarting. A dial that timed out has waited long enough.
        """
        is_last = self.retries + 1 >= backend.retries
        is_pinned = self.pinned_to is server
        pool, tried = backend.pool, (*self.tried, server)
        others = pool.may_any_serve(tried, now)
        if self.passed_over is not None and not others:
            tried = tuple(other for other in tried if other is not self.passed_over)
            self.passed_over = None
            others = pool.may_any_serve(tried, now)
        # One whose connection was only stale is better than those that are out for their failures.
        others = others or (not is_stale and pool.can_wait(tried))
        if is_pinned and self.is_strict:
            others, is_last = False, False
        stays = (
            error.retry is Retry.SAFE
            and server.may_serve(now)
            and (server.is_lone or (is_pinned and not is_last))
        )
        if not (others or stays or is_stale):
            self.fail(error)
            return
        self.retries += 1
        server.counters.retries += 1
        self.must_dial = self.must_dial or is_stale
        self.connected_at = -1.0
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release()
        timed_out = isinstance(error, ConnectTimeout)
        if (is_stale and (is_pinned or not others)) or (stays and timed_out):
            self.dispatch(now)
        elif stays:
            self.enter(phases.PAUSE, now)
            delay = min(self.context.timeouts.connect, _TURN_AROUND)
            self.turn_around = self.context.loop.call_later(delay, self._turned_around)
        else:
            self.pinned_to = None
            self.tried = tried
            if is_stale:
                self.passed_over = server
            self.dispatch(now)

    def _turned_around(self) -> None:
        self.turn_around = None
        self.dispatch(self.context.clock())

    def fail(self, error: ExchangeFailed) -> None:
        """No server will answer it."""
        if self.stream is not None:
            self.stream.attempt_failed(error)
        else:
            local_replies.fail(self, error)
