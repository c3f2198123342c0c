"""The fields of one head, by llhttp.

The caller finds the end of a head (CRLF CRLF) and hands over exactly those bytes; llhttp checks
the syntax. One parser serves all connections of a balancer, one head after the other.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Generic, TypeVar

import httptools

# llhttp drops the blanks before a value, not those behind. What else this drops (CR, LF, VT, FF),
# llhttp refuses in values. In C, and no copy where there is nothing to drop.
_STRIP = bytes.rstrip

Fields = tuple[tuple[bytes, ...], tuple[bytes, ...]]  # names, values


class IncompleteHead(httptools.HttpParserError):
    """The bytes do not end where the head does."""


class _Lister:
    """Takes every field as it comes, those of one name too: the slow way, for rare heads."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.values: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.names.append(name)
        self.values.append(value)


Parser = TypeVar("Parser", bound="httptools.HttpRequestParser | httptools.HttpResponseParser")


class HeadParser(Generic[Parser]):
    """One of httptools' two parsers, used for heads only.

    What llhttp calls are methods of C types, so a field costs no Python frame (half the time). A
    dict keeps the order, but only the first of two fields of one name: a count of the lines tells.
    """

    __slots__ = (
        "_fields",
        "_kind",
        "_llhttp",
        "_open",
        "_text",
        "on_header",
        "on_headers_complete",
        "on_status",
        "on_url",
    )

    def __init__(self, kind: type[Parser]) -> None:
        self._kind = kind
        self._text: list[bytes] = []  # the request target, or the reason phrase
        self._fields: dict[bytes, bytes] = {}
        self._open: list[bool] = []  # not empty until the head is complete
        self.on_url = self.on_status = self._text.append
        self.on_header = self._fields.setdefault
        self.on_headers_complete = self._open.clear
        self._llhttp = kind(self)

    def parse_fields(self, data: bytes) -> Fields:
        """One whole head -> the names and the values of its fields, in order, without the blanks
        around a value (RFC 9110 section 5.5).

        Raises httptools.HttpParserError.
        """
        llhttp = self._llhttp
        fields = self._fields
        fields.clear()
        self._text.clear()
        self._open.append(True)
        # `llhttp_init` in place (0.25 us), every time: what llhttp remembers of a head (a body
        # that it awaits, `Proxy-Connection: close`) must not be held against the next one, which
        # may be another client's.
        llhttp.__init__(self)  # type: ignore[misc]
        try:  # noqa: SIM105 - suppress() costs as much as the parsing
            llhttp.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        if self._open:
            self._open.clear()
            raise IncompleteHead("it does not end where it should")
        # A line each, but for the first line and the empty last one. llhttp accepts no other ends.
        if len(fields) == data.count(b"\r\n") - 2:
            return tuple(fields), tuple(map(_STRIP, fields.values()))
        lister = _Lister()
        with suppress(httptools.HttpParserUpgrade):
            self._kind(lister).feed_data(data)
        return tuple(lister.names), tuple(map(_STRIP, lister.values))

    def text(self) -> bytes:
        """The request target, or the response's reason phrase, of the head that was parsed."""
        text = self._text
        return text[0] if len(text) == 1 else b"".join(text)
