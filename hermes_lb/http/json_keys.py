"""A key in a JSON text, by JSON Pointer (RFC 6901). No I/O.

A text that is malformed, that says a name twice, or that is larger than it may be has no key: none
of that is an error here.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.http.body import feed_all
from hermes_lb.http.keys import MOST_IN_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_lb.http.body import Body

#: Bytes of a body that are read for a key.
MOST_READ: Final = 64 * 1024

# Each object costs a call (0.2 us), and 64 KiB can hold 20,000. With this bound the worst text is
# one of empty arrays, of 1.4 ms (bench.session_keys).
_MOST_OBJECTS = 2048

_IS_INDEX = re.compile(r"0|[1-9][0-9]{0,5}").fullmatch


def media_type(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The media type of a message's body, in lower case; b"" if it is compressed, or not given."""
    found = b""
    for name, value in fields:
        lower = name.lower()
        if lower == b"content-type":
            found = value.partition(b";")[0].strip().lower()
        elif lower == b"content-encoding" and value.strip().lower() != b"identity":
            return b""
    return found


def is_json(media_type: bytes) -> bool:
    """Also true for formats that are based on JSON (RFC 6839 section 3.1)."""
    kind, _, name = media_type.partition(b"/")
    return kind == b"application" and (name == b"json" or name.endswith(b"+json"))


def json_of_request(request: bytes) -> Any:
    """The body behind a request's head; None if it is not JSON."""
    end = request.find(b"\r\n\r\n") + 4
    text = request[end:]
    return parse(text) if text and len(text) <= MOST_READ and has_json(request[:end]) else None


def has_json(request_head: bytes) -> bool:
    """True if the request says that its body is JSON."""
    lines = request_head.split(b"\r\n")[1:]
    fields = (line.partition(b":")[::2] for line in lines)
    return is_json(media_type(fields))


def parse(text: bytes | bytearray) -> Any:
    """The value of a JSON text in UTF-8 (RFC 8259); None if it is malformed.

    A name that an object has twice has the value None.
    """
    try:
        return json.loads(
            text.decode(), object_pairs_hook=_Members(), parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        # Syntax, UTF-8, the digits of a number, the number of objects; or nesting.
        return None


class _Members:
    """Makes the objects of one text."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _MOST_OBJECTS

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many objects")
        members = dict(pairs)
        if len(members) < len(pairs):  # parsers differ in which one counts
            seen = set()
            for name, _ in pairs:
                if name in seen:
                    members[name] = None
                seen.add(name)
        return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Pointer:
    """Where a key is in a JSON value: `/params/taskId`."""

    __slots__ = ("_tokens",)

    def __init__(self, text: str) -> None:
        tokens = text.split("/")[1:]
        self._tokens = [token.replace("~1", "/").replace("~0", "~") for token in tokens]

    def key_in(self, value: Any) -> bytes:
        """The string or integer there; b"" if there is none."""
        for token in self._tokens:
            if isinstance(value, dict):
                value = value.get(token)
            elif isinstance(value, list) and _IS_INDEX(token) and int(token) < len(value):
                value = value[int(token)]
            else:
                return b""
        if isinstance(value, bool) or not isinstance(value, str | int):
            return b""
        try:
            key = str(value).encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            return b""
        return key if len(key) <= MOST_IN_KEY else b""


class JsonText:
    """The text of a body that comes in parts. `framing`: of the parts, which one side has checked.

    `is_too_long`: there is more than may be read, and nothing is kept.
    """

    __slots__ = ("_framing", "_text", "is_too_long")

    def __init__(self, framing: Body) -> None:
        self._framing = framing
        self._text = bytearray()
        self.is_too_long = False

    def feed(self, data: bytes) -> None:
        if self.is_too_long:
            return
        self._text += feed_all(self._framing, data)
        if len(self._text) > MOST_READ:
            self.is_too_long = True
            self._text = bytearray()

    @property
    def text(self) -> bytes:
        return bytes(self._text)
