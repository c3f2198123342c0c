"""One JSON object a line and request: what every log shipper reads without a pattern.

It is ASCII: bytes beyond that are `\\u` escapes, or `\\\\x` ones where they are no UTF-8, so no
terminal and no parser can be tricked by them. docs/logs.md has the fields.
"""

from __future__ import annotations

import time
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import NamedTuple

from hermes_lb.observe.escaping import fit

NULL = "null"
TRUE, FALSE = "true", "false"

# Characters, quotes not counted. With the longest of everything a line is below `LONGEST_LINE`.
_MOST = 360
TARGET_MOST = 1200


class Entry(NamedTuple):
    """The fields, by name and in their order. Each is an integer, or JSON as text.

    Text that strangers sent comes from `text`; what was not reached or is not there is `NULL`.
    """

    time: str  # when the request's first byte came: RFC 3339, UTC, with milliseconds
    client: str
    client_port: int
    frontend: str
    backend: str
    server: str
    head_ms: int | str  # TR: from the first byte to the last of the head
    queue_ms: int | str  # Tw: in the queue, and in earlier attempts
    connect_ms: int | str  # Tc
    response_ms: int | str  # Tr: from there to the response's head
    total_ms: int  # Ta
    status: int | str
    bytes_received: int  # of the body, or through a tunnel
    bytes_sent: int  # heads included
    termination: str  # four letters, `hermes_lb.observe.termination`
    retries: int
    redispatched: str
    queued_behind: int  # requests that were before it in the queue
    method: str
    target: str
    version: str
    host: str
    referer: str
    user_agent: str
    request_id: str
    trace_id: str
    tls: str  # the version of TLS
    reason: str  # why it was refused or failed


_LINE = "{" + ",".join(f'"{name}":%s' for name in Entry._fields) + "}"


def format_line(entry: Entry) -> str:
    """One line without its end."""
    return _LINE % entry


def text(value: bytes, most: int = _MOST) -> str:
    """What a stranger sent as a JSON string, cut to `most` characters; `NULL` for nothing."""
    return _text(value[:most], most) if value else NULL


@lru_cache(maxsize=1024)  # 3 KiB each at most; clients say the same few things
def _text(value: bytes, most: int) -> str:
    return _quoted(value.decode("utf-8", "backslashreplace"), most)


def unique(value: bytes) -> str:
    """The same for short ASCII that does not come twice."""
    return encode_basestring_ascii(value.decode("ascii")) if value else NULL


@lru_cache(maxsize=4096)
def name(value: str) -> str:
    """A name of ours, an address, or a reason; `NULL` for nothing."""
    return _quoted(value, _MOST) if value else NULL


def _quoted(value: str, most: int) -> str:
    return f'"{fit(value, most, _escape)}"'


def _escape(value: str) -> str:
    return encode_basestring_ascii(value)[1:-1]


def date(milliseconds: int) -> str:
    """`"2026-11-24T12:55:17.042Z"`, quotes included."""
    return f'"{_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z"'


@lru_cache(maxsize=4096)
def _second(second: int) -> str:
    at = time.gmtime(second)
    return (
        f"{at.tm_year:04}-{at.tm_mon:02}-{at.tm_mday:02}"
        f"T{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    )
