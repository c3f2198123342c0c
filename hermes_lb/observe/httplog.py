"""One line a request, as HAProxy's `option httplog` writes it, so that its tools read ours.

Source: HAProxy 2.6 configuration manual, sections 8.2.3 "HTTP log format" and 8.6 "Non-printable
characters"; what the manual leaves open was compared with the lines of a running HAProxy 2.6.12.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from hermes_lb.http.version import NAMES
from hermes_lb.observe.record import AT_ONCE, FIRST_ATTEMPT

if TYPE_CHECKING:
    from hermes_lb.observe.record import LogRecord

NO_SERVER = "<NOSRV>"

# HAProxy's REQURI_LEN (1024) has a place for the terminating NUL: the request line is cut there.
REQUEST_MAX = 1023

# What HAProxy writes when no request head could be understood.
BAD_REQUEST = "<BADREQ>"

# The locale must not change these.
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

# One `%`: measured a fifth faster than an f-string with as many fields.
_LINE = (
    "%s:%d [%s] %s %s/%s %s/%d/%d %d %d - - %s "  # client ... termination
    '%d/%d/%d/%d/%s "%s"'  # connections, attempts, request
)

_VERSIONS = tuple(b" HTTP/" + name.encode() for name in NAMES)
_UNSAFE = re.compile(r"[^ !$-~]")  # all but 32 to 126, and of those '"' and '#'


def line(record: LogRecord, *, shows_trace: bool = False) -> str:
    """Without its newline. Whatever the client sent, it has no line break and two quotes.

    The date is local time; -1 is a phase that was not reached, or no status. The trace id, with
    `shows_trace`, and the reason are in braces, where HAProxy has captured headers.
    """
    request, to_server, response = record.request, record.to_server, record.response
    attempts, reason = record.attempts, record.reason
    return _LINE % (
        record.client,
        record.port,
        _moment(int(record.began * 1000.0)),
        record.frontend,
        record.backend or record.frontend,
        record.server or NO_SERVER,
        "0/0/0" if to_server is AT_ONCE else "/".join(map(_milliseconds, to_server)),
        -1 if response is None else response * 1000.0,
        record.total * 1000.0,
        record.status or -1,
        record.bytes_sent,
        record.termination,
        record.connections,
        record.frontend_connections,
        record.backend_load,
        record.server_load,
        "0 0/0"
        if attempts is FIRST_ATTEMPT and not (reason or shows_trace)
        else _attempts(record, shows_trace=shows_trace),
        BAD_REQUEST
        if request is None
        else request_text(request.method, request.target[:REQUEST_MAX], request.version),
    )


def _milliseconds(seconds: float | None) -> str:
    return "-1" if seconds is None else str(int(seconds * 1000.0))


def _attempts(record: LogRecord, *, shows_trace: bool) -> str:
    """`retries srv_queue/backend_queue`; with a `+` before it if a retry was on another server."""
    retries, is_redispatched, position, is_pinned = record.attempts
    queues = f"{position}/0" if is_pinned else f"0/{position}"
    text = f"{'+' if is_redispatched else ''}{retries} {queues}"
    if shows_trace:
        request = record.request
        text += f" {{{request.trace_id.decode() if request is not None else ''}}}"
    if record.reason:
        text += f" {{{_BRACES.sub('?', escape(record.reason))}}}"
    return text


_BRACES = re.compile(r"[{|}]")


@lru_cache(maxsize=1024)  # 4 KiB each at most; clients ask for the same few things
def request_text(method: bytes, target: bytes, version: int) -> str:
    """`GET /path HTTP/1.1`, fit for a line of the log whatever the client sent.

    The part of `target` beyond `REQUEST_MAX` is not shown: it need not be given, nor remembered.
    """
    return _escaped(method + b" " + target + _VERSIONS[version])


def escape(text: str) -> str:
    """Cut to `REQUEST_MAX` bytes, and `#XX` (hex) for `"`, `#` and all that is not 32 to 126."""
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "surrogatepass")
    return _escaped(raw)


def _escaped(raw: bytes) -> str:
    text = raw[:REQUEST_MAX].decode("latin-1")
    # Most are plain, which these find in half of the time of the pattern.
    if text.isascii() and text.isprintable() and '"' not in text and "#" not in text:
        return text
    return _UNSAFE.sub(_hexadecimal, text)


def _hexadecimal(char: re.Match[str]) -> str:
    return f"#{ord(char[0]):02X}"


@lru_cache(maxsize=64)  # under load many requests come in one millisecond
def _moment(milliseconds: int) -> str:
    """`24/Nov/2026:12:55:17.042`, local time, as HAProxy's %tr has it."""
    return f"{date(milliseconds // 1000)}.{milliseconds % 1000:03}"


@lru_cache(maxsize=4096)  # not only the last: a stream's line carries the second it began in
def date(second: int) -> str:
    """`24/Nov/2026:12:55:17`, local time."""
    at = time.localtime(second)
    return (
        f"{at.tm_mday:02}/{MONTHS[at.tm_mon - 1]}/{at.tm_year:04}"
        f":{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    )
