"""One line a request in the "combined" format of Apache and nginx, which most log readers know.

Source: nginx `ngx_http_log_module`, the predefined format `combined` and its default escaping.
Three things differ: the bytes include the response's head (nginx `$bytes_sent`), the time is that
of the request's first byte (as Apache has it), and nobody's user name is taken from credentials.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache

from hermes_lb.observe.escaping import fit
from hermes_lb.observe.httplog import MONTHS

_LINE = '%s - - [%s] "%s" %d %d "%s" "%s"'
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")  # all but 32 to 126, and of those '"' and "\"

# Characters. With the longest of everything a line is below `LONGEST_LINE`.
_REQUEST_MAX = 1800
_FIELD_MAX = 1024

# nginx's words for ends without a response: the client left (499), or we closed (444).
_CLIENT_LEFT = 499
_CLOSED = 444


def format_line(
    client: str, began: int, request: str, status: int, size: int, referer: str, user_agent: str
) -> str:
    """One line without its end; whatever strangers sent, it has six quotes and no line break.

    - `client` is an address; `began`: seconds since 1970, in local time.
    - `request` comes from `request_text`, `referer` and `user_agent` from `field_text`.
    - `status` comes from `shown_status`; `size` is in bytes, heads included.
    """
    return _LINE % (client, date(began), request, status, size, referer, user_agent)


def shown_status(status: int, termination: str) -> int:
    """`status` (0: none was sent), or the one that nginx has for it."""
    return status or (_CLIENT_LEFT if termination[0] == "C" else _CLOSED)


def request_text(method: bytes, target: bytes, minor_version: int) -> str:
    """`GET /path HTTP/1.1`; a `target` that is too long is cut."""
    return _request_text(method, target[:_REQUEST_MAX], minor_version)


@lru_cache(maxsize=1024)  # 4 KiB each at most; clients ask for the same few things
def _request_text(method: bytes, target: bytes, minor_version: int) -> str:
    head, version = f"{method.decode()} ", f" HTTP/1.{minor_version}"
    most = _REQUEST_MAX - len(head) - len(version)
    return head + fit(target.decode("latin-1"), most, escape) + version


def field_text(value: bytes) -> str:
    """The value of a field; "-" if it is empty."""
    return _field_text(value[:_FIELD_MAX])


@lru_cache(maxsize=1024)
def _field_text(value: bytes) -> str:
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
