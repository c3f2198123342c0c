"""The client's side of a request on a route with turns: it may leave before its exchange ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.proxy.ports import Downstream
from hermes_lb.proxy.turns.heads import stripped

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.http import Body, ResponseHead
    from hermes_lb.proxy.local_replies import LocalReply
    from hermes_lb.proxy.ports import TunnelEnd, TunnelSink, TurnGate
    from hermes_lb.proxy.turns.owner import Owner

_DEGRADED = b"X-Hermes-Degraded: store\r\n"


class TurnClient(Downstream):
    """Passes everything on to `real`, and what an owner says of its turn to `owner`.

    - `real`: the client's own side; None once it has left.
    - `gate`: its `over` is called at the end of the exchange.
    - `owner`: None for a request that executes no turn.
    - `is_degraded`: the turn could not be stored; the response says so.
    - `replayed`: given the fields of a stored head, adds those of its turn.
    - `passes_resume`: a response without a turn keeps the resume path of its server.
    - `is_slow`: it does not read, and the exchange goes on as if it did.
    """

    __slots__ = (
        "_can_insert",
        "_takes_chunks",
        "gate",
        "is_degraded",
        "is_slow",
        "is_writing_paused",
        "owner",
        "passes_resume",
        "peer",
        "real",
        "received_at",
        "replayed",
    )

    def __init__(self, real: Downstream, gate: TurnGate) -> None:
        self.real: Downstream | None = real
        self.peer = real.peer
        self.received_at = real.received_at
        self.is_writing_paused = real.is_writing_paused
        self._can_insert = real.can_insert
        self._takes_chunks = real.takes_chunks
        self.gate: TurnGate | None = gate
        self.owner: Owner | None = None
        self.is_degraded = False
        self.replayed: Callable[[bytes], bytes] | None = None
        self.is_slow = False
        self.passes_resume = False

    def stand_alone(self) -> None:
        """It never had a client: nothing is framed for one."""
        self.real = None
        self.is_writing_paused = self._takes_chunks = False

    def __repr__(self) -> str:
        return f"<TurnClient {'left' if self.real is None else repr(self.real)}>"

    @property
    def unsent(self) -> int:
        return 0 if self.real is None else self.real.unsent

    @property
    def can_insert(self) -> bool:
        return self._can_insert

    @property
    def takes_chunks(self) -> bool:
        return self._takes_chunks

    def local_address(self) -> tuple[str, int]:
        return ("", 0) if self.real is None else self.real.local_address()

    # The response.

    def body_for(self, head: ResponseHead, length: int) -> Body:
        if self.owner is not None:
            return self.owner.body_for(head, length, to_chunks=self._takes_chunks)
        assert self.real is not None
        return self.real.body_for(head, length)

    def send_informational(self, head: ResponseHead) -> int:
        return 0 if self.real is None else self.real.send_informational(head)

    def send_head(
        self, head: ResponseHead, fields: bytes, length: int, may_keep: bool, first: bytes
    ) -> int:
        if self.replayed is not None:
            fields = self.replayed(fields)
        else:
            keeps = self.passes_resume and self.owner is None
            fields = stripped(fields, keeps_resume=keeps)
            if self.owner is not None:
                fields, first = self.owner.head(
                    head, fields, first, to_chunks=self._takes_chunks and length < 0
                )
            elif self.is_degraded:
                fields += _DEGRADED
        if self.real is None:
            return len(first)
        return self.real.send_head(head, fields, length, may_keep, first)

    def send(self, data: bytes) -> None:
        if self.real is not None:
            self.real.send(data)

    def send_data(self, data: bytes) -> None:
        real = self.real
        if real is not None:
            real.send_data(data)
            if self.is_slow and self.owner is not None:
                self.owner.client_is_behind(real.unsent)

    def reply(self, reply: LocalReply, *, may_keep: bool) -> int:
        if self.owner is not None:
            self.owner.replied(reply)
        return 0 if self.real is None else self.real.reply(reply, may_keep=may_keep)

    # The request.

    def pause_reading(self) -> None:
        if self.real is not None:
            self.real.pause_reading()

    def resume_reading(self) -> None:
        if self.real is not None:
            self.real.resume_reading()

    def refuse_rest(self) -> None:
        if self.real is not None:
            self.real.refuse_rest()

    # The end.

    def done(self, now: float, is_read: bool) -> None:
        real = self._ended("--")
        if real is not None:
            real.done(now, is_read)

    def cut_off(self, termination: str) -> None:
        real = self._ended(termination)
        if real is not None:
            real.cut_off(termination)

    def _ended(self, termination: str) -> Downstream | None:
        """The exchange is over -> the client's own side, if it is still there."""
        owner, self.owner = self.owner, None  # each refers to the other
        real, self.real = self.real, None
        if owner is not None:
            owner.ended(termination)
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.over()
        return real

    def open_tunnel(self, tunnel: TunnelSink) -> TunnelEnd:
        assert self.real is not None
        return self.real.open_tunnel(tunnel)
