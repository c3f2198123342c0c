"""Host and path -> backend: the first route that matches wins. Pure.

Paths are compared as they were sent, byte for byte: what is forwarded is what was matched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.proxy.resume import stream_rules

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

    def __init__(self, route: config.Route, destination: Destination) -> None:
        host = (route.host or "").removesuffix(".")
        self._is_suffix = host.startswith("*.")
        self._host = host[1:] if self._is_suffix else host
        self._path = route.path.encode() if route.path else b""
        self._prefix = route.path_prefix.encode() if route.path_prefix else b""
        self.destination = destination

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


class Router:
    """The routes of one frontend."""

    def __init__(self, frontend: config.Frontend, backends: Mapping[str, Backend]) -> None:
        self._rules = [
            _Rule(
                route, Destination(backends[route.backend], route.access_log, stream_rules(route))
            )
            for route in frontend.routes
        ]
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
