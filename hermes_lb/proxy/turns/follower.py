"""A request that is answered from the turn of another one."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, cast

from hermes_lb.proxy import phases
from hermes_lb.proxy.local_replies import LocalReply
from hermes_lb.proxy.turns import event_ids, heads
from hermes_lb.proxy.turns.journal_side import JournalSide
from hermes_lb.proxy.turns.place import Place
from hermes_lb.proxy.turns.problems import (
    TurnProblem,
    key_reused,
    outcome_unknown,
    result_not_kept,
    turn_cancelled,
)
from hermes_lb.turns import states
from hermes_lb.turns.ports import Trimmed

if TYPE_CHECKING:
    from hermes_lb.proxy.ports import ResponseSink
    from hermes_lb.proxy.turns.gate import Gate
    from hermes_lb.proxy.turns.rules import TurnRules
    from hermes_lb.turns.ports import Record


async def follow(
    gate: Gate, record: Record, last_event_id: bytes, rules: TurnRules, *, fingerprint: str = ""
) -> None:
    """Answer with the response of a turn, behind an event that the client has.

    `fingerprint`: of a request that has joined by its key; "": the turn was named by its id.
    Raises TurnProblem and StoreAway.
    """
    is_joined = bool(fingerprint)
    if gate.exchange is None:  # its client has left
        return
    gate.follows(record)
    _compare(record, fingerprint)
    if not record.head and record.state not in states.ENDED:
        record = await _with_head(gate, record)
        gate.follows(record)
        _compare(record, fingerprint)  # all of the owner's request has come meanwhile
    if record.state == states.RELEASED:
        _released(gate, record, is_joined=is_joined)
        return
    if not record.head:
        raise _ended_without_head(record)
    place = Place(gate.gateway.store, record, gate.context.tasks)
    if record.resume_path and rules.takeover is not None:
        place.ahead = rules.takeover  # its owner may be dead, and the backend sends it again
    try:
        await place.open(last_event_id)
        if record.state in states.ENDED and not await place.has_more():
            is_answered = _nothing_more(gate, record, had_some=bool(last_event_id))
            if is_answered:
                place.close()
                return
    except BaseException as error:
        place.close()
        if isinstance(error, Trimmed):  # it came late: `open` waits for it only for a moment
            raise result_not_kept(record.id) from None
        raise
    _replay(gate, record, place, rules, is_joined=is_joined)


def _compare(record: Record, fingerprint: str) -> None:
    if fingerprint and record.fingerprint and record.fingerprint != fingerprint:
        raise key_reused(record.id)


async def _with_head(gate: Gate, record: Record) -> Record:
    """Wait for the response's head as long as its owner may take for it."""
    exchange = gate.exchange
    limits = gate.context.settings.phase_limits if exchange is None else exchange.limits
    # In the session's queue, in the backend's, for a connection, for the response.
    patience = 2 * limits[phases.QUEUE] + limits[phases.DIAL] + limits[phases.AWAIT]
    reading = gate.gateway.store.follow(record, 0)
    try:
        async with asyncio.timeout(patience):
            return await reading.head()
    except TimeoutError:
        raise TurnProblem(
            504, "no_response_yet", "the turn has no response yet", turn=record.id
        ) from None
    finally:
        reading.close()


def _ended_without_head(record: Record) -> TurnProblem:
    if record.state == states.CANCELLED:
        return turn_cancelled(record.id)
    return outcome_unknown(record.id, record.reason)


def _released(gate: Gate, record: Record, *, is_joined: bool) -> None:
    """The key is free. Those that had joined get the answer that its owner got."""
    exchange = gate.exchange
    if exchange is None:
        return
    reply = heads.parse_answer(record.head) if is_joined else None
    if reply is None:
        if not is_joined:
            raise result_not_kept(record.id)
        raise TurnProblem(503, "released", "the request was not executed", retry_after=1)
    if b"retry-after:" not in reply.fields.lower():
        reply = reply._replace(fields=reply.fields + b"Retry-After: 1\r\n")
    gate.count("joined")
    exchange.reply(reply, "LR", may_keep=exchange.may_keep_client)


def _nothing_more(gate: Gate, record: Record, *, had_some: bool) -> bool:
    """The turn has ended, and the client has all of it. False: it gets the head, and no body."""
    if record.state != states.DONE:
        raise _ended_without_head(record)
    exchange = gate.exchange
    if not had_some or exchange is None:
        return exchange is None
    # EventSource connects again after any other answer (HTML section 9.2.3).
    gate.count("resumed")
    fields = b"X-Hermes-Turn: %b\r\nCache-Control: no-store\r\n" % record.id.encode()
    exchange.reply(
        LocalReply(204, fields + gate.cors),
        "LR",
        may_keep=exchange.may_keep_client,
    )
    return True


def _replay(gate: Gate, record: Record, place: Place, rules: TurnRules, *, is_joined: bool) -> None:
    exchange, context = gate.exchange, gate.context
    if exchange is None:
        place.close()
        return
    is_get = exchange.head.method == b"GET"
    is_finished = record.state == states.DONE
    gate.count("resumed" if place.after else "replayed" if is_finished else "joined")
    gate.client.replayed = partial(
        _fields,
        record=record,
        is_get=is_get,
        is_replay=is_finished and is_joined,
        vary=rules.principals.vary,
    )
    first = b""
    if record.is_stream and place.after:
        # The last one may be in an event that the client does not get again. One line end: it is
        # no event of its own.
        first = b"retry: %b\n" % record.retry.encode() if record.retry else b""
    elif record.is_stream and is_get:
        first = b"id: %b0\n\n" % event_ids.prefix(record.id)
    head = heads.parse_stored(record.head)
    side = JournalSide(context, place, cast("ResponseSink", exchange))
    exchange.replay(side, head, record.server, first)
    if not exchange.is_over:
        if record.is_stream:
            gate.keep_alive(rules.keep_alive, lambda: True)  # only whole events are in a journal
        side.start()


def _fields(fields: bytes, *, record: Record, is_get: bool, is_replay: bool, vary: bytes) -> bytes:
    fields = heads.for_turn(fields, record.id, is_stream=record.is_stream, is_get=is_get, vary=vary)
    return fields + b"Idempotency-Replayed: true\r\n" if is_replay else fields
