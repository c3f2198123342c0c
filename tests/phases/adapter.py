"""What the recorder knows of the data path. After a refactoring only this file changes.

A state consists of facts, not of the code's own name for it: with a server whose write buffer is
full, an upload is BLOCKED, whatever the code calls that. So a recording from before a refactoring
can be compared with one from after it.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from hermes_lb.proxy import phases
from hermes_lb.proxy import resume as stream_module
from hermes_lb.proxy.exchange import Exchange
from hermes_lb.proxy.http1 import client as client_module
from hermes_lb.proxy.http1.client import ClientConnection
from hermes_lb.proxy.http1.tunnel_end import ClientEnd, ServerEnd
from hermes_lb.proxy.http1.upstream import UpstreamConnection
from hermes_lb.proxy.resume import EventStream
from hermes_lb.proxy.timeouts import PlainTimeouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Constants that are timeouts: module, name, and the name in a recording.
_CONSTANTS = [
    (client_module, "_GRACE", "grace"),
    (client_module, "_LINGER", "linger"),
    (stream_module, "_MOST_FOR_ATTEMPT", "attempt"),
]


class Timeout(float):
    """Seconds that keep the name of their timeout; so does the sum of a time and a timeout."""

    __slots__ = ("name",)

    def __new__(cls, seconds: float, name: str = "unnamed") -> Timeout:
        self = super().__new__(cls, seconds)
        self.name = name
        return self

    def __add__(self, other: float) -> Timeout:
        return Timeout(float(self) + other, self.name)

    __radd__ = __add__


@contextmanager
def named_timeouts() -> Iterator[None]:
    """All timeouts of balancers that are made meanwhile are `Timeout`s."""
    set_timeouts, set_stream = PlainTimeouts.__init__, EventStream.__init__

    def init_timeouts(self: PlainTimeouts, *values: float, **named: float) -> None:
        named.update(zip(PlainTimeouts.__slots__, values, strict=False))
        set_timeouts(self, **{name: Timeout(value, name) for name, value in named.items()})

    def init_stream(self: EventStream, exchange: Any, rules: Any, *rest: Any) -> None:
        limit = Timeout(rules.timeout, "resume_timeout")
        set_stream(self, exchange, rules._replace(timeout=limit), *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlainTimeouts, "__init__", init_timeouts)
        patch.setattr(EventStream, "__init__", init_stream)
        for module, constant, name in _CONSTANTS:
            patch.setattr(module, constant, Timeout(getattr(module, constant), name))
        yield


class Look(NamedTuple):
    """A client's connection and its exchange at one moment.

    `timeout`: which one set the deadline. `idle`: which one moves it. `saw_traffic`: the next sweep
    will do so.
    """

    phase: str
    deadline: float
    timeout: str
    idle: str
    saw_traffic: bool
    is_writing_paused: bool


def look_at(client: ClientConnection) -> Look:
    exchange = client.exchange
    if exchange is None:
        deadline, idle, saw_traffic = client.deadline, "unnamed", False
    else:
        deadline, phase = exchange.deadline, exchange.phase
        idle = _name_of(exchange.limits[phase]) if phases.IS_IDLE[phase] else "unnamed"
        saw_traffic = exchange.saw_traffic and phases.IS_IDLE[phase]
    return Look(
        _phase_of(client),
        deadline,
        "none" if deadline == math.inf else _name_of(deadline),
        idle,
        saw_traffic,
        client.is_writing_paused,
    )


def _name_of(seconds: float) -> str:
    return seconds.name if isinstance(seconds, Timeout) else "unnamed"


def _phase_of(client: ClientConnection) -> str:
    exchange = client.exchange
    if client.transport is None:
        return "NEW"
    if client not in client.context.live.clients:
        return "GONE"
    if exchange is None:
        if client.is_closing:
            return "CLOSING"
        return "IDLE" if client._has_served and not client._held else "HEAD"
    name = phases.NAMES[exchange.phase]
    letter = "T" if name == "TUNNEL" else exchange.letter
    if name == "AWAIT" and exchange.upstream is None:
        name = "LOST"
    resumes = "+resume" if exchange.stream is not None and letter in "QCH" else ""
    return f"{letter} {name}{resumes}"


def has_expired(look: Look, now: float) -> bool:
    """True if a sweep at `now` finds the deadline passed."""
    return look.deadline <= now and not look.saw_traffic


class Entry(NamedTuple):
    """An entry point: a method that the loop, a timer, a task or another exchange calls.

    `event`: its name in a recording, from the object and the arguments. `is_quiet`: it is recorded
    only if it changes something, since how often it is called depends on the time. `client`: None
    if the object serves none.
    """

    owner: type
    method: str
    event: Callable[..., str]
    client: Callable[[Any], ClientConnection | None]
    is_quiet: bool = False


def _itself(client: Any) -> Any:
    return client


def _its_client(exchange: Any) -> Any:
    return exchange.client


def _client_of_upstream(upstream: Any) -> Any:
    return upstream.sink.client if isinstance(upstream.sink, Exchange) else None


def _client_of_stream(stream: Any) -> Any:
    return stream._exchange.client


def _client_of_tunnel(end: Any) -> Any:
    return end._traffic.client


def _named(name: str) -> Callable[..., str]:
    return lambda *_: name


def _by_error(name: str) -> Callable[..., str]:
    return lambda _, error: f"{name} ({type(error).__name__})"


def _by_side(name: str) -> Callable[..., str]:
    return lambda end, *_: (
        f"tunnel: {name} of the {'client' if isinstance(end, ClientEnd) else 'server'}"
    )


def _swept(client: ClientConnection, now: float) -> str:
    return "expired" if has_expired(look_at(client), now) else "swept"


ENTRIES = [
    # The client's connection.
    Entry(ClientConnection, "connection_made", _named("connected"), _itself),
    Entry(ClientConnection, "came_from", _named("address known"), _itself),
    Entry(
        ClientConnection,
        "process",
        lambda client, _: "request head" if client.exchange is None else "request data",
        _itself,
    ),
    Entry(ClientConnection, "_next_pipelined", _named("next pipelined"), _itself),
    Entry(ClientConnection, "eof_received", _named("client left"), _itself),
    Entry(ClientConnection, "connection_lost", _named("client lost"), _itself),
    Entry(ClientConnection, "pause_writing", _named("client slow"), _itself),
    Entry(ClientConnection, "resume_writing", _named("client caught up"), _itself),
    Entry(ClientConnection, "sweep", _swept, _itself, is_quiet=True),
    Entry(ClientConnection, "close_gracefully", _named("frontend stopped"), _itself),
    Entry(ClientConnection, "refuse", _named("refused"), _itself),
    Entry(ClientConnection, "reject", _named("rejected"), _itself),
    Entry(ClientConnection, "cut", _named("cut"), _itself),
    Entry(ClientConnection, "close", _named("closed"), _itself),
    Entry(ClientConnection, "abort", _named("aborted"), _itself),
    # The exchange: its request, and the way to a server.
    Entry(Exchange, "receive", _named("request data"), _its_client),
    Entry(Exchange, "dispatch", _named("pin known"), _its_client),
    Entry(Exchange, "lease_granted", _named("lease granted"), _its_client),
    Entry(Exchange, "server_lost", _named("server lost"), _its_client),
    Entry(Exchange, "fail", _by_error("failed"), _its_client),
    Entry(Exchange, "_send", _named("dialled"), _its_client),
    Entry(Exchange, "_turned_around", _named("retry timer"), _its_client),
    Entry(EventStream, "_go_on_searching", _named("retry timer"), _client_of_stream),
    Entry(EventStream, "server_lost", _named("server stands still"), _client_of_stream),
    Entry(EventStream, "_comment", _named("comment"), _client_of_stream, is_quiet=True),
    Entry(EventStream, "_look_for_silence", _named("comment"), _client_of_stream, is_quiet=True),
    # What its server says.
    Entry(Exchange, "server_failed", _by_error("server failed"), _its_client),
    Entry(Exchange, "informational", lambda _, head: f"informational {head.status}", _its_client),
    Entry(
        Exchange,
        "response_head",
        lambda _, __, head, ___: "response head" + " 101" * (head.status == 101),
        _its_client,
    ),
    Entry(Exchange, "response_data", _named("response data"), _its_client),
    Entry(Exchange, "response_ended", _named("response ended"), _its_client),
    Entry(UpstreamConnection, "pause_writing", _named("server slow"), _client_of_upstream),
    Entry(UpstreamConnection, "resume_writing", _named("server caught up"), _client_of_upstream),
    # Ends.
    Entry(Exchange, "shut_down", _named("shut down"), _its_client),
    # Tunnels.
    Entry(ClientEnd, "data_received", _by_side("data"), _client_of_tunnel),
    Entry(ClientEnd, "eof_received", _by_side("end"), _client_of_tunnel),
    Entry(ClientEnd, "pause_writing", _by_side("slow"), _client_of_tunnel),
    Entry(ClientEnd, "resume_writing", _by_side("caught up"), _client_of_tunnel),
    Entry(ClientEnd, "connection_lost", _by_side("loss"), _client_of_tunnel),
    Entry(ServerEnd, "data_received", _by_side("data"), _client_of_tunnel),
    Entry(ServerEnd, "eof_received", _by_side("end"), _client_of_tunnel),
    Entry(ServerEnd, "pause_writing", _by_side("slow"), _client_of_tunnel),
    Entry(ServerEnd, "resume_writing", _by_side("caught up"), _client_of_tunnel),
    Entry(ServerEnd, "connection_lost", _by_side("loss"), _client_of_tunnel),
]

#: Called with `(exchange, termination, now)` at the one end of an exchange.
FINISH = (Exchange, "finish")
#: Methods behind which a client's connection ends at once, and its deadline means nothing any more.
ABORTS = [
    (ClientConnection, "abort", _itself),
    (ClientConnection, "eof_received", _itself),
    (Exchange, "client_left", _its_client),
]
