"""Host, path and what else a route asks -> backend: the first route that matches wins. Pure.

Paths are compared as they were sent, byte for byte: what is forwarded is what was matched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hermes_lb.errors import RequestRefused
from hermes_lb.http.paths import as_servers_read, is_unusual
from hermes_lb.listen.match import Match
from hermes_lb.proxy.destination import Destination
from hermes_lb.proxy.split import Share, Split
from hermes_lb.proxy.stream_rules import NamedTurns, rules_of_named_turns, stream_rules
from hermes_lb.proxy.turns.heads import RESUME_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hermes_lb import config
    from hermes_lb.http import RequestHead
    from hermes_lb.proxy.policies import Policies
    from hermes_lb.proxy.policy import Policy
    from hermes_lb.proxy.select import Backend


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
        backend, _, rules, _, _ = self.destination
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


def _destination(
    route: config.Route, backends: Mapping[str, Backend], policies: Policies | None
) -> Destination:
    rules = stream_rules(route) if route.backend_names else None

    def leading_to(backend: Backend | None) -> Destination:
        is_logged, policy = route.access_log, _policy(policies, route, backend)
        if is_logged is None:
            is_logged = backend is None or backend.is_logged
        # One that answers by itself has no backend, and is asked for none.
        return Destination(cast("Backend", backend), is_logged, rules, policy)

    made = [leading_to(backends[name]) for name in route.backend_names] or [leading_to(None)]
    if len(made) == 1:
        return made[0]
    # One more, whose policy chooses: those of the others are for what they are chosen for.
    entry = leading_to(made[0].backend)._replace(choices=tuple(made))
    if entry.policy is not None:
        shares = [Share(weight, backends[name]) for name, weight in route.backends.items()]
        entry.policy.split = Split(shares, route.split_by)
    return entry


def _policy(
    policies: Policies | None, route: config.Route | None, backend: Backend | None
) -> Policy | None:
    return None if policies is None else policies.of(route, backend)


def _rule(route: config.Route, backends: Mapping[str, Backend], policies: Policies | None) -> _Rule:
    destination = _destination(route, backends, policies)
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


# With one of these, a route does more than to name a backend: it protects, or it rewrites.
_GUARDED = (
    "allow", "deny", "returns", "cors", "strip_prefix", "replace_prefix", "add_prefix",
    "request_headers", "response_headers",
)  # fmt: skip


class Router:
    """The routes of one frontend.

    If one of them protects or rewrites, no request gets around it: a path that leads to another
    route as soon as a server normalises it (`..`, `%2e`, `//`, `;`) is refused. It would be
    compared as one path, and served as another.
    """

    def __init__(
        self,
        frontend: config.Frontend,
        backends: Mapping[str, Backend],
        policies: Policies | None = None,
    ) -> None:
        """`policies`: None: what routes have of their own is left out."""
        rules = [_rule(route, backends, policies) for route in frontend.routes]
        self._rules = [*_named_turns(rules), *rules]
        is_guarded = any(getattr(route, key) for route in frontend.routes for key in _GUARDED)
        self._is_unusual = is_unusual if is_guarded else None
        self._default: Destination | None = None
        if (default := frontend.default_backend) is not None:
            backend = backends[default]
            policy = _policy(policies, None, backend)
            self._default = Destination(backend, backend.is_logged, None, policy)

    def route(self, head: RequestHead) -> Destination | None:
        """None: nothing matches. Raises RequestRefused if that is ambiguous."""
        if self._rules:
            path = head.target.partition(b"?")[0]
            if self._is_unusual is not None and self._is_unusual(path):
                return self._route_unusual(head, path)
            for rule in self._rules:
                if rule.matches(head, path):
                    return rule.destination
        return self._default

    def _route_unusual(self, head: RequestHead, path: bytes) -> Destination | None:
        found, normalised = (
            next((rule.destination for rule in self._rules if rule.matches(head, one)), None)
            for one in (path, as_servers_read(path))
        )
        if found is not normalised:
            raise RequestRefused(400, "the path leads to another route once it is normalised")
        return found or self._default
