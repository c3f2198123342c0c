"""One line a request in the "combined" format of Apache and nginx, which most log readers know.

Source: nginx `ngx_http_log_module`, the predefined format `combined` and its default escaping.
Three things differ: the bytes include the response's head (nginx `$bytes_sent`), the time is that
of the request's first byte (as Apache has it), and the user name of credentials is not shown.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from hermes_lb.http.version import NAMES
from hermes_lb.observe.escaping import fit
from hermes_lb.observe.httplog import MONTHS

if TYPE_CHECKING:
    from hermes_lb.observe.record import LogRecord

_LINE = '%s - - [%s] "%s" %d %d "%s" "%s"'
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")  # all but 32 to 126, and of those '"' and "\"

# Characters. With the longest of everything a line is below `LONGEST_LINE`.
_REQUEST_MAX = 1800
_FIELD_MAX = 1024

# nginx's words for ends without a response: the client left (499), or we closed (444).
_CLIENT_LEFT = 499
_CLOSED = 444


def line(record: LogRecord) -> str:
    """Without its newline. Whatever the client sent, it has six quotes and no line break."""
    request, captured = record.request, record.captured
    return _LINE % (
        record.client or "-",
        date(int(record.began)),
        "-"
        if request is None
        else request_text(request.method, request.target[:_REQUEST_MAX], request.version),
        record.status or _status_of_none(record.termination),
        record.bytes_sent,
        field_text(captured.referer[:_FIELD_MAX]),
        field_text(captured.user_agent[:_FIELD_MAX]),
    )


def _status_of_none(termination: str) -> int:
    return _CLIENT_LEFT if termination[0] == "C" else _CLOSED


@lru_cache(maxsize=1024)  # 4 KiB each at most; clients ask for the same few things
def request_text(method: bytes, target: bytes, number: int) -> str:
    """`GET /path HTTP/1.1`, cut to `_REQUEST_MAX`: the rest of `target` need not be given."""
    head, version = f"{method.decode()} ", f" HTTP/{NAMES[number]}"
    most = _REQUEST_MAX - len(head) - len(version)
    return head + fit(target.decode("latin-1"), most, escape) + version


@lru_cache(maxsize=1024)
def field_text(value: bytes) -> str:
    """The value of a field, of which no more than `_FIELD_MAX` is shown; "-" if it is empty."""
    return fit(value.decode("latin-1"), _FIELD_MAX, escape) or "-"


def escape(text: str) -> str:
    r"""`\xXX` (hex) for `"`, `\` and all that is not 32 to 126. `text` has one char a byte."""
    return _UNSAFE.sub(lambda char: f"\\x{ord(char[0]):02X}", text)


@lru_cache(maxsize=4096)
def date(second: int) -> str:
    """`24/Nov/2026:12:55:17 +0100`, local time."""
    at = time.localtime(second)
    minutes = at.tm_gmtoff // 60
    sign, minutes = ("-", -minutes) if minutes < 0 else ("+", minutes)
    return (
        f"{at.tm_mday:02}/{MONTHS[at.tm_mon - 1]}/{at.tm_year:04}"
        f":{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
        f" {sign}{minutes // 60:02}{minutes % 60:02}"
    )
