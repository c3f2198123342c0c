"""A turn's record, as the scripts return it (`record_of` in lua/turn.lua)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.turns.ports import Record
from hermes_lb.turns.states import RUNNING
from hermes_lb.turns.store.keys import TurnName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.turns.store.link import Reply


class StoredTurn(NamedTuple):
    """A record, and what only the store needs. `owner`: its incarnation; "" for none.

    `is_abandoned`: it has had no owner for longer than a turn may go on without a client.
    """

    record: Record
    principal: str
    key: str
    session: str
    nonce: str
    owner: str
    is_abandoned: bool

    @property
    def can_be_taken_over(self) -> bool:
        """Its stream has begun, and its backend can continue it."""
        record = self.record
        return record.state == RUNNING and record.is_stream and bool(record.resume_path)

    @property
    def name(self) -> TurnName:
        return TurnName(self.record.id, self.principal, self.nonce, self.key, self.session)


def read_stored(turn: str, fields: Sequence[Reply]) -> StoredTurn | None:
    """None for a turn that is unknown."""
    principal, state, fence, fingerprint, key, head, is_stream, reason, *rest = fields
    if principal is None:
        return None
    server, resume_path, first, last, attempt, begun, ended, kept_until, nonce, owner, *rest = rest
    session, orphaned, linger, origin, retry, now = rest
    record = Record(
        id=turn,
        state=int(state),
        fence=int(fence or 0),
        fingerprint=_text(fingerprint),
        has_key=bool(key),
        head=head or b"",
        is_stream=is_stream == b"1",
        reason=_text(reason),
        server=_text(server),
        resume_path=_text(resume_path),
        first=int(first or 0),
        last=int(last or 0),
        is_kept=int(now) < int(kept_until) if kept_until else True,
        attempt=int(attempt or 1),
        begun_at=int(begun or 0) / 1000,
        ended_at=int(ended or 0) / 1000,
        origin=_text(origin),
        retry=_text(retry),
    )
    return StoredTurn(
        record, _text(principal), _text(key), _text(session), _text(nonce), _text(owner),
        bool(orphaned) and int(now) - int(orphaned) > int(linger or 0),
    )  # fmt: skip


def _text(field: bytes | None) -> str:
    return "" if field is None else field.decode("utf-8", "surrogateescape")
