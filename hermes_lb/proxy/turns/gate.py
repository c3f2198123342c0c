"""What the gates of all requests on routes with turns have in common."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.backends.counters import TURN_OUTCOMES
from hermes_lb.proxy.ports import TurnGate
from hermes_lb.proxy.turns import heads
from hermes_lb.proxy.turns.client import TurnClient
from hermes_lb.proxy.turns.keep_alive import KeepAlive
from hermes_lb.proxy.turns.problems import TurnProblem, session_busy, store_away
from hermes_lb.turns.ports import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from hermes_lb.backends import Server
    from hermes_lb.http import ResponseHead
    from hermes_lb.http.sse import EventsBody
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import ServerSide, TurnRequest
    from hermes_lb.proxy.turn_gateway import TurnGateway
    from hermes_lb.turns.ports import Record

logger = logging.getLogger("hermes_lb")

_OUTCOMES: Final = {outcome: number for number, outcome in enumerate(TURN_OUTCOMES)}


class Gate(TurnGate):
    """What both kinds of gates have. By itself: a request that executes no turn."""

    __slots__ = (
        "_attends",
        "_client",
        "_exchange",
        "_following",
        "_keep_alive",
        "_work",
        "context",
        "cors",
        "gateway",
    )

    def __init__(self, exchange: TurnRequest, context: Context, gateway: TurnGateway) -> None:
        self._exchange: TurnRequest | None = exchange
        self.context = context
        self.gateway = gateway
        self.most_kept = 0
        self.cors = b""  # fields with which the turn's page can read our answers
        self._following = ""  # the turn that it follows
        self._attends: tuple[str, Callable[[str], bool]] | None = None
        self._work: asyncio.Task[Any] | None = None  # which waits for that turn
        self._keep_alive: KeepAlive | None = None
        self._client = TurnClient(exchange.client, self)
        exchange.take_turn(self, self._client)

    @property
    def exchange(self) -> TurnRequest | None:
        """None once it is over."""
        exchange = self._exchange
        if exchange is not None and exchange.is_over:
            self._exchange = None  # each refers to the other
            return None
        return exchange

    @property
    def client(self) -> TurnClient:
        return self._client

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`; a TurnProblem or StoreAway that it raises is the answer."""
        self.context.tasks.spawn(self._answering(work), name="turn")

    async def _answering(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except TurnProblem as problem:
            self.refuse(problem)
        except StoreAway:
            self.count("degraded")
            self.refuse(store_away())
        except Exception:  # a bug must cost one request, and not keep its client waiting
            logger.exception("while serving %r", self._exchange)
            if (exchange := self.exchange) is not None:
                exchange.abort_client("P" + exchange.letter)

    def refuse(self, problem: TurnProblem) -> None:
        """Answer with `problem`, if no byte of another answer has been sent."""
        exchange = self.exchange
        if exchange is None:
            return
        if exchange.status:
            exchange.abort_client("P" + exchange.letter, problem.detail)
            return
        exchange.note(f"{problem.code}: {problem.detail}")
        exchange.peer.frontend.counters.refuse(problem.status, problem.code)
        problem.fields = self.cors
        reply = problem.reply(is_head=exchange.head.method == b"HEAD")
        termination = "PR" if problem.status < 500 else "RC"
        exchange.reply(reply, termination, may_keep=exchange.may_keep_client)

    def follows(self, record: Record) -> None:
        """It is answered from this turn, for which the present task may wait: until it is over."""
        self.cors = heads.cors(record.head)
        self._work = asyncio.current_task()
        if not self._following:
            self._following = record.id
            self.gateway.joined(record.id)

    def attend(self, principal: str, take_over: Callable[[str], bool]) -> None:
        """Until its end, turns of its principal can be taken over by it."""
        self._attends = principal, take_over
        self.gateway.attend(principal, take_over)

    def keep_alive(self, allowed: float | None, is_between_events: Callable[[], bool]) -> None:
        """Its response is an event stream: comments fill its silence, if the route has them."""
        exchange = self._exchange
        if allowed is not None and exchange is not None:
            self._keep_alive = KeepAlive(exchange, self.context, allowed, is_between_events)

    def over(self) -> None:
        # The exchange and its gate refer to each other.
        self._exchange = None
        if self._keep_alive is not None:
            self._keep_alive.stop()
            self._keep_alive = None
        attends, self._attends = self._attends, None
        if attends is not None:
            self.gateway.leave(*attends)
        following, self._following = self._following, ""
        if following:
            self.gateway.left(following)
        work, self._work = self._work, None
        if work is not None and work is not asyncio.current_task():
            work.cancel()

    def count(self, outcome: str) -> None:
        """One more turn with this outcome (`TURN_OUTCOMES`)."""
        exchange = self._exchange
        if exchange is not None:
            exchange.count_turn(_OUTCOMES[outcome])

    # `ports.TurnGate`.

    def body_received(self, data: bytes) -> None:
        pass

    def body_ended(self) -> None:
        pass

    def body_sent(self) -> None:
        pass

    def starts(self, server: Server, now: float) -> bool:
        return False

    def holds(self, upstream: ServerSide, head: ResponseHead, now: float) -> bool:
        return False

    def events(self, length: int, after: bytes, resume_path: bytes) -> EventsBody | None:
        return None

    def session_timed_out(self) -> None:
        self.refuse(session_busy(1.0))

    def client_left(self) -> bool:
        return False

    def client_is_slow(self) -> bool:
        self._client.is_writing_paused = True
        return False

    def client_caught_up(self) -> None:
        self._client.is_slow = self._client.is_writing_paused = False

    def describe(self, row: dict[str, Any]) -> dict[str, Any]:
        return row
