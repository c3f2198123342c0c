"""The request's body, as it is sent to the server, and the part of it kept for a retry."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mypy_extensions import trait

from hermes_lb.errors import RequestRefused
from hermes_lb.http import make_body
from hermes_lb.http.json_keys import JsonText
from hermes_lb.proxy import phases
from hermes_lb.proxy.ports import RequestBody

if TYPE_CHECKING:
    from hermes_lb.errors import InvalidBody
    from hermes_lb.http import RequestHead
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import Downstream, ResponseSink, ServerSide, TurnGate
    from hermes_lb.proxy.settings import BodyLimits


@trait
class Sending:
    """An exchange, as far as the body of its request needs it."""

    __slots__ = ()

    client: Downstream
    upstream: ServerSide | None
    bytes_in: int
    phase: int

    def enter(self, phase: int, now: float) -> None:
        """The next phase begins."""
        raise NotImplementedError

    def note_traffic(self) -> None:
        """Bytes passed: an idle deadline restarts."""
        raise NotImplementedError

    def refuse_body(self, error: InvalidBody | RequestRefused) -> None:
        """The body broke its framing, or is larger than it may be."""
        raise NotImplementedError


class Upload(RequestBody):
    """One request's body. Only requests that have one have an `Upload`.

    - `is_read`: all of it has been received.
    - `awaits_continue`: the client holds it back until the server says 100.
    - `is_forgotten`: some of it was sent and not kept, so the request can't be sent again.
    - `json`: what has come of it, while a session key is looked for.
    """

    __slots__ = (
        "_context",
        "_exchange",
        "_kept",
        "_kept_size",
        "_most",
        "_most_for_retry",
        "_most_kept",
        "_turn",
        "_was_asked_for",
        "awaits_continue",
        "is_forgotten",
        "is_read",
        "json",
    )

    def __init__(
        self,
        exchange: Sending,
        head: RequestHead,
        context: Context,
        limits: BodyLimits,
        turn: TurnGate | None = None,
    ) -> None:
        self._exchange = exchange
        self._context = context
        self._kept: list[bytes] | None = []  # as the server gets it, from the start
        self._kept_size = 0
        self._most = sys.maxsize if head.length > 0 else limits.most_in_body
        self._most_for_retry = limits.most_for_retry
        self._turn = turn
        self._most_kept = (turn and turn.most_kept) or limits.most_for_retry
        self.is_read = False
        self.awaits_continue = head.expects_continue
        self._was_asked_for = not head.expects_continue
        self.is_forgotten = False
        self.json: JsonText | None = None

    @property
    def phase(self) -> int:
        """The phase of an exchange that sends it: for which side it waits."""
        if self.is_read or self.awaits_continue:
            return phases.AWAIT
        upstream = self._exchange.upstream
        is_blocked = upstream is not None and upstream.is_writing_paused
        return phases.BLOCKED if is_blocked else phases.SEND

    def is_sent(self, upstream: ServerSide) -> bool:
        """Asked when the response begins: has the whole body been written?

        False for a body that the server has not asked for with a 100: it may have refused the
        expectation and then read the body, or not (RFC 9110 section 10.1.1).
        """
        return self.is_read and self._was_asked_for and not upstream.has_unwritten

    def receive(self, data: bytes) -> None:
        """More of the body, as the server gets it; `bytes_in` counts it already."""
        exchange = self._exchange
        if exchange.bytes_in > self._most:
            exchange.refuse_body(RequestRefused(413, "the request body is too large"))
            return
        upstream = exchange.upstream
        if data:
            if self._turn is not None:
                self._turn.body_received(data)
            if self.json is not None:
                self.json.feed(data)
            if self._kept is not None:
                self._kept.append(data)
                self._kept_size += len(data)
                self._bound()
            if upstream is not None:
                upstream.send(data)
        self._moved()

    def ended(self) -> None:
        """All of it has been received."""
        self.is_read = True
        if self._turn is not None:
            self._turn.body_ended()
        self._moved()

    def read_json(self, length: int) -> JsonText:
        """Collect the text of a body of this length, until `end_json`."""
        assert self._kept is not None
        self.json = json = JsonText(make_body(length, to_http11=False))
        for data in self._kept:
            json.feed(data)
        self._exchange.client.resume_reading()  # more than is kept for a retry may have come
        return json

    def end_json(self) -> None:
        self.json = None
        self._bound()

    def start(self, upstream: ServerSide, sink: ResponseSink, request_head: bytes) -> None:
        """Send the head, and the received part of the body, on a new connection."""
        assert self._kept is not None
        upstream.send_request(sink, b"".join((request_head, *self._kept)), self)
        if self._turn is not None:
            self._turn.body_sent()
            self._most_kept = self._most_for_retry
        self._bound()
        if not upstream.is_writing_paused:
            self._exchange.client.resume_reading()

    def forget(self) -> None:
        """The response has begun: there will be no retry."""
        self._kept = None

    def discard(self) -> None:
        """No server gets it: it is read, and not kept."""
        self._kept, self.is_forgotten = None, True
        self._exchange.client.resume_reading()

    def continued(self) -> None:
        """The server has sent a 100: the client has to send the body."""
        self._was_asked_for = True
        if self.awaits_continue:
            self._moved()

    def _moved(self) -> None:
        """Bytes have come, or the server has asked for them: which side is waited for now?"""
        exchange = self._exchange
        was_awaited, self.awaits_continue = self.awaits_continue, False
        if exchange.upstream is None:
            return
        is_sending = phases.SEND <= exchange.phase <= phases.AWAIT
        if is_sending and (self.is_read or was_awaited):
            exchange.enter(self.phase, self._context.clock())
        else:
            exchange.note_traffic()

    def _bound(self) -> None:
        """Keep at most `retry_buffer`: forget what was sent, or hold the client back until then.

        A text that is read for a key has its own bound.
        """
        exchange = self._exchange
        if self._kept_size > self._most_kept and self.json is None:
            if exchange.upstream is not None:
                self._kept = None
                self.is_forgotten = True
            else:
                exchange.client.pause_reading()
