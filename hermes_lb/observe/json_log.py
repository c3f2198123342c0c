"""One JSON object a line and request: what every log shipper reads without a pattern.

It is ASCII: bytes beyond that are `\\u` escapes, or `\\\\x` ones where they are no UTF-8, so no
terminal and no parser can be tricked by them. docs/logs.md has the fields.
"""

from __future__ import annotations

import time
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING

from hermes_lb.http.version import NAMES
from hermes_lb.observe.escaping import fit

if TYPE_CHECKING:
    from hermes_lb.observe.record import LogRecord

NULL = "null"

# Characters, quotes not counted. With the longest of everything a line is below `LONGEST_LINE`.
_MOST = 360
TARGET_MOST = 1200


def line(record: LogRecord) -> str:
    """Without its newline. A phase that was not reached, or a missing value, is null."""
    request, captured = record.request, record.captured
    to_server, attempts = record.to_server, record.attempts
    if request is None:
        method = target = version = stream = host = request_id = trace_id = NULL
    else:
        method, target = text(request.method), text(request.target, TARGET_MOST)
        version, host = f'"HTTP/{NAMES[request.version]}"', text(request.host)
        stream = str(request.stream or NULL)
        request_id, trace_id = unique(request.request_id), unique(request.trace_id)
    return (
        f'{{"time":{date(int(record.began * 1000.0))}'
        f',"client":{name(record.client)}'
        f',"client_port":{record.port}'
        f',"frontend":{name(record.frontend)}'
        f',"backend":{name(record.backend)}'
        f',"server":{name(record.server)}'
        f',"head_ms":{_milliseconds(to_server.head)}'
        f',"queue_ms":{_milliseconds(to_server.queue)}'
        f',"connect_ms":{_milliseconds(to_server.connect)}'
        f',"response_ms":{_milliseconds(record.response)}'
        f',"total_ms":{_milliseconds(record.total)}'
        f',"status":{record.status or NULL}'
        f',"bytes_received":{record.bytes_received}'
        f',"bytes_sent":{record.bytes_sent}'
        f',"termination":"{record.termination}"'
        f',"retries":{attempts.retries}'
        f',"redispatched":{"true" if attempts.is_redispatched else "false"}'
        f',"queued_behind":{attempts.queue_position}'
        f',"method":{method}'
        f',"target":{target}'
        f',"version":{version}'
        f',"stream":{stream}'
        f',"host":{host}'
        f',"referer":{text(captured.referer)}'
        f',"user_agent":{text(captured.user_agent)}'
        f',"request_id":{request_id}'
        f',"trace_id":{trace_id}'
        f',"tls":{name(record.tls)}'
        f',"reason":{name(record.reason)}}}'
    )


def _milliseconds(seconds: float | None) -> int | str:
    return NULL if seconds is None else int(seconds * 1000.0)


def text(value: bytes, most: int = _MOST) -> str:
    """Untrusted input as a JSON string, cut to `most` characters; `NULL` for nothing."""
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
