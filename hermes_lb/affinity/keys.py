"""Stick rules: a key in the request decides the server. Pure.

In order, the first rule whose key is in the request counts. A rule that hashes finds the same
server on every balancer; one that learns knows what responses told it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.http.keys import key_finder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb import config
    from hermes_lb.http import ResponseHead

#: Bytes of a key; a longer one is no session's id, and is not kept.
MOST_IN_KEY = 256


class StickRule:
    """One `[[backends.NAME.stick]]`."""

    def __init__(self, configured: config.Stick) -> None:
        self.learns = configured.learn
        self.is_strict = configured.on_lost == "strict"
        self._find = None if configured.on == "client" else key_finder(configured.on)
        kind, _, name = configured.on.partition(":")
        told = configured.response_header or (name if kind == "header" else "")
        self._response_field = told.lower().encode()

    def key_of(self, request_head: bytes, client_address: str) -> bytes:
        """b"" if the request has none."""
        if self._find is None:
            return client_address.encode()
        key = self._find(request_head)
        return key if len(key) <= MOST_IN_KEY else b""

    def key_in_response(self, head: ResponseHead) -> bytes:
        """What the server calls the session; b"" if it says nothing."""
        wanted = self._response_field
        if wanted:
            for name, value in head.fields():
                if name.lower() == wanted and len(value) <= MOST_IN_KEY:
                    return value
        return b""


class Stuck(NamedTuple):
    """A request's key, and the rule that it goes by."""

    rule: StickRule
    key: bytes


class StickRules:
    """All of one backend."""

    def __init__(self, configured: Sequence[config.Stick]) -> None:
        self._rules = [StickRule(rule) for rule in configured]
        self.learning = [rule for rule in self._rules if rule.learns]

    def find(self, request_head: bytes, client_address: str) -> Stuck | None:
        for rule in self._rules:
            if key := rule.key_of(request_head, client_address):
                return Stuck(rule, key)
        return None

    def learnt(self, stuck: Stuck | None, head: ResponseHead) -> list[bytes]:
        """The keys that belong to the server which answered with `head`."""
        keys = [key for rule in self.learning if (key := rule.key_in_response(head))]
        # Unknown before, or moved: a server that does not know the session would say so.
        if stuck is not None and stuck.rule.learns and head.status < 400:
            keys.append(stuck.key)
        return keys
