"""Going on with a turn whose owner has died, if its backend can continue its stream.

A request of the same principal that is there makes it possible: it sends GET of the backend's path
with its own fields, behind the last event of the journal. The answer is a request of its own,
without a client, that executes the rest; its followers, that request included, read on in the
journal. No credential is stored, so without such a request nothing is taken over.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from hermes_lb.http import RequestHead
from hermes_lb.proxy.resume import ACCEPTS_HANDOVER
from hermes_lb.proxy.turns import event_ids, heads
from hermes_lb.proxy.turns.executing import Executing
from hermes_lb.turns.ports import Fenced, StoreAway

if TYPE_CHECKING:
    from hermes_lb.proxy.ports import TurnRequest
    from hermes_lb.proxy.stream_rules import StreamRules
    from hermes_lb.proxy.turns.gate import Gate
    from hermes_lb.proxy.turns.owner import Owner
    from hermes_lb.proxy.turns.rules import TurnRules
    from hermes_lb.turns.ports import Takeover

logger = logging.getLogger("hermes_lb")


def attend(gate: Gate, principal: str, rules: StreamRules) -> None:
    """While this request is there, turns of its principal can be taken over."""
    if rules.resumes and principal:
        gate.attend(principal, partial(_take_over_soon, gate, principal, rules))


def _take_over_soon(gate: Gate, principal: str, rules: StreamRules, turn: str) -> bool:
    if _asking(gate) is None:
        return False
    work = _take_over(gate, principal, rules, turn)
    gate.context.tasks.spawn(work, name="takeover of a turn")
    return True


def _asking(gate: Gate) -> TurnRequest | None:
    """Its request, whose fields another one can be made of; None: it is over, or its own response
    has begun, with which the fields are dropped."""
    exchange = gate.exchange
    return exchange if exchange is not None and exchange.request_head else None


async def _take_over(gate: Gate, principal: str, rules: StreamRules, turn: str) -> None:
    turn_rules, taken = rules.turns, None
    assert turn_rules is not None
    try:
        taken = await gate.gateway.store.take_over(turn_rules.claim(principal), turn)
        if taken is not None:
            await _go_on(gate, rules, turn_rules, taken)
    except (StoreAway, Fenced):  # the store repeats what has to be, and followers look again
        return
    except Exception:  # a bug must not keep its followers waiting, nor its session
        logger.exception("while taking over the turn of %r", gate.exchange)
        if taken is not None:
            with suppress(StoreAway, Fenced):
                await taken.owned.lost("owner_died")


async def _go_on(gate: Gate, rules: StreamRules, turn_rules: TurnRules, taken: Takeover) -> None:
    after = _last_id(taken)
    exchange = _asking(gate)
    if after is None:
        await taken.owned.lost("owner_died")
    elif exchange is None:
        await taken.owned.orphan()  # for the next request
    else:
        head = RequestHead(b"GET", taken.resume_path.encode(), 1)
        other = exchange.another(head, rules)
        fields = b"" if ACCEPTS_HANDOVER in other.request_head else ACCEPTS_HANDOVER
        if turn_rules.has_sessions:
            fields += heads.fence_field(taken.owned.fence)
        other.rewrite(heads.with_field(other.request_head, fields))
        successor = Successor(other, gate.context, gate.gateway, turn_rules)
        try:
            successor.go_on(taken, after)
        except Exception:
            other.abort_client("P" + other.letter)
            raise


def _last_id(taken: Takeover) -> bytes | None:
    """The id of the last event that is stored; b"" before the first one; None: it is unknown."""
    for batch in reversed(taken.tail):
        for event_id in reversed(event_ids.ids_of(batch.data)):
            if event_id:
                return event_id
    return None if taken.last else b""


class Successor(Executing):
    """The rest of a turn that another process has begun."""

    __slots__ = ()

    def go_on(self, taken: Takeover, after: bytes) -> None:
        """`after`: the last id that the turn's clients have or can get."""
        exchange = self._exchange
        assert exchange is not None
        owner = self.own(taken.owned, has_key=False)
        self._client.stand_alone()
        self.stand_alone()
        self.count("taken_over")
        exchange.continue_stream(taken.resume_path.encode(), after)
        if not self._goes_on_alone(owner):
            self.spawn(self._end_with_its_followers(owner))

    def _goes_on_alone(self, owner: Owner) -> bool:
        return self.rules.may_detach

    def may_be_sent(self) -> bool:
        return True
