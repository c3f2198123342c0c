"""A request that executes a turn, from when it owns it: its client may leave, and it goes on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.proxy import phases
from hermes_lb.proxy.turns import heads
from hermes_lb.proxy.turns.detached import Detached
from hermes_lb.proxy.turns.gate import Gate
from hermes_lb.proxy.turns.owner import Owner
from hermes_lb.proxy.turns.problems import store_away, turn_cancelled
from hermes_lb.turns.ports import Fenced, StoreAway

if TYPE_CHECKING:
    from hermes_lb.backends import Server
    from hermes_lb.http.sse import EventsBody
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import TurnRequest
    from hermes_lb.proxy.turn_gateway import TurnGateway
    from hermes_lb.proxy.turns.rules import TurnRules
    from hermes_lb.turns.ports import OwnedTurn

# Seconds between two looks for followers at other balancers, whose lease is a few times as long.
_NEXT_LOOK: Final = 1.0


class Executing(Gate):
    """`own` the turn first. By itself: it has no client, and its server is being looked for."""

    __slots__ = (
        "_address", "_detached", "_left_alone", "_starts", "_unread", "rules",
    )  # fmt: skip

    def __init__(
        self, exchange: TurnRequest, context: Context, gateway: TurnGateway, rules: TurnRules
    ) -> None:
        super().__init__(exchange, context, gateway)
        self.rules = rules
        self._address = exchange.client_address
        self._unread = 0  # bytes of its response, while its client is slow
        self._starts = 0  # attempts that were stored
        self._detached: Detached | None = None
        # A turn, and what is set when its last follower in this process has left.
        self._left_alone: tuple[str, asyncio.Event] | None = None

    def own(self, owned: OwnedTurn, *, has_key: bool) -> Owner:
        exchange = self._exchange
        assert exchange is not None
        self._client.owner = owner = Owner(
            owned,
            self,
            is_get=exchange.head.method == b"GET",
            has_key=has_key,
            origin=heads.origin_of(exchange.request_head),
        )
        return owner

    def may_be_sent(self) -> bool:
        """A server may have got the request: of an earlier attempt, if those are repeated."""
        exchange = self._exchange
        assert exchange is not None
        return exchange.connected_at >= 0.0 or (self.rules.repeats and exchange.retries > 0)

    def over(self) -> None:
        super().over()
        self._has_unread(0)
        if self._detached is not None:
            self._detached.leave()
            self._detached = None
        if self._left_alone is not None:
            turn, left = self._left_alone
            left.set()
            self.gateway.ended(turn)

    # Before the request leaves, and the response that continues at another server.

    def starts(self, server: Server, now: float) -> bool:
        owner, exchange = self._client.owner, self._exchange
        if owner is None or exchange is None:
            return False
        if owner.server == server.name:
            return False
        if exchange.status:  # its response goes on there: there is no outcome to protect
            owner.moved(server.name)
            return False
        exchange.enter(phases.CLAIM, now)
        self._starts += 1
        self.spawn(self._start(owner, server.name, self._starts))
        return True

    async def _start(self, owner: Owner, server: str, number: int) -> None:
        """`number`: of this attempt; another one may overtake it."""
        try:
            await owner.start(server)
        except Fenced:
            raise turn_cancelled(owner.owned.id) from None
        exchange = self.exchange
        is_present = exchange is not None and exchange.phase == phases.CLAIM
        if exchange is not None and is_present and number == self._starts:
            exchange.connect(self.context.clock())

    def events(self, length: int, after: bytes, resume_path: bytes) -> EventsBody | None:
        owner = self._client.owner
        if owner is None:
            return None
        return owner.events(length, after, resume_path, to_chunks=self._client.takes_chunks)

    # The client.

    def client_left(self) -> bool:
        """The turn goes on without it, if a server may have its whole request."""
        owner, exchange, client = self._client.owner, self._exchange, self._client
        if owner is None or exchange is None or client.real is None:
            return False
        if not exchange.is_request_read or exchange.phase >= phases.FLUSH:
            return False
        self._detach("C" + exchange.letter, "its client left")
        if not self._goes_on_alone(owner):
            self.spawn(self._end_with_its_followers(owner))
        return True

    def _goes_on_alone(self, owner: Owner) -> bool:
        """Leaving does not cancel it: it was sent."""
        return bool(owner.server) and self.rules.may_detach

    async def _end_with_its_followers(self, owner: Owner) -> None:
        """Leaving is cancelling, or nothing was sent: the last request that follows it decides,
        at any balancer."""
        while await self._is_followed(owner):
            if self.exchange is None or self._goes_on_alone(owner):
                return
            left = asyncio.Event()
            self._left_alone = owner.owned.id, left
            self.gateway.abandon(owner.owned.id, left.set)
            with suppress(TimeoutError):
                async with asyncio.timeout(_NEXT_LOOK):
                    await left.wait()
        exchange = self.exchange
        if exchange is not None and not self._goes_on_alone(owner):
            exchange.abort_client("C" + exchange.letter, "all of its clients left")

    async def _is_followed(self, owner: Owner) -> bool:
        if self.gateway.is_followed(owner.owned.id):
            return True
        try:
            return await owner.owned.is_followed()
        except StoreAway:  # those at other balancers can't read it either
            return False

    def _detach(self, termination: str, reason: str) -> None:
        """The exchange goes on without its client, which is cut off."""
        exchange, client = self._exchange, self._client
        assert exchange is not None
        assert client.real is not None
        real, client.real = client.real, None
        self.stand_alone()
        exchange.note(reason)
        real.cut_off(termination)
        self._has_unread(0)
        client.is_slow = False
        if client.is_writing_paused:
            exchange.client_caught_up()

    def stand_alone(self) -> None:
        """It has no client, for `linger` at most."""
        exchange = self._exchange
        assert exchange is not None
        until = self.context.clock() + self.rules.linger
        live = self.context.live
        self._detached = Detached(exchange, self._client.peer, live, until, self._linger_is_over)

    def _linger_is_over(self) -> None:
        owner = self._client.owner
        if owner is not None:
            self.spawn(self._end_unless_followed(owner))

    async def _end_unless_followed(self, owner: Owner) -> None:
        is_followed = await self._is_followed(owner)
        exchange, detached = self.exchange, self._detached
        if exchange is None or detached is None:
            return
        if is_followed:
            detached.deadline = self.context.clock() + self.rules.linger
        else:
            exchange.abort_client("CD", "its client has not come back in time")

    def client_is_slow(self) -> bool:
        client = self._client
        if client.owner is not None and client.owner.is_kept:
            client.is_slow = True
            return True
        client.is_writing_paused = True
        return False

    def client_caught_up(self) -> None:
        super().client_caught_up()
        self._has_unread(0)

    def _has_unread(self, size: int) -> None:
        self.gateway.unread.add(self._address, size - self._unread)
        self._unread = size

    def may_be_behind(self, size: int) -> bool:
        """Its client has not read `size` bytes: others need room for theirs."""
        if not self.gateway.unread.has_room(self._address, size - self._unread):
            return False
        self._has_unread(size)
        return True

    def client_is_too_slow(self) -> None:
        """Its response is not kept: the server waits for the client, as for any other."""
        self._client.is_slow = False
        self._client.is_writing_paused = True
        if self._exchange is not None:
            self._exchange.client_is_slow()

    # What an owner asks for.

    def cut(self, by: str, reason: str) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        owner = self._client.owner
        if by == "c" and self.rules.may_detach and self._client.real is not None:
            self._detach("cD", reason)  # it can come back for the rest
        elif exchange.status or owner is None:
            exchange.abort_client(by + exchange.letter, reason)
        else:
            problem = turn_cancelled(owner.owned.id) if by == "C" else store_away()
            self.refuse(problem)

    def pause_server(self) -> None:
        if self._exchange is not None and self._exchange.upstream is not None:
            self._exchange.upstream.pause_reading()

    def resume_server(self) -> None:
        if self._exchange is not None and self._exchange.upstream is not None:
            self._exchange.upstream.resume_reading()

    def describe(self, row: dict[str, Any]) -> dict[str, Any]:
        if self._detached is not None:
            return {**row, "client": None, "kind": "detached"}
        return row
