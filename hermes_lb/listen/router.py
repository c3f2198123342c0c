"""Host and path -> backend: the first route that matches wins. Pure.

Paths are compared as they were sent, byte for byte: what is forwarded is what was matched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.proxy.resume import rules_of_named_turns, stream_rules
from hermes_lb.proxy.turns.heads import RESUME_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hermes_lb import config
    from hermes_lb.proxy.resume import StreamRules
    from hermes_lb.proxy.select import Backend


class Destination(NamedTuple):
    """Where a request goes, whether the access log shows it, and what holds for its streams."""

    backend: Backend
    is_logged: bool
    rules: StreamRules | None


class _Rule:
    """A route, ready to be compared with a request."""

    __slots__ = ("_host", "_is_suffix", "_path", "_prefix", "destination")

    def __init__(
        self, destination: Destination, host: str | None, path: str | None, prefix: str | None
    ) -> None:
        host = (host or "").removesuffix(".")
        self._is_suffix = host.startswith("*.")
        self._host = host[1:] if self._is_suffix else host
        self._path = path.encode() if path else b""
        self._prefix = prefix.encode() if prefix else b""
        self.destination = destination

    @property
    def has_turns(self) -> bool:
        rules = self.destination.rules
        return rules is not None and rules.turns is not None

    def matches(self, host_name: str, path: bytes) -> bool:
        if self._host:
            if self._is_suffix:
                if not host_name.endswith(self._host):
                    return False
            elif host_name != self._host:
                return False
        if self._path:
            return path == self._path
        return path.startswith(self._prefix)


def _named_turns(routes: list[Destination]) -> _Rule:
    """The path at which the turns of these routes are found by their ids."""
    turns = tuple(one.rules.turns for one in routes if one.rules and one.rules.turns)
    destination = Destination(routes[0].backend, True, rules_of_named_turns(turns))
    return _Rule(destination, None, None, RESUME_PATH.decode())


class Router:
    """The routes of one frontend."""

    def __init__(self, frontend: config.Frontend, backends: Mapping[str, Backend]) -> None:
        self._rules = [
            _Rule(
                Destination(backends[route.backend], route.access_log, stream_rules(route)),
                route.host,
                route.path,
                route.path_prefix,
            )
            for route in frontend.routes
        ]
        turns = [rule.destination for rule in self._rules if rule.has_turns]
        if turns:
            self._rules.insert(0, _named_turns(turns))
        default = frontend.default_backend
        self._default = Destination(backends[default], True, None) if default else None

    def route(self, host_name: str, target: bytes) -> Destination | None:
        """`host_name` in lower case without a port; None: nothing matches."""
        if self._rules:
            path = target.partition(b"?")[0]
            for rule in self._rules:
                if rule.matches(host_name, path):
                    return rule.destination
        return self._default
