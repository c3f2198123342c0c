"""Trace context: which `traceparent` is passed on, and the one that is made where there is none.

Source: W3C Trace Context, sections 3.2 to 3.4. We open no span of our own, so a valid
`traceparent` is forwarded unchanged, with its `tracestate`.
"""

from __future__ import annotations

import re
from binascii import hexlify
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from random import Random

    from hermes_lb.http.request import RequestHead

# trace-id "-" parent-id "-" trace-flags, in lower-case hex; an id of zeros is invalid.
_IDS = rb"(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
# Version 00 ends there, a later one may say more (section 4.3), and there is no version ff.
_TRACEPARENT = re.compile(rb"00-%b|(?!00|ff)[0-9a-f]{2}-%b(?:-[!-~]*)?" % (_IDS, _IDS)).fullmatch

_TRACE_ID: Final = 32  # digits
_PAIR: Final = 48  # with a parent-id
_PAIRS: Final = 64  # that are made at once

# Passed on together, or not at all.
TRACE_FIELDS = frozenset((b"traceparent", b"tracestate"))


def trace_id_of(traceparents: Sequence[bytes]) -> bytes:
    """The trace that a request belongs to, 32 hex digits; b"" if its fields name none, or two."""
    if len(traceparents) != 1:
        return b""
    match = _TRACEPARENT(traceparents[0])
    return (match[1] or match[2]) if match else b""


class NewTraces:
    """Gives requests without a trace a new one: sampled, so that the next hop records it.

    An id of zeros, which would be invalid, has a probability of 1 in 2^64.
    """

    __slots__ = ("_next",)

    def __init__(self, rng: Random) -> None:
        self._next: Callable[[], tuple[bytes, bytes]] = _traces(rng).__next__

    def start(self, head: RequestHead) -> None:
        head.trace_id, line = self._next()
        head.forwarded += line


def _traces(rng: Random) -> Iterator[tuple[bytes, bytes]]:
    """A new id and its `traceparent`, without end; many at once, which is cheaper."""
    while True:
        digits = hexlify(rng.randbytes(_PAIRS * _PAIR // 2))  # a trace's and a parent's, in turn
        for at in range(0, len(digits), _PAIR):
            trace_id, parent_id = digits[at : at + _TRACE_ID], digits[at + _TRACE_ID : at + _PAIR]
            yield trace_id, b"traceparent: 00-%b-%b-01\r\n" % (trace_id, parent_id)
