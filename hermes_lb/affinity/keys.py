"""Session keys: a key in the request decides the server. Pure.

The first rule whose key is in the request counts. A rule that hashes finds the same server on every
balancer; one that learns finds the server whose response has named the key (`table`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from hermes_lb.http.keys import STICK_ON, key_finder
from hermes_lb.options.patterns import COOKIE_NAME
from hermes_lb.options.section import Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.http import ResponseHead

#: Bytes of a key; a longer one is not a session's id, and is ignored.
MOST_IN_KEY = 256


class KeyOptions(Section):
    """`[[backends.NAME.stick]]`: HAProxy's `stick on`, `stick store-response`."""

    on: str = Field(pattern=STICK_ON)
    learn: bool = False
    response_header: str | None = Field(None, pattern=COOKIE_NAME)
    on_lost: Literal["prefer", "strict", "404"] = "prefer"

    @property
    def header_keys(self) -> list[str]:
        """Names of the header fields that the rule depends on."""
        kind, _, name = self.on.partition(":")
        names = [name] if kind == "header" else []
        return [*names, self.response_header] if self.response_header else names


class KeyRule:
    """One `[[backends.NAME.stick]]`."""

    def __init__(self, configured: KeyOptions) -> None:
        self.learns = configured.learn
        self.is_strict = configured.on_lost != "prefer"
        self.ends_with_server = configured.on_lost == "404"
        self._find = None if configured.on == "client" else key_finder(configured.on)
        kind, _, name = configured.on.partition(":")
        field = configured.response_header or (name if kind == "header" else "")
        self._response_field = field.lower().encode()

    def key_of(self, request_head: bytes, client_address: str) -> bytes:
        """b"" if the request has none."""
        if self._find is None:
            return client_address.encode()
        key = self._find(request_head)
        return key if len(key) <= MOST_IN_KEY else b""

    def key_in_response(self, head: ResponseHead) -> bytes:
        """The key that the response names; b"" if it names none."""
        wanted = self._response_field
        if wanted:
            for name, value in head.fields():
                if name.lower() == wanted and len(value) <= MOST_IN_KEY:
                    return value
        return b""


class SessionKey(NamedTuple):
    """A request's key, and the rule that found it."""

    rule: KeyRule
    key: bytes


class KeyRules:
    """All of one backend."""

    def __init__(self, configured: Sequence[KeyOptions]) -> None:
        self._rules = [KeyRule(rule) for rule in configured]
        self.learning = [rule for rule in self._rules if rule.learns]

    def find(self, request_head: bytes, client_address: str) -> SessionKey | None:
        for rule in self._rules:
            if key := rule.key_of(request_head, client_address):
                return SessionKey(rule, key)
        return None

    def learnt(self, asked: SessionKey | None, head: ResponseHead) -> list[bytes]:
        """The keys of the server that responded with `head`; `asked`: the request's own key."""
        keys = [key for rule in self.learning if (key := rule.key_in_response(head))]
        # Unknown before, or moved: a server that does not know the session responds with an error.
        if asked is not None and asked.rule.learns and head.status < 400:
            keys.append(asked.key)
        return keys
