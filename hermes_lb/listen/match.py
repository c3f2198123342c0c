"""The conditions of a route on method, fields and query. Pure.

Fields are compared as they are forwarded: those that the balancer replaces or removes can't be
conditions. A query parameter is compared decoded, in all of its spellings.

Servers differ in which of several values they read, so a request that has several of what a
condition compares is refused: else a client could choose the route apart from the meaning.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hermes_lb.errors import RequestRefused
from hermes_lb.http.fields import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb import config
    from hermes_lb.http import RequestHead


class _Condition:
    """On the values of one field, or of one query parameter.

    `find`: all of them, in the lines of fields, or in a query. `expected`: a pattern of the value;
    None: it is enough that there is one, or none.
    """

    __slots__ = ("_expected", "_find", "_is_present")

    def __init__(self, find: bytes, expected: bytes | None, is_present: bool = True) -> None:
        self._find: Callable[[bytes], list[bytes]] = re.compile(find, re.MULTILINE).findall
        self._expected = None if expected is None else re.compile(expected).match
        self._is_present = is_present

    def holds(self, text: bytes) -> bool:
        """Raises RequestRefused if there are several values to compare."""
        values = self._find(text)
        if self._expected is None or not values:
            return bool(values) is self._is_present
        if len(values) > 1:
            raise RequestRefused(400, "several values where a route compares one")
        return self._expected(values[0]) is not None


class Match:
    """`[frontends.routes.match]`, ready to be compared with requests."""

    __slots__ = ("_fields", "_methods", "_parameters")

    def __init__(self, configured: config.Match) -> None:
        self._methods = frozenset(method.encode() for method in configured.method or ())
        self._fields = [
            _Condition(_field(name), _expected(one, re.escape), one.present is not False)
            for name, one in configured.header.items()
        ]
        if configured.content_type is not None:
            expected = b"|".join(map(_media_type, configured.content_type))
            self._fields.append(_Condition(_field("Content-Type"), expected))
        self._parameters = [
            _Condition(_parameter(name), _expected(one, _spellings), one.present is not False)
            for name, one in configured.query.items()
        ]

    def holds(self, head: RequestHead) -> bool:
        """Raises RequestRefused if it depends on one of several values."""
        if self._methods and head.method not in self._methods:
            return False
        for field in self._fields:
            if not field.holds(head.forwarded):
                return False
        if self._parameters:
            query = head.target.partition(b"?")[2]
            for parameter in self._parameters:
                if not parameter.holds(query):
                    return False
        return True


def _field(name: str) -> bytes:
    return rb"^(?i:%b): ([^\r\n]*)\r$" % re.escape(name.encode())


def _media_type(configured: str) -> bytes:
    """As RFC 9110 section 8.3.1 has it: parameters may follow, and case does not matter."""
    kind, _, subtype = configured.encode().partition(b"/")
    wanted = TOKEN if subtype == b"*" else re.escape(subtype)
    return rb"(?i:%b/%b)[ \t]*(?:;|\Z)" % (re.escape(kind), wanted)


def _parameter(name: str) -> bytes:
    return rb"(?:\A|&)%b(?:=([^&]*))?(?=&|\Z)" % _spellings(name.encode())


def _expected(condition: config.Condition, spelt: Callable[[bytes], bytes]) -> bytes | None:
    if condition.prefix is not None:
        return spelt(condition.prefix.encode())
    if condition.exact is None:
        return None
    return rb"(?:%b)\Z" % b"|".join(spelt(text.encode()) for text in condition.exact)


def _spellings(text: bytes) -> bytes:
    """A pattern of all that a server decodes to `text` (WHATWG URL, section 5.1, the parser of
    `application/x-www-form-urlencoded`): linear, where decoding a whole query costs Python's time
    for each of its escapes."""
    return b"".join(map(_spellings_of_byte, text))


def _spellings_of_byte(byte: int) -> bytes:
    escape = b"%%(?i:%02x)" % byte
    plain = bytes((byte,))
    if plain == b" ":
        return rb"(?:\+|%b)" % escape
    if plain in b"&+#":
        return escape
    if plain == b"%":  # one that begins no escape stands for itself
        return rb"(?:%b|%%(?![0-9A-Fa-f]{2}))" % escape
    return rb"(?:%b|%b)" % (re.escape(plain), escape)
