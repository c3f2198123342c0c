"""Which requests to a backend with turns have a gate, and which kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.proxy.turns.heads import without_ours
from hermes_lb.proxy.turns.problems import TurnProblem
from hermes_lb.proxy.turns.resume_gate import ResumeGate
from hermes_lb.proxy.turns.turn import Turn

if TYPE_CHECKING:
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import TurnRequest
    from hermes_lb.proxy.stream_rules import StreamRules

# Methods that are never turns; neither is an upgrade.
_NEVER = frozenset((b"HEAD", b"OPTIONS", b"TRACE"))


def open_turn(exchange: TurnRequest, rules: StreamRules | None, context: Context) -> bool:
    """Give the request its gate, if it needs one. False: it was answered.

    Whatever its route, our own fields are removed from it: the backend believes them.
    """
    exchange.rewrite(without_ours(exchange.request_head))
    gateway, head = context.turns, exchange.head
    if rules is None or gateway is None:
        return True
    if rules.named_turns:
        ResumeGate(exchange, context, gateway, rules.named_turns)
    elif rules.turns is not None and head.method not in _NEVER and not head.upgrade:
        turn = Turn(exchange, context, gateway, rules)
        try:
            turn.read_head()
        except TurnProblem as problem:
            turn.refuse(problem)
            return False
    return True
