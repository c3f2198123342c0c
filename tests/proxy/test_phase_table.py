"""The table of phases: transitions, which deadline runs, and which side is waited for."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from hermes_lb.proxy import phases
from hermes_lb.proxy.exchange import Exchange
from hermes_lb.proxy.ports import Downstream, Entrance, Peer
from hermes_lb.proxy.timeouts import PlainTimeouts

pytestmark = pytest.mark.pure_only("a compiled class has no interpreted subclass")

TIMEOUTS = PlainTimeouts(
    request_head=1.0, connect=2.0, client=3.0, server=4.0, tunnel=5.0, keep_alive=6.0, queue=7.0
)
NOW = 100.0
ALL = range(len(phases.TABLE))
name = phases.NAMES.__getitem__


class Client(Downstream):
    """As much of a client's side as an exchange needs to have deadlines."""

    __slots__ = ("peer", "received_at", "unread")

    def __init__(self) -> None:
        self.peer = Peer(Entrance(), b"http")
        self.received_at = NOW
        self.unread = 1000

    @property
    def unsent(self) -> int:
        return self.unread


class Watched(Exchange):
    """An exchange that counts its expiries instead of ending by them."""

    __slots__ = ("expiries",)

    def _expired(self) -> None:
        self.expiries += 1


def exchange_in(phase: int) -> Any:
    head: Any = SimpleNamespace(method=b"GET", target=b"/", length=0)
    context: Any = SimpleNamespace(settings=SimpleNamespace(phase_limits=phases.limits(TIMEOUTS)))
    exchange: Any = Watched(Client(), head, context, NOW)
    exchange.phase = phase
    exchange.expiries = 0
    return exchange


def test_each_row_stands_at_its_number() -> None:
    assert [row.number for row in phases.TABLE] == list(ALL)


@pytest.mark.parametrize("before", ALL, ids=name)
@pytest.mark.parametrize("after", ALL, ids=name)
def test_only_transitions_of_the_table_are_made(before: int, after: int) -> None:
    exchange = exchange_in(before)
    exchange.deadline, exchange.saw_traffic = 55.0, True
    if after in phases.TABLE[before].followed_by:
        exchange.enter(after, NOW)
        assert (exchange.phase, exchange.saw_traffic) == (after, False)
    else:
        with pytest.raises(phases.IllegalTransition, match=rf"^{name(after)} must not follow"):
            exchange.enter(after, NOW)
        assert (exchange.phase, exchange.deadline, exchange.saw_traffic) == (before, 55.0, True)


def test_an_exchange_ends_once() -> None:
    assert not any(phases.END in row.followed_by for row in phases.TABLE[phases.END :])
    assert all(phases.END in row.followed_by for row in phases.TABLE[: phases.END])


@pytest.mark.parametrize("row", phases.TABLE[1:], ids=lambda row: row.name)
def test_its_deadline_is_the_timeout_of_its_row(row: phases.Phase) -> None:
    before = next(one.number for one in phases.TABLE if row.number in one.followed_by)
    exchange = exchange_in(before)
    exchange.enter(row.number, NOW)
    limit = getattr(TIMEOUTS, row.timeout) if row.timeout else inf
    assert exchange.deadline == NOW + limit
    assert (row.kind in (phases.NONE, phases.OWN)) == (limit == inf)


@pytest.mark.parametrize("phase", [phases.QUEUE, phases.DIAL, phases.AWAIT], ids=name)
def test_another_limit_may_be_earlier_and_never_later(phase: int) -> None:
    own = NOW + phases.limits(TIMEOUTS)[phase]
    for until in (NOW + 1.0, NOW + 60.0):
        exchange = exchange_in(phases.ROUTE)
        exchange.enter(phase, NOW, until)
        assert exchange.deadline == min(until, own)


@pytest.mark.parametrize("row", phases.TABLE, ids=lambda row: row.name)
def test_traffic_restarts_an_idle_deadline_and_no_other(row: phases.Phase) -> None:
    exchange = exchange_in(row.number)
    exchange.deadline, exchange.saw_traffic = NOW - 1.0, True
    exchange.sweep(NOW)
    if row.kind == phases.IDLE:
        assert (exchange.expiries, exchange.saw_traffic) == (0, False)
        assert exchange.deadline == NOW + exchange.limits[row.number]
        exchange.sweep(exchange.deadline)
    assert exchange.expiries == 1


@pytest.mark.parametrize("row", phases.TABLE, ids=lambda row: row.name)
def test_a_phase_that_waits_for_a_reader_lasts_while_that_reads(row: phases.Phase) -> None:
    exchange = exchange_in(row.number)
    exchange._taken = -exchange.client.unread
    exchange.client.unread -= 1
    exchange.deadline = NOW - 1.0
    exchange.sweep(NOW)
    assert exchange.expiries == (0 if row.has_progress else 1)
    exchange.sweep(NOW + 60.0)
    assert exchange.expiries == (1 if row.has_progress else 2)


def test_what_was_read_before_a_phase_is_no_progress_in_it() -> None:
    exchange = exchange_in(phases.DATA)
    exchange._taken = -exchange.client.unread
    exchange.client.unread -= 1
    exchange.enter(phases.DATA_SLOW, NOW)
    exchange.sweep(NOW + TIMEOUTS.client)
    assert exchange.expiries == 1


def test_what_was_read_before_traffic_is_no_progress_behind_it() -> None:
    exchange = exchange_in(phases.TUNNEL)
    exchange._taken = -exchange.client.unread
    exchange.client.unread -= 1
    exchange.saw_traffic = True
    exchange.sweep(NOW)
    exchange.sweep(NOW + TIMEOUTS.tunnel)
    assert exchange.expiries == 1


def test_a_reader_that_has_everything_is_not_waited_for() -> None:
    exchange = exchange_in(phases.TUNNEL)
    exchange._taken = -exchange.client.unread
    exchange.client.unread = 0
    exchange.deadline = NOW
    exchange.sweep(NOW)
    assert exchange.expiries == 1


def test_limits_of_before_a_reload_stay() -> None:
    exchange = exchange_in(phases.ROUTE)
    exchange.context.settings = SimpleNamespace(phase_limits=[0.0] * len(phases.TABLE))
    exchange.enter(phases.QUEUE, NOW)
    assert exchange.deadline == NOW + TIMEOUTS.queue
