"""Host, path and what else a route asks -> backend: the first route that matches wins. Pure.

Paths are compared as they were sent, byte for byte: what is forwarded is what was matched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.listen.match import Match
from hermes_lb.proxy.stream_rules import NamedTurns, rules_of_named_turns, stream_rules
from hermes_lb.proxy.turns.heads import RESUME_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hermes_lb import config
    from hermes_lb.http import RequestHead
    from hermes_lb.proxy.select import Backend
    from hermes_lb.proxy.stream_rules import StreamRules


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
    def turns(self) -> NamedTurns | None:
        backend, _, rules = self.destination
        if rules is None or rules.turns is None:
            return None
        return NamedTurns(backend, rules, rules.turns)

    def matches(self, head: RequestHead, path: bytes) -> bool:
        if self._host:
            host_name = head.host_name
            if self._is_suffix:
                if not host_name.endswith(self._host):
                    return False
            elif host_name != self._host:
                return False
        if self._path:
            return path == self._path
        return path.startswith(self._prefix)


class _RuleWithMatch(_Rule):
    """One that looks at more than host and path, if these fit."""

    __slots__ = ("_match",)

    def __init__(self, destination: Destination, route: config.Route, match: config.Match) -> None:
        super().__init__(destination, route.host, route.path, route.path_prefix)
        self._match = Match(match)

    def matches(self, head: RequestHead, path: bytes) -> bool:
        return super().matches(head, path) and self._match.holds(head)


def _rule(route: config.Route, backends: Mapping[str, Backend]) -> _Rule:
    destination = Destination(backends[route.backend], route.access_log, stream_rules(route))
    if route.match is None:
        return _Rule(destination, route.host, route.path, route.path_prefix)
    return _RuleWithMatch(destination, route, route.match)


def _named_turns(rules: list[_Rule]) -> list[_Rule]:
    """The path at which the turns of these routes are found by their ids."""
    turns = tuple(rule.turns for rule in rules if rule.turns is not None)
    if not turns:
        return []
    destination = Destination(turns[0].backend, True, rules_of_named_turns(turns))
    return [_Rule(destination, None, None, RESUME_PATH.decode())]


class Router:
    """The routes of one frontend."""

    def __init__(self, frontend: config.Frontend, backends: Mapping[str, Backend]) -> None:
        rules = [_rule(route, backends) for route in frontend.routes]
        self._rules = [*_named_turns(rules), *rules]
        default = frontend.default_backend
        self._default = Destination(backends[default], True, None) if default else None

    def route(self, head: RequestHead) -> Destination | None:
        """None: nothing matches. Raises RequestRefused if that is ambiguous."""
        if self._rules:
            path = head.target.partition(b"?")[0]
            for rule in self._rules:
                if rule.matches(head, path):
                    return rule.destination
        return self._default
