"""A stream of events on a route with rules for it: it continues when its server is lost.

    lost        the server's part ended before the stream did, it stands still, or has handed over
    search      GET on the resume path, with the last event's id, at one server after another
    continue    its events follow in the client's same response

A search lasts as long as `resume_timeout`. A server that refused rests for a while, and when all
rest, or none is up, the search pauses. `resume_attempts` bounds how many servers may fail in other
ways, with growing pauses between them: each of these may have begun to work on the turn.

docs/unbroken-streams.md has the contract with servers. In silence, comments keep the client.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mypy_extensions import trait

from hermes_lb.backends.counters import RESUME_OUTCOMES
from hermes_lb.errors import (
    ConnectFailed,
    ConnectTimeout,
    Exhausted,
    NoServer,
    NotProcessed,
    QueueTimeout,
)
from hermes_lb.http.sse import EventsBody, UnnumberedEventsBody
from hermes_lb.proxy import phases

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from hermes_lb.backends import Pool, Server
    from hermes_lb.errors import ExchangeFailed
    from hermes_lb.http import Body, RequestHead, ResponseHead
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import Downstream, ServerSide
    from hermes_lb.proxy.stream_rules import StreamRules

#: The field that allows a server to hand its stream over.
ACCEPTS_HANDOVER = b"X-Hermes-Handover: accept\r\n"

_RESUME_PATH = re.compile(rb"/[\x21\x22\x24-\x7e]{0,2047}").fullmatch  # visible ASCII but "#"
# Untrusted text, for a head that we make; ids of servers are shorter than 100 bytes.
_LAST_EVENT_ID = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]{0,1024}").fullmatch
_EVENT_STREAM = b"Accept: text/event-stream\r\n"
# Of the first request, what belongs to its body, its method, or its place in the stream.
_LEFT_OUT = (
    b"accept:", b"accept-encoding:", b"content-", b"expect:", b"idempotency-key:",
    b"last-event-id:", b"transfer-encoding:", b"upgrade:", b"connection:", b"range:", b"if-",
)  # fmt: skip

_RESUMING, _KEEP_ALIVE = b": resuming", b": keep-alive"
# Seconds. A takeover is mostly shorter than the first; then no comment is sent.
_FIRST_COMMENT, _NEXT_COMMENTS = 1.0, 5.0
# Seconds that a server rests which could not continue, in one search; each time longer. So are the
# pauses of the search after attempts, without the limit.
_FIRST_REST, _REST_GROWTH, _LONGEST_REST = 0.1, 3.0, 1.0
# Seconds that a server rests in all searches after any request has failed there.
_REST_AFTER_FAILURE = 0.25
# Seconds between two looks while no server is up, and the least that a search pauses.
_NEXT_LOOK, _SHORTEST_PAUSE = 0.25, 0.02
# Of a pause, on top: streams that were lost together do not come back together.
_JITTER = 0.25
# For one attempt: a server answers this request at once, or is not well.
_MOST_FOR_ATTEMPT = 5.0
# A worker that is gone for good, and a session that is: no other server knows better.
_FINAL = frozenset((404, 410))
# The server can't now (its store is away, it is full or shuts down), and has begun nothing.
_NOT_NOW = frozenset((429, 503))
# What else begins nothing at a server.
_NOTHING_BEGUN = (ConnectFailed, ConnectTimeout, Exhausted, NoServer, NotProcessed)


@trait
class Resumable:
    """An exchange, as far as its stream needs it.

    `head`: of the request; `request_head`: as the present server got it. `server`: the last one
    that was picked. `reason`: for the log.
    """

    __slots__ = ()

    bytes_out: int
    client: Downstream
    context: Context
    head: RequestHead
    phase: int
    is_request_read: bool
    reason: str
    request_head: bytes
    server: Server | None
    tried: tuple[Server, ...]

    @property
    def is_queued(self) -> bool:
        """True while it waits for a free place on a server."""
        raise NotImplementedError

    def turn_events(self, length: int, after: bytes, path: bytes) -> EventsBody | None:
        """The body of a turn's stream, numbered and kept; None: it is no turn's."""
        raise NotImplementedError

    def lose_server(self) -> None:
        """Give the present server back, and what was for it alone."""
        raise NotImplementedError

    def end_attempt(self, now: float) -> None:
        """The same while a server is looked for or asked; the phase is PAUSE."""
        raise NotImplementedError

    def ask_next(
        self, request_head: bytes, tried: tuple[Server, ...], *, must_dial: bool, now: float
    ) -> None:
        """Send this head, of a GET, to a server that was not `tried`."""
        raise NotImplementedError

    def pause(self, seconds: float, then: Callable[[], None], now: float) -> None:
        """The phase is PAUSE; call `then` at its end."""
        raise NotImplementedError

    def go_on(self, upstream: ServerSide, body: Body, rest: bytes, reason: str) -> None:
        """The response continues with `body`, of which `rest` has come."""
        raise NotImplementedError

    def insert(self, comment: bytes) -> None:
        """Send a comment, framed as the events are."""
        raise NotImplementedError

    def abort_client(self, termination: str, reason: str = "") -> None:
        """Cut the response in a way that the client can see."""
        raise NotImplementedError


def opened_stream(
    exchange: Resumable, rules: StreamRules, pool: Pool, head: ResponseHead
) -> EventStream | None:
    """The stream that `head` begins; None: its bytes pass as those of any other response.

    `exchange.request_head` still has the request's. A turn's comments are not this module's.
    """
    if head.status != 200 or head.length >= 0 or not head.has_plain_events:
        return None
    if not can_insert(exchange.client, exchange.head.method):
        return None
    path = _resume_path(head) if rules.resumes else b""
    if not path and rules.keep_alive is None:
        return None
    return EventStream(exchange, rules, pool, head.length, path)


class EventStream:
    """The events of one exchange, from one server or several. Needs a client that knows chunks.

    `length`: of the first server's body. `path`: of the resume request; empty if it can't.
    `after`: the last id that the client has; by default, by its request.
    """

    __slots__ = (
        "_attempts",
        "_comments",
        "due",
        "_exchange",
        "_fields",
        "_give_up_at",
        "_has_known_start",
        "_keeper",
        "_not_before",
        "_outcome",
        "_path",
        "_pool",
        "_quiet_since",
        "_reason",
        "_rests",
        "_rules",
        "_seen",
        "body",
        "resumes",
        "said",
        "was_redispatched",
    )
    __deletable__ = ("_exchange",)  # asked for by mypyc

    def __init__(
        self,
        exchange: Resumable,
        rules: StreamRules,
        pool: Pool,
        length: int,
        path: bytes,
        after: bytes | None = None,
    ) -> None:
        self._exchange = exchange
        self._rules = rules
        self._pool = pool
        self._path = path
        self._fields = b""
        start: bytes | None = b""
        if path:
            lines = _field_lines(exchange.request_head)
            self._fields = _fields_to_resume(lines)
            start = _last_event_id(lines) if after is None else after
        self._has_known_start = start is not None
        self.body = self._make_body(length, start or b"")
        self.resumes = 0
        self.said = 0  # bytes of comments: of `bytes_out`, those that no server has sent
        self.was_redispatched = bool(exchange.tried)  # before there was anything to resume
        self._attempts = 0  # servers that were asked in this search and failed
        self._rests: dict[Server, tuple[int, float]] = {}  # how often, and until when
        self._not_before = 0.0
        self._outcome = ""  # of this search, if a server goes on; empty: there is none
        self._give_up_at = 0.0
        self.due = 0.0
        self._reason = ""
        self._comments: asyncio.TimerHandle | None = None
        self._keeper: asyncio.TimerHandle | None = None
        self._seen = -1
        self._quiet_since = 0.0
        if rules.keep_alive is not None:
            self._look_for_silence()

    def _make_body(self, length: int, after: bytes) -> EventsBody:
        exchange, can_go_on = self._exchange, bool(self._path)
        if can_go_on:
            of_turn = exchange.turn_events(length, after, self._path)
            if of_turn is not None:
                return of_turn
        kind = UnnumberedEventsBody if self._rules.strips_ids else EventsBody
        to_chunks = exchange.client.takes_chunks
        return kind(length, resumes=can_go_on, after=after, to_chunks=to_chunks)

    def __repr__(self) -> str:
        return f"<EventStream behind {self.body.last_id!r}, {self.resumes} resumes>"

    def stop(self, termination: str) -> None:
        """The exchange is over: it is not used after this, and no reference to it is kept."""
        if self._outcome and termination[0] in "Cc":
            self._count("client_left")
        self._stop_comments()
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        del self._exchange

    # Lost.

    @property
    def can_go_on(self) -> bool:
        """Another server can continue it from its present position."""
        if not (self._path and self.body.is_whole and self._exchange.is_request_read):
            return False
        # Else events that the client has could be repeated.
        return self._has_known_start or bool(self.body.last_id)

    def server_lost(self, reason: str, outcome: str = "resumed") -> bool:
        """Look for another server. False: the stream can't continue.

        `outcome`: the one to count (`RESUME_OUTCOMES`) if a server is found.
        """
        if not self.can_go_on:
            if self._path:
                self._count("not_resumable")
            return False
        self.search(reason, outcome)
        return True

    def search(self, reason: str, outcome: str = "resumed") -> None:
        """Look for a server that continues it, for this reason."""
        exchange = self._exchange
        exchange.lose_server()
        self._reason = reason
        self._outcome = outcome
        self._attempts = 0
        now = exchange.context.clock()
        self._give_up_at = now + self._rules.timeout
        self._not_before = now
        self._rests.clear()
        self._rest(now)
        self._comment_in(_FIRST_COMMENT)
        self._try(now)

    # Search.

    def _go_on_searching(self) -> None:
        self._try(self._exchange.context.clock())

    def _try(self, now: float) -> None:
        pool = self._pool
        self.due = self._give_up_at
        tried = tuple(s for s in pool.servers if self._rests_until(s) > now)
        if now < self._not_before or not pool.can_wait(tried):
            self._pause(now)
            return
        last_id = self.body.last_id
        request_head = b"".join(
            (
                b"GET %b HTTP/1.1\r\n" % self._path,
                _EVENT_STREAM,
                b"Last-Event-ID: %b\r\n" % last_id if last_id else b"",
                self._fields,
                b"\r\n",
            )
        )
        # After a failure: no connection that may be stale.
        self._exchange.ask_next(request_head, tried, must_dial=len(self._rests) > 1, now=now)

    def picked(self, now: float) -> None:
        """A server has been picked: its answer is due soon, the dial included."""
        self.due = min(now + _MOST_FOR_ATTEMPT, self._give_up_at)

    def attempt_failed(self, error: ExchangeFailed) -> None:
        """One server could not continue it, or none was available."""
        is_refusal = isinstance(error, _NOTHING_BEGUN) and not isinstance(error, QueueTimeout)
        self._failed(str(error), uses_up=not is_refusal)

    def _failed(self, reason: str, *, uses_up: bool, outcome: str = "") -> None:
        """`uses_up`: it counts towards `resume_attempts`. `outcome`: the search is over."""
        exchange = self._exchange
        now = exchange.context.clock()
        in_queue = exchange.is_queued
        exchange.end_attempt(now)
        if uses_up:
            self._not_before = now + _FIRST_REST * _REST_GROWTH**self._attempts
            self._attempts += 1
        if self._attempts >= self._rules.attempts or now >= self._give_up_at:
            outcome = outcome or "gave_up"
        if outcome:
            self._count(outcome)
            exchange.abort_client("SD", f"{self._reason}; {reason}")
            return
        if not in_queue:
            self._rest(now)
        self._try(now)

    def _rest(self, now: float) -> None:
        """The server that was asked last is not asked again at once."""
        server = self._exchange.server
        if server is not None:
            count = self._rests.get(server, (0, 0.0))[0]
            rest = min(_LONGEST_REST, _FIRST_REST * _REST_GROWTH**count)
            self._rests[server] = count + 1, now + rest

    def _rests_until(self, server: Server) -> float:
        return max(self._rests.get(server, (0, 0.0))[1], server.failed_at + _REST_AFTER_FAILURE)

    def _pause(self, now: float) -> None:
        """No server can be asked now: until the first has rested, or to see whether one is up."""
        if now >= self._give_up_at:
            self._failed("no server went on in time", uses_up=False)
            return
        rests = [self._rests_until(s) for s in self._pool.servers if s.is_able]
        next_look = min([now + _NEXT_LOOK, *(rest for rest in rests if rest > now)])
        wanted = max(next_look, self._not_before)
        pause = (wanted - now) * self._exchange.context.rng.uniform(1, 1 + _JITTER)
        pause = max(min(pause, self._give_up_at - now), _SHORTEST_PAUSE)
        self._exchange.pause(pause, self._go_on_searching, now)

    def _count(self, outcome: str) -> None:
        """The search is over, or there is none."""
        server = self._exchange.server
        counters = self._pool.unserved if server is None else server.counters
        counters.resume_outcomes[RESUME_OUTCOMES.index(outcome)] += 1
        self._outcome = ""

    def response_head(self, upstream: ServerSide, head: ResponseHead, rest: bytes) -> None:
        """The answer to the request for the rest of the events."""
        server = self._exchange.server
        assert server is not None
        length = head.body_length(b"GET")
        if head.status != 200 or not length or not head.has_plain_events:
            self._failed(
                f"{server.name} answered {head.status}",
                uses_up=head.status not in _NOT_NOW,
                outcome="gone" if head.status in _FINAL else "",
            )
            return
        self._stop_comments()
        if server.fails:
            self._pool.answered(server)
        self._count(self._outcome)
        self.resumes += 1
        server.counters.resumes += 1
        self.body.go_on(length)
        self._exchange.go_on(upstream, self.body, rest, f"resumes={self.resumes}")

    # Comments.

    def _comment_in(self, seconds: float) -> None:
        self._comments = self._exchange.context.loop.call_later(seconds, self._comment)

    def _comment(self) -> None:
        self._say(_RESUMING)
        self._comment_in(_NEXT_COMMENTS)

    def _stop_comments(self) -> None:
        if self._comments is not None:
            self._comments.cancel()
            self._comments = None

    def _look_for_silence(self) -> None:
        """A few times within the silence that is allowed: the clock is not read for each chunk."""
        exchange, allowed = self._exchange, self._rules.keep_alive
        assert allowed is not None
        now = exchange.context.clock()
        if exchange.bytes_out != self._seen:
            self._seen, self._quiet_since = exchange.bytes_out, now
        elif now - self._quiet_since >= allowed and exchange.phase == phases.DATA:
            self._say(_KEEP_ALIVE)
            self._seen, self._quiet_since = exchange.bytes_out, now
        self._keeper = exchange.context.loop.call_later(allowed / 4, self._look_for_silence)

    def _say(self, comment: bytes) -> None:
        exchange = self._exchange
        if self.body.is_whole and not exchange.client.is_writing_paused:
            framed = self.body.comment(comment)
            self.said += len(framed)
            exchange.insert(framed)


def can_insert(client: Downstream, method: bytes) -> bool:
    """True if comments can be put between the events for a client, and handovers left out."""
    return client.can_insert and method != b"HEAD"


def _resume_path(head: ResponseHead) -> bytes:
    """Where the server says that the stream can be taken up; empty if it does not."""
    paths = [value for name, value in head.fields() if name.lower() == b"x-hermes-resume"]
    return paths[0] if len(paths) == 1 and _RESUME_PATH(paths[0]) else b""


def _field_lines(request_head: bytes) -> list[bytes]:
    """The request's fields, as the first server got them."""
    return request_head[: request_head.index(b"\r\n\r\n")].split(b"\r\n")[1:]


def _last_event_id(lines: list[bytes]) -> bytes | None:
    """The last event that the client has, by its request; empty: none; None: unknown."""
    fields = (line.partition(b":") for line in lines)
    said = [value.strip(b" \t") for name, _, value in fields if name.lower() == b"last-event-id"]
    if not said:
        return b""
    return said[0] if len(said) == 1 and _LAST_EVENT_ID(said[0]) else None


def _fields_to_resume(lines: list[bytes]) -> bytes:
    """Those that belong to the client, and not to its request."""
    kept = [line for line in lines if not line.lower().startswith(_LEFT_OUT)]
    return b"".join(line + b"\r\n" for line in kept)
