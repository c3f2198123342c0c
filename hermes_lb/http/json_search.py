"""One member of a JSON text (RFC 8259), searched in steps of bounded cost. No I/O.

`json.loads` takes 2 s for 8 MiB of small objects, and nothing else runs meanwhile: here the caller
decides how many steps it takes at a time, and nothing is built but the value that is searched.
The text is read to its end, since a member that is there twice is ambiguous: parsers differ in
which one counts.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Steps until the caller is asked to pause: less than 0.1 ms as a rule, 1 ms at most.
STEPS_AT_ONCE: Final = 128
#: Steps for one text. A message of a chat takes four; runs of numbers and short texts, one for 32.
MOST_STEPS: Final = 250_000
#: Bytes of a value that is searched, quotes and escapes included.
MOST_IN_VALUE: Final = 4096
# As many levels as `json` reads.
_DEEPEST: Final = 1000

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_BLANK = rb"[ \t\r\n]*+"
# Digits as `int` takes them (`sys.int_info.default_max_str_digits`).
_SCALAR = (
    rb"(?:-?(?:0|[1-9][0-9]{0,4299}+)(?:\.[0-9]{1,4300}+)?(?:[eE][+-]?[0-9]{1,4300}+)?"
    rb"|true|false|null)(?![0-9A-Za-z.+-])"
)
_SHORT = rb'"[^"\\\x00-\x1f]{0,32}+"'
_SIMPLE = _BLANK + rb"(?:" + _SCALAR + rb"|" + _SHORT + rb")" + _BLANK + rb","

_blank = re.compile(_BLANK).match
_scalar = re.compile(_SCALAR).match
_elements = re.compile(rb"(?:" + _SIMPLE + rb"){1,32}").match
_members = re.compile(rb"(?:" + _BLANK + _SHORT + _BLANK + rb":" + _SIMPLE + rb"){1,32}").match
_plain = re.compile(rb'[^"\\\x00-\x1f]{0,16384}+').match
_escapes = re.compile(rb'(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})[^"\\\x00-\x1f]{0,16}+){1,256}').match

# States: the next thing in the text.
_VALUE: Final = 0
_FIRST_ELEMENT: Final = 1  # or the array's end
_NAME: Final = 2
_FIRST_NAME: Final = 3  # or the object's end
_TEXT: Final = 4  # the rest of a string
_COMMA: Final = 5  # or the end of the object or array
_END: Final = 6


class Repeated(ValueError):
    """The member is there twice, or one that it is in."""


class MemberSearch:
    """`advance` until it returns True; `value` is the member's, None if there is none.

    `path`: the names of the objects' members that lead to it. Raises Repeated, or ValueError for a
    text that is no JSON, or has more than `MOST_STEPS`. `value` is a list for any object or array.
    """

    __slots__ = (
        "_begins", "_is_name", "_is_wanted", "_next", "_on_path", "_open", "_path", "_position",
        "_seen", "_steps_left", "_text", "value",
    )  # fmt: skip

    def __init__(self, text: bytes, path: Sequence[str]) -> None:
        self._text = text
        self._path = [name.encode() for name in path]
        self._position = len(_BYTE_ORDER_MARK) if text.startswith(_BYTE_ORDER_MARK) else 0
        self._next = _VALUE
        self._open = bytearray()  # the objects and arrays that have begun: "{" or "["
        self._on_path = 0  # of these, the objects on the path
        self._seen = [False] * len(path)  # the member of each of them
        self._begins = 0  # the string or name that is being read
        self._is_name = False
        self._is_wanted = False  # the next value is that of a member on the path
        self._steps_left = MOST_STEPS
        self.value: Any = None

    def advance(self) -> bool:
        """Take `STEPS_AT_ONCE` steps -> whether all of the text has been read."""
        self._steps_left -= STEPS_AT_ONCE
        if self._steps_left < 0:
            raise ValueError("too many values")
        for _ in range(STEPS_AT_ONCE):
            what = self._next
            if what == _TEXT:
                self._read_text()
            elif what == _COMMA:
                self._read_comma()
            elif what in (_NAME, _FIRST_NAME):
                self._read_name()
            elif what == _END:
                self._skip_blank()
                if self._position < len(self._text):
                    raise ValueError("too many bytes")
                return True
            else:
                self._read_value()
        return False

    def _skip_blank(self) -> int:
        """The next byte, -1 at the end."""
        match = _blank(self._text, self._position)
        assert match is not None
        self._position = position = match.end()
        return self._text[position] if position < len(self._text) else -1

    @property
    def _is_on_path(self) -> bool:
        """Whether the innermost object is."""
        return len(self._open) == self._on_path

    # Values.

    def _read_value(self) -> None:
        is_first, self._next = self._next == _FIRST_ELEMENT, _VALUE
        if self._open.endswith(b"["):
            run = _elements(self._text, self._position)
            if run is not None:
                self._position = run.end()
                return
        byte = self._skip_blank()
        if byte == 0x22:  # "
            self._begin_text(is_name=False)
        elif byte in (0x7B, 0x5B):  # { [
            self._begin(byte)
        elif byte == 0x5D and is_first:  # ]
            self._close()
        else:
            match = _scalar(self._text, self._position)
            if match is None:
                raise ValueError("no value")
            self._position = match.end()
            self._has_value(match[0])

    def _begin(self, byte: int) -> None:
        is_wanted, self._is_wanted = self._is_wanted or not self._open, False
        is_object = byte == 0x7B
        if is_wanted and self._on_path == len(self._path):
            self.value = []
        elif is_wanted and is_object:
            self._on_path += 1
        self._open.append(byte)
        if len(self._open) > _DEEPEST:
            raise ValueError("too deep")
        self._position += 1
        self._next = _FIRST_NAME if is_object else _FIRST_ELEMENT

    def _close(self) -> None:
        if self._is_on_path:
            self._on_path -= 1
        self._open.pop()
        self._position += 1
        self._next = _COMMA if self._open else _END

    def _has_value(self, raw: bytes) -> None:
        """A value that is no object or array has been read."""
        self._next = _COMMA if self._open else _END
        if self._is_wanted:
            self._is_wanted = False
            if self._on_path == len(self._path):
                if len(raw) > MOST_IN_VALUE:
                    raise ValueError("the value is too long")
                self.value = json.loads(raw)

    # Strings.

    def _begin_text(self, *, is_name: bool) -> None:
        self._begins = self._position
        self._position += 1
        self._is_name = is_name
        self._next = _TEXT

    def _read_text(self) -> None:
        text = self._text
        plain = _plain(text, self._position)
        assert plain is not None
        self._position = position = plain.end()
        if text.startswith(b"\\", position):
            escapes = _escapes(text, position)
            if escapes is None:
                raise ValueError("no escape")
            self._position = escapes.end()
        elif text.startswith(b'"', position):
            self._position = position + 1
            is_of_use = self._is_on_path if self._is_name else self._is_wanted
            raw = text[self._begins : position + 1] if is_of_use else b""
            if self._is_name:
                self._has_name(raw)
            else:
                self._has_value(raw)
        elif plain.end() == plain.start():
            raise ValueError("no end of a string, or a control character")

    # Objects.

    def _read_name(self) -> None:
        is_first, self._next = self._next == _FIRST_NAME, _NAME
        if not self._is_on_path:
            run = _members(self._text, self._position)
            if run is not None:
                self._position = run.end()
                return
        byte = self._skip_blank()
        if byte == 0x22:  # "
            self._begin_text(is_name=True)
        elif byte == 0x7D and is_first:  # }
            self._close()
        else:
            raise ValueError("no name")

    def _has_name(self, raw: bytes) -> None:
        if self._skip_blank() != 0x3A:  # :
            raise ValueError("no colon")
        self._position += 1
        self._next = _VALUE
        if self._is_on_path and _is_same(raw, self._path[self._on_path - 1]):
            if self._seen[self._on_path - 1]:
                raise Repeated
            self._seen[self._on_path - 1] = self._is_wanted = True

    def _read_comma(self) -> None:
        is_object = self._open.endswith(b"{")
        byte = self._skip_blank()
        if byte == 0x2C:  # ,
            self._position += 1
            self._next = _NAME if is_object else _VALUE
        elif byte == (0x7D if is_object else 0x5D):
            self._close()
        else:
            raise ValueError("no comma")


def _is_same(raw: bytes, name: bytes) -> bool:
    """`raw`: a name with its quotes. An escape has 6 bytes for one."""
    if b"\\" not in raw:
        return raw[1:-1] == name
    return len(raw) <= 6 * len(name) + 2 and json.loads(raw).encode(errors="surrogatepass") == name
