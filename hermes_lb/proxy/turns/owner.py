"""The turn that a request executes: what is written of it, and when.

The client gets its bytes first. The turn's states are written in order, by one task, so the data
path never waits for the store after the request has left.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from hermes_lb.http import UNTIL_CLOSE
from hermes_lb.http.continued_events import ContinuedEvents
from hermes_lb.http.kept_body import KeptBody
from hermes_lb.http.numbered_events import NumberedEvents
from hermes_lb.http.sse import chunk
from hermes_lb.proxy.turns import event_ids, heads
from hermes_lb.turns.ports import Fenced, StoreAway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hermes_lb.http import Body, ResponseHead
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.local_replies import LocalReply
    from hermes_lb.proxy.turns.rules import TurnRules
    from hermes_lb.turns.ports import OwnedTurn

logger = logging.getLogger("hermes_lb")

# What of the response is kept.
_UNDECIDED: Final = 0
_EVENTS: Final = 1  # whole events, each with an id
_CHUNKS: Final = 2  # its bytes as they came
_ANSWER: Final = 3  # for the joined requests only: the key is free afterwards
_NOTHING: Final = 4

#: Bytes of an answer that frees its key, for the requests that had joined.
MOST_IN_ANSWER: Final = 64 * 1024
# Seconds that a server is paused for a journal that is behind; then it goes on, and the journal has
# a gap.
_PAUSE: Final = 2.0
# Seconds between two attempts to write a state while the store is away, and for all of them. The
# turn has ended; this only decides how its followers and its key hear of it.
_NEXT_ATTEMPT, _ALL_ATTEMPTS = 0.5, 120.0


class Execution(Protocol):
    """The request that executes the turn, as its owner needs it (`executing.Executing`)."""

    context: Context
    rules: TurnRules

    def cut(self, by: str, reason: str) -> None:
        """`by`: the first letter of the termination."""

    def pause_server(self) -> None: ...

    def resume_server(self) -> None: ...

    def client_is_too_slow(self) -> None:
        """Its response is not kept any more: the server waits for the client."""

    def may_be_behind(self, size: int) -> bool:
        """Whether its client may leave this number of bytes unread."""

    def may_be_sent(self) -> bool:
        """A server may have the request."""

    def count(self, outcome: str) -> None: ...

    def keep_alive(self, allowed: float | None, is_between_events: Callable[[], bool]) -> None: ...


class Owner:
    """One per turn that this process executes.

    `executing`: the request that executes it.
    """

    __slots__ = (
        "_answer",
        "_answered",
        "_ended_by",
        "_events",
        "_executing",
        "_giving_up",
        "_has_key",
        "_is_get",
        "_kept",
        "_origin",
        "_reply",
        "_resume_path",
        "_writes",
        "owned",
        "server",
    )

    def __init__(
        self,
        owned: OwnedTurn,
        executing: Execution,
        *,
        is_get: bool,
        has_key: bool,
        origin: bytes,
    ) -> None:
        self.owned = owned
        self._executing = executing
        self._is_get = is_get
        self._has_key = has_key
        self._origin = origin
        self.server = ""  # which may have the request; "": none
        self._kept = _UNDECIDED
        self._resume_path = b""  # at which its backend continues the stream
        self._events: NumberedEvents | None = None
        self._answer: list[bytes] | None = None
        self._answered = 0  # bytes of its body
        self._reply: LocalReply | None = None
        self._ended_by = ""  # "cancelled" or "fenced", before the exchange was cut
        self._writes: list[Callable[[], Awaitable[None]]] | None = None  # few at a time
        self._giving_up: asyncio.TimerHandle | None = None
        owned.watch(self)

    def __repr__(self) -> str:
        return f"<Owner of {self.owned.id}>"

    # Before the request leaves.

    async def start(self, server: str) -> None:
        """The server may get the request after this. Raises Fenced or StoreAway."""
        await self.owned.started(server)
        self.server = server

    def fingerprinted(self, fingerprint: str) -> None:
        """All of the request has been received."""
        self._write(lambda: self.owned.fingerprinted(fingerprint))

    def moved(self, server: str) -> None:
        """Another one continues the response."""
        self.server = server
        self._write(lambda: self.owned.started(server))

    # The response.

    def events(
        self, length: int, after: bytes, resume_path: bytes, *, to_chunks: bool
    ) -> ContinuedEvents | None:
        """The body of an event stream that its backend can continue, behind the event `after`."""
        if 200 in self._executing.rules.release_on:
            return None
        self._kept = _EVENTS
        self._resume_path = resume_path
        self._events = self._numbered(UNTIL_CLOSE, to_chunks=to_chunks, adds_ids=False)
        return ContinuedEvents(length, self._events, after=after, to_chunks=to_chunks)

    def _numbered(self, length: int, *, to_chunks: bool, adds_ids: bool = True) -> NumberedEvents:
        return NumberedEvents(
            length,
            event_ids.prefix(self.owned.id),
            self.owned.journal,
            most_in_event=self._executing.rules.max_event,
            to_chunks=to_chunks,
            retries=self,
            adds_ids=adds_ids,
        )

    def _decide(self, head: ResponseHead, length: int) -> int:
        rules = self._executing.rules
        if head.status in rules.release_on:
            return _ANSWER
        if rules.journal and length < 0 and head.status == 200 and head.has_plain_events:
            return _EVENTS
        return _CHUNKS if self._has_key else _NOTHING

    def body_for(self, head: ResponseHead, length: int, *, to_chunks: bool) -> Body:
        """A body of this length, which is kept as it passes."""
        self._kept = self._decide(head, length)
        if self._kept == _EVENTS:
            self._events = self._numbered(length, to_chunks=to_chunks)
            return self._events
        return KeptBody(length, self._keep, to_chunks=to_chunks)

    def head(
        self, head: ResponseHead, fields: bytes, first: bytes, *, to_chunks: bool
    ) -> tuple[bytes, bytes]:
        """The head for the client leaves now, and `first` of the body with it -> the same, with
        the fields of the turn."""
        if self._kept == _UNDECIDED:  # all of it came at once, and no body was made
            self._kept = self._decide(head, 0)
            if first:
                self._keep(first)
        stored = heads.stored(head, fields)
        if self._kept == _ANSWER:
            self._answer = [stored, *(self._answer or ())]
            return fields, first
        is_stream = self._kept == _EVENTS
        if self._events is not None:
            allowed, events = self._executing.rules.keep_alive, self._events
            self._executing.keep_alive(allowed, lambda: events.is_between_events)
        if self._kept == _NOTHING:
            self.owned.journal.skip()
        path = self._resume_path.decode()
        origin = heads.allowed_origin(fields, self._origin).decode()
        self._write(
            lambda: self.owned.headed(stored, is_stream=is_stream, resume_path=path, origin=origin)
        )
        fields = heads.for_turn(
            fields,
            self.owned.id,
            is_stream=is_stream,
            is_get=self._is_get,
            vary=self._executing.rules.principals.vary,
        )
        if is_stream and self._is_get:
            # EventSource has no id before the first event, and would execute it again.
            beginning = b"id: %b0\n\n" % event_ids.prefix(self.owned.id)
            first = (chunk(beginning) if to_chunks else beginning) + first
        return fields, first

    def _keep(self, data: bytes) -> None:
        if self._kept == _CHUNKS:
            self.owned.journal.append(data, 1)
        elif self._kept == _ANSWER and self._answered <= MOST_IN_ANSWER:
            self._answer = self._answer or []
            self._answer.append(data)
            self._answered += len(data)

    def retried(self, retry: bytes) -> None:
        """The last one is given to clients that resume (`numbered_events.RetryLog`)."""
        self._write(lambda: self.owned.retried(retry.decode()))

    @property
    def is_kept(self) -> bool:
        """A follower could get the response from its start: so a slow client need not pause it."""
        return self._kept in (_EVENTS, _CHUNKS) and not (
            self._kept == _CHUNKS and self.owned.journal.is_trimmed
        )

    def client_is_behind(self, unsent: int) -> None:
        """Its client reads more slowly than the server sends, and is not waited for."""
        executing = self._executing
        if not self.is_kept:
            executing.client_is_too_slow()
        elif unsent > executing.rules.journal_size or not executing.may_be_behind(unsent):
            executing.cut("c", "the client reads too slowly")

    # What the store tells it (`ports.TurnWatcher`).

    def journal_fell_behind(self) -> None:
        """The store is slow: the server waits for it."""
        self._executing.pause_server()
        self._giving_up = self._executing.context.loop.call_later(_PAUSE, self._give_up)

    def _give_up(self) -> None:
        """The journal marks its gap itself; the response goes on."""
        self._executing.resume_server()

    def journal_caught_up(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
            self._executing.resume_server()

    def turn_refused(self) -> None:
        """Another process has the turn: it must not be written, nor go on here."""
        if not self._ended_by:
            self._ended_by = "fenced"
            self._executing.cut("P", "another process has the turn")

    def cancel_requested(self) -> None:
        """Not at once: it may have been asked for before there was an owner."""
        self._executing.context.loop.call_soon(self._cancelled)

    def _cancelled(self) -> None:
        if not self._ended_by:
            self._ended_by = "cancelled"
            self._executing.cut("C", "a client has cancelled it")

    # The end.

    def replied(self, reply: LocalReply) -> None:
        """A response of our own ends it."""
        self._reply = reply

    def ended(self, termination: str) -> None:
        """The exchange is over: "--", or it was cut."""
        executing = self._executing
        if self._giving_up is not None:
            self._giving_up.cancel()
        if self._ended_by == "fenced":
            executing.count("fenced")
        elif self._ended_by == "cancelled":
            executing.count("cancelled")
            self._write(self.owned.cancelled)
        elif not executing.may_be_sent():
            self._release(heads.answer(self._reply) if self._reply is not None else b"")
        elif self._reply is not None:
            self._lost("backend")
        elif termination[0] == "C" and not executing.rules.may_detach and termination[1] != "L":
            executing.count("cancelled")
            self._write(self.owned.cancelled)
        elif termination == "--" or termination.endswith("L"):
            self._ended_well()
        elif termination[0] == "K" and self._resume_path:
            executing.count("fenced")
            self._write(self.owned.orphan)
        else:
            self._lost("owner_stopped" if termination[0] == "K" else _side(termination))

    def _ended_well(self) -> None:
        if self._kept == _ANSWER:
            answer = b"".join(self._answer or ())
            self._release(answer if len(answer) <= MOST_IN_ANSWER else b"")
        else:
            self._executing.count("done")
            self._write(self.owned.done)

    def _release(self, answer: bytes) -> None:
        self._executing.count("released")
        self._write(lambda: self.owned.release(answer))

    def _lost(self, reason: str) -> None:
        self._executing.count("lost")
        self._write(lambda: self.owned.lost(reason))

    # Writes of the state, in order.

    def _write(self, write: Callable[[], Awaitable[None]]) -> None:
        if self._writes is None:
            self._writes = [write]
            work = self._write_all(self._writes)
            self._executing.context.tasks.spawn(work, name="state of a turn")
        else:
            self._writes.append(write)

    async def _write_all(self, writes: list[Callable[[], Awaitable[None]]]) -> None:
        give_up_at = self._executing.context.clock() + _ALL_ATTEMPTS
        while writes:
            try:
                await writes[0]()
            except StoreAway:
                if self._executing.context.clock() < give_up_at:
                    await asyncio.sleep(_NEXT_ATTEMPT)
                    continue
                logger.warning("the state of a turn could not be stored: the store is away")
            except Fenced:
                writes.clear()
                self.turn_refused()
                break
            writes.pop(0)
        self._writes = None


def _side(termination: str) -> str:
    """Whose end it was, for the turn's record."""
    return "client" if termination[0] in "Cc" else "backend"
