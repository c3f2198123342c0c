"""The faults of a strategy of one's own, before it gets a request.

`check_class` looks at the class, and `check_picks` has it pick servers of a small pool, in which
some are down, full, failing, slow in their start or of another weight: twice with one seed, which
must give the same picks.
"""

from __future__ import annotations

import inspect
import traceback
from random import Random
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.backends import Pool
from hermes_lb.backends.options import Server as ServerOptions
from hermes_lb.backends.server import Server
from hermes_lb.balancing.base import Learner, Strategy, StrategyOptions, Tracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hermes_lb.backends import Lease

_PICKS: Final = 240
_SERVERS: Final = 6
_MOST_SAID: Final = 200  # characters of an exception


class PluginError(ValueError):
    """A strategy can't be used: what is wrong, where, and what to do."""


def in_words(error: BaseException, doing: str) -> str:
    """The exception and its place, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = frames[-1] if frames else None
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    else:
        place = f"{frame.filename}:{frame.lineno}" if frame is not None else "?"
    # The text may be a client's: on one line, and not endless.
    said = ascii(str(error))[1:-1][:_MOST_SAID]
    return f"{doing} raises {type(error).__name__} at {place}: {said}"


def check_class(found: Any, where: str) -> None:
    """Raises PluginError unless it is a class that can be a strategy; `where`: in words."""
    if not isinstance(found, type) or not issubclass(found, Strategy):
        raise PluginError(f"{where} must be a subclass of hermes_lb.balancing.Strategy")
    if not isinstance(found.options, type) or not issubclass(found.options, StrategyOptions):
        raise PluginError(
            f"options of {where} must be a subclass of hermes_lb.balancing.StrategyOptions"
        )
    if not isinstance(found.rule, str):
        raise PluginError(f"rule of {where} must be a sentence")
    if found.pick is Strategy.pick:
        raise PluginError(f"{where} has no method pick(self, pool, request, now, rng)")
    if inspect.iscoroutinefunction(found.pick):
        raise PluginError(f"pick of {where} must not be async: it is called while a request waits")
    _takes(found.__init__, where, "__init__", "options")
    _takes(found.pick, where, "pick", "pool", "request", "now", "rng")
    _takes(found.explain, where, "explain", "view")
    if issubclass(found, Learner):
        _takes(found.answered, where, "answered", "server", "head", "seconds", "now")
    if issubclass(found, Tracker):
        _takes(found.started, where, "started", "server", "request", "now")


def _takes(method: Callable[..., Any], where: str, name: str, *arguments: str) -> None:
    signature = inspect.signature(method)
    try:
        signature.bind(None, *arguments)
    except TypeError:
        expected = ", ".join(("self", *arguments))
        raise PluginError(
            f"{name} of {where} must take ({expected}), and it takes {signature}"
        ) from None


def check_picks(name: str, found: type[Strategy], options: StrategyOptions) -> None:
    """Raises PluginError unless it picks well, and the same under the same seed."""
    first, second = _play(name, found, options), _play(name, found, options)
    for number, (one, other) in enumerate(zip(first, second, strict=True), 1):
        if one != other:
            raise PluginError(
                f"{name} is not deterministic: its pick {number} was {one} and then {other} with "
                "the same seed; draw from `rng`, read the time from `now`, and keep what it "
                "remembers in the object"
            )


class _Configured:
    """Of a backend, as a pool reads it."""

    outlier = tls = proxy_protocol = None
    protocol = "http/1.1"

    def __init__(self) -> None:
        self.servers = [
            ServerOptions.model_validate(
                {
                    "name": f"s{i}",
                    "address": f"192.0.2.{i + 1}:80",
                    "weight": 1 + i % 2,
                    "max_connections": 2 if i == 1 else 0,
                    "max_fails": 1,
                    "slow_start": 30 if i == 2 else 0,
                    "backup": i == _SERVERS - 1,
                }
            )
            for i in range(_SERVERS)
        ]


class _Request:
    def __init__(self, number: int, tried: Sequence[Server]) -> None:
        self.client_address = f"198.51.100.{number % 7}"
        self.tried = tuple(tried)
        self.session_key = self.pinned_to = None
        self.request_head = (
            b"POST /v1/chat HTTP/1.1\r\nHost: agents\r\nX-Session: %d\r\n"
            b"Content-Length: %d\r\n\r\n" % (number % 5, 100 * number)
        )


class _Answer:
    status = 200

    def fields(self) -> Iterator[tuple[bytes, bytes]]:
        yield b"Content-Type", b"application/json"


def _play(name: str, found: type[Strategy], options: StrategyOptions) -> list[str]:
    """The names that it picks, in a small traffic with trouble."""
    configured: Any = _Configured()
    pool, rng = Pool("check", configured, rng=Random(1)), Random(1)
    leases: list[Lease] = []
    picks: list[str] = []
    doing = "__init__"
    try:
        strategy = found(options)
        for number in range(_PICKS):
            now = number / 10
            _trouble(pool, number, now)
            request = _Request(number, pool.servers[:1] if number % 11 == 0 else ())
            candidates = list(pool.candidates(request.tried, now))
            doing = "pick"
            picked = strategy.pick(pool, request, now, rng)
            if pool.in_flight != len(leases):
                raise PluginError(f"pick of {name} takes a lease: only return the server")
            doing = "has_room"
            if isinstance(strategy, Tracker):
                candidates = [one for one in candidates if strategy.has_room(one, now)]
            _judge(name, picked, candidates, pool)
            picks.append("none" if picked is None else picked.name)
            doing = "started"
            if picked is not None:
                leases.append(pool.lease(picked, now, request))
                doing = "answered"
                if isinstance(strategy, Learner):
                    answer: Any = _Answer()
                    strategy.answered(picked, answer, 0.1, now)
            doing = "ended"
            if len(leases) > 4:
                leases.pop(rng.randrange(len(leases))).release(number)
        doing = "detach"
        strategy.detach(pool)
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(in_words(error, f"{doing} of {name}")) from None
    return picks


def _trouble(pool: Pool, number: int, now: float) -> None:
    """At some of the requests, servers change."""
    match number:
        case 40:
            pool.servers[0].set_up(False, "check")
        case 80:
            pool.servers[3].failed(now, "check")
        case 120:
            pool.servers[2].set_up(False, "check")
            pool.servers[2].set_up(True, "check")
            pool.tick(now)
        case 150:
            pool.servers[4].set_weight(0)
        case 180:
            for server in pool.servers:
                server.set_up(False, "check")
        case 200:
            for server in pool.servers:
                server.set_up(True, "check")
        case _:
            pass


def _judge(name: str, picked: Any, candidates: list[Server], pool: Pool) -> None:
    if picked is None:
        if candidates:
            raise PluginError(
                f"pick of {name} returns None although {len(candidates)} servers can take the "
                "request: return one of pool.candidates(request.tried, now), and None if it is "
                "empty"
            )
    elif not isinstance(picked, Server):
        raise PluginError(f"pick of {name} returns {type(picked).__name__}: return a Server")
    elif picked not in candidates:
        why = "of another pool" if picked not in pool.servers else picked.state
        raise PluginError(
            f"pick of {name} returns a server that can't take the request ({picked.name}, {why}): "
            "return one of pool.candidates(request.tried, now)"
        )
