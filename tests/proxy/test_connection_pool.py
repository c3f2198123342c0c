"""Idle connections to a server: which one is taken, and what a reload does to them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from hermes_lb.backends import Server
from hermes_lb.backends.dialing import Dialer
from hermes_lb.config import Backend
from hermes_lb.proxy.http1.connection_pool import FRESH, ServerConnections

pytestmark = pytest.mark.pure_only("compiled code takes no fakes for connections and the context")

SERVER = {"name": "agent1", "address": "127.0.0.1:8000"}


class Idle:
    """A connection that was given back."""

    def __init__(self, home: ServerConnections) -> None:
        self.dialer = home._dialer
        self.idle_since = 0.0
        self.news = False
        self.is_closed = False
        self.transport = SimpleNamespace(is_closing=lambda: self.is_closed)

    def has_news(self) -> bool:
        return self.news

    def close(self) -> None:
        self.is_closed = True


def dialer(**backend: Any) -> Dialer:
    return Dialer.of("agents", Backend.model_validate({"servers": [SERVER], **backend}))


@pytest.fixture
def home() -> ServerConnections:
    configured = Backend.model_validate({"servers": [SERVER]}).servers[0]
    context = cast("Any", SimpleNamespace(live=SimpleNamespace(is_draining=False)))
    return ServerConnections(
        context, Server(configured), keep=2, idle_timeout=60.0, dialer=dialer()
    )


def given_back(home: ServerConnections, now: float, **state: bool) -> Idle:
    connection = Idle(home)
    vars(connection).update(state)
    home.put_idle(cast("Any", connection), now)
    return connection


def test_the_one_that_was_used_last_is_taken_first(home: ServerConnections) -> None:
    first, second = given_back(home, 1.0), given_back(home, 2.0)
    taken = [home.take_idle(3.0, fresh_only=False) for _ in range(3)]
    assert taken == [second, first, None]


def test_one_with_news_is_passed_over_and_not_lost(home: ServerConnections) -> None:
    quiet, other = given_back(home, 1.0), given_back(home, 1.1, news=True)
    assert home.take_idle(1.2, fresh_only=False) is cast("Any", quiet)
    assert home.take_idle(1.2, fresh_only=False) is None
    other.news = False  # it was a session ticket, and the loop has read it
    assert home.take_idle(1.3, fresh_only=False) is cast("Any", other)


def test_what_may_not_be_repeated_takes_a_fresh_one_only(home: ServerConnections) -> None:
    given_back(home, 1.0)
    assert home.take_idle(1.0 + FRESH + 0.1, fresh_only=True) is None
    assert home.idle == 1


def test_what_is_too_much_is_closed_the_oldest_first(home: ServerConnections) -> None:
    kept = [given_back(home, now) for now in (1.0, 2.0, 3.0, 4.0)]
    assert [connection.is_closed for connection in kept] == [True, True, False, False]
    assert [home.take_idle(4.1, fresh_only=False) for _ in range(3)] == [kept[3], kept[2], None]


def test_after_a_pause_what_may_not_be_repeated_finds_fresh_ones_again(
    home: ServerConnections,
) -> None:
    """One dial for each place, and no more: stale connections do not keep fresh ones out."""
    dials = 0
    for burst in range(5):
        now = burst * 10.0
        for _ in range(100):
            now += FRESH / 100
            at_once = [home.take_idle(now, fresh_only=True) for _ in range(2)]
            for connection in at_once:
                dials += connection is None
                home.put_idle(connection or cast("Any", Idle(home)), now)
    assert dials == 5 * 2
    assert home.idle == 2


def test_after_a_reload_that_changes_nothing_they_stay(home: ServerConnections) -> None:
    kept = given_back(home, 1.0)
    home.reconfigure(keep=1, idle_timeout=60.0, dialer=dialer())
    assert home.take_idle(1.1, fresh_only=False) is cast("Any", kept)


def test_one_that_was_made_in_another_way_serves_nobody_any_more(home: ServerConnections) -> None:
    idle, busy = given_back(home, 1.0), Idle(home)
    home.reconfigure(keep=2, idle_timeout=60.0, dialer=dialer(tls={"verify": False}))
    assert idle.is_closed
    home.put_idle(cast("Any", busy), 2.0)
    assert busy.is_closed
    assert home.idle == 0


def test_a_connection_that_begins_with_its_clients_address_is_not_kept(
    home: ServerConnections,
) -> None:
    home.reconfigure(keep=2, idle_timeout=60.0, dialer=dialer(proxy_protocol="v1"))
    assert given_back(home, 1.0).is_closed
