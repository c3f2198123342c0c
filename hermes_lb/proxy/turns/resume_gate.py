"""`/.hermes/turns/<id>`: a turn by its id. GET follows it, DELETE cancels it.

The path names no backend, so the principal is that of any route of the frontend: the id begins
with the principal's first characters. A foreign id and an unknown one run the same steps.
"""

from __future__ import annotations

import json
import re
from hmac import compare_digest
from typing import TYPE_CHECKING

from hermes_lb.errors import RequestRefused
from hermes_lb.proxy import phases
from hermes_lb.proxy.local_replies import LocalReply
from hermes_lb.proxy.turns import event_ids, heads
from hermes_lb.proxy.turns.follower import follow
from hermes_lb.proxy.turns.gate import Gate
from hermes_lb.proxy.turns.heads import RESUME_PATH
from hermes_lb.proxy.turns.principal import IN_ID
from hermes_lb.proxy.turns.problems import TurnProblem, not_found
from hermes_lb.proxy.turns.takeover import attend
from hermes_lb.turns import states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import TurnRequest
    from hermes_lb.proxy.stream_rules import NamedTurns
    from hermes_lb.proxy.turn_gateway import TurnGateway
    from hermes_lb.turns.ports import Record

_TURN = re.compile(re.escape(RESUME_PATH) + rb"([0-9A-Za-z_-]{20,64})(?:\?.*)?").fullmatch

# By state: what DELETE answers.
_CANCELLED_STATUS = {
    states.WAITING: 202,
    states.RUNNING: 202,
    states.CANCELLING: 202,
    states.DONE: 200,
    states.LOST: 200,
    states.CANCELLED: 204,
    states.RELEASED: 204,
}


class ResumeGate(Gate):
    """`routes`: those of the frontend that have turns."""

    __slots__ = ("_routes",)

    def __init__(
        self,
        exchange: TurnRequest,
        context: Context,
        gateway: TurnGateway,
        routes: Sequence[NamedTurns],
    ) -> None:
        super().__init__(exchange, context, gateway)
        self._routes = routes

    def begin(self, body: bytes, now: float) -> None:
        exchange = self._exchange
        assert exchange is not None
        method = exchange.head.method
        origin = heads.origin_of(exchange.request_head) if method == b"OPTIONS" else b""
        if origin:
            exchange.enter(phases.CLAIM, now)
            self.spawn(self._preflight(origin))
            return
        if method not in (b"GET", b"DELETE"):
            exchange.refuse(RequestRefused(405, "a turn is read by GET and cancelled by DELETE"))
            return
        exchange.enter(phases.CLAIM, now)
        self.spawn(self._follow() if method == b"GET" else self._cancel())

    async def _preflight(self, origin: bytes) -> None:
        """A page asks whether it may come back for its turn; it sends no credential here."""
        exchange = self.exchange
        if exchange is None:
            return
        match = _TURN(exchange.head.target)
        turn = match[1].decode() if match is not None else ""
        record = await self.gateway.store.find_of_any(turn)
        if record is None or record.origin.encode() != origin:
            raise not_found()
        exchange = self.exchange
        if exchange is not None:
            reply = heads.preflight(record.head, origin, exchange.request_head)
            exchange.reply(reply, "LR", may_keep=exchange.may_keep_client)

    def _named(self, exchange: TurnRequest) -> tuple[str, str, NamedTurns]:
        """The turn, the principal that the request is of, and that principal's route."""
        match = _TURN(exchange.head.target)
        turn = match[1].decode() if match is not None else ""
        found = "", self._routes[0]
        has_any = False
        for route in self._routes:
            principal = route.turns.principals.find(
                self.gateway.secret, exchange.request_head, exchange.peer, exchange.client_address
            )
            has_any = has_any or bool(principal)
            if compare_digest(principal[:IN_ID], turn[:IN_ID]):
                found = principal, route
        if not has_any:
            raise TurnProblem(400, "principal_required", "the request has no credential")
        return turn, *found

    async def _follow(self) -> None:
        exchange = self.exchange
        if exchange is None:  # its client has left
            return
        turn, principal, route = self._named(exchange)
        exchange.lead_to(route.backend)
        attend(self, principal, route.rules)
        last_event_id = event_ids.last_event_id(exchange.request_head)
        record = await self.gateway.store.find(principal, turn)
        if record is None or not principal:
            raise not_found()
        await follow(self, record, last_event_id, route.turns)

    async def _cancel(self) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        turn, principal, _ = self._named(exchange)
        record = await self.gateway.store.cancel(principal, turn)
        if record is None or not principal:
            raise not_found()
        exchange = self.exchange
        if exchange is not None:
            reply = _state_of(record, heads.cors(record.head))
            exchange.reply(reply, "LR", may_keep=exchange.may_keep_client)


def _state_of(record: Record, more: bytes) -> LocalReply:
    status = _CANCELLED_STATUS[record.state]
    fields = b"Cache-Control: no-store\r\nX-Hermes-Turn: %b\r\n%b" % (record.id.encode(), more)
    if status == 204:
        return LocalReply(status, fields)
    body = json.dumps({"turn": record.id, "state": states.NAMES[record.state]}).encode() + b"\n"
    return LocalReply(status, fields + b"Content-Type: application/json\r\n", body)
