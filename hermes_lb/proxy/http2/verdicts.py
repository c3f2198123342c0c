"""What the codec has answered by itself. Pure.

ngh2 reports neither the streams that it refuses nor why it ends a connection, so both are read from
its frames; and one that has failed writes no GOAWAY.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hermes_lb.backends.counters import (
    ACKNOWLEDGEMENTS,
    CONTINUATIONS,
    GLITCHES,
    HEADER_LIST,
    PROTOCOL,
    RAPID_RESET,
)
from hermes_lb.http.frames import (
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER_SIZE: Final = 9
_RST_STREAM: Final = 3
_GOAWAY: Final = 7
#: In each GOAWAY frame: its type, no flags, no stream.
GOAWAY_HEAD: Final = bytes((_GOAWAY, 0, 0, 0, 0, 0))

# By its error code: libnghttp2 has one each for its limits of resets and of odd frames.
_CAUSES = {INTERNAL_ERROR: RAPID_RESET, ENHANCE_YOUR_CALM: GLITCHES}
_TEXTS = {RAPID_RESET: "too many resets of streams", GLITCHES: "too many frames of no use"}

# By a part of the message with which the codec has failed.
_FAILURES = (
    ("CONTINUATION", CONTINUATIONS),
    ("Flooding", ACKNOWLEDGEMENTS),
    ("header list", HEADER_LIST),
)


class Verdict:
    """Why a connection was ended. `cause`: by its index in `GOAWAY_CAUSES`."""

    __slots__ = ("cause", "text")

    def __init__(self, cause: int, text: str) -> None:
        self.cause = cause
        self.text = text


def of_failure(message: str) -> Verdict:
    """Of a codec that has failed."""
    for part, cause in _FAILURES:
        if part in message:
            return Verdict(cause, message)
    return Verdict(PROTOCOL, message)


def in_frames(data: bytes) -> Verdict | None:
    """Of the GOAWAY in the last frames of a connection; None: it ends in peace, or had none.

    The text is one of libnghttp2's own.
    """
    for kind, payload in _frames(data):
        if kind == _GOAWAY:
            code = int.from_bytes(payload[4:8], "big")
            if code == NO_ERROR:
                continue
            cause = _CAUSES.get(code, PROTOCOL)
            text = payload[8:].decode("ascii", "replace") or _TEXTS.get(cause, "")
            return Verdict(cause, text or f"error code {code}")
    return None


def refused_in(data: bytes) -> int:
    """How many streams were refused."""
    return sum(
        kind == _RST_STREAM and int.from_bytes(payload, "big") == REFUSED_STREAM
        for kind, payload in _frames(data)
    )


def goaway(last_stream: int, cause: int) -> bytes:
    """The frame that a codec which has failed does not write (RFC 9113 section 5.4.1)."""
    code = PROTOCOL_ERROR if cause == PROTOCOL else ENHANCE_YOUR_CALM
    head = bytes((0, 0, 8, _GOAWAY, 0, 0, 0, 0, 0))
    return head + last_stream.to_bytes(4, "big") + code.to_bytes(4, "big")


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and the payload of each."""
    at = 0
    while at < len(data):
        end = at + _HEADER_SIZE + int.from_bytes(data[at : at + 3], "big")
        yield data[at + 3], data[at + _HEADER_SIZE : end]
        at = end
