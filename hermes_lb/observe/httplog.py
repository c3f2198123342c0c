"""One line a request, as HAProxy's `option httplog` writes it, so that its tools read ours.

Source: HAProxy 2.6 configuration manual, sections 8.2.3 "HTTP log format" and 8.6 "Non-printable
characters"; what the manual leaves open was compared with the lines of a running HAProxy 2.6.12.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache

NO_SERVER = "<NOSRV>"

# HAProxy's REQURI_LEN (1024) has a place for the terminating NUL: the request line is cut there.
REQUEST_MAX = 1023

# What HAProxy writes when no request head could be understood.
BAD_REQUEST = "<BADREQ>"

# The locale must not change these.
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

# One `%`: measured a fifth faster than an f-string with as many fields.
_LINE = (
    "%s [%s.%03d] %s %s %s/%s/%s %s %s - - %s "  # client ... termination
    '%s/%s/%s/%s/%s "%s"'  # connections, attempts, request
)

_UNSAFE = re.compile(r"[^ !$-~]")  # all but 32 to 126, and of those '"' and '#'


def format_line(
    client: str, began: int, frontend: str, served_by: str,
    to_connect: str, th: int, ta: int,
    status: int, size: int, termination: str,
    actconn: int, feconn: int, beconn: int, srvconn: int, attempts: str, request: str,
) -> str:  # fmt: skip
    """One line without its end; whatever strangers sent, it has no line break and two quotes.

    - `client` is `address:port`, `served_by` is `backend/server`, with the frontend's name and
      `NO_SERVER` when none was picked.
    - `began`: when the request's first byte came, in milliseconds since 1970; in local time.
    - `to_connect` (`request head/queue/connect`: HAProxy's TR/Tw/Tc), `th` response head (its Tr),
      `ta` all: in milliseconds, -1 for a phase that was not reached.
    - `status` is -1 when there was none; `size` is in bytes, heads included.
    - `termination`: four letters, see `hermes_lb.observe.termination`.
    - `attempts` comes from `attempts_text`, or is `FIRST_ATTEMPT`; perhaps `with_reason`.
    - `request` comes from `request_text`. All the rest is ours.
    """
    return _LINE % (
        client, date(began // 1000), began % 1000, frontend, served_by, to_connect, th, ta,
        status, size, termination, actconn, feconn, beconn, srvconn, attempts, request,
    )  # fmt: skip


# The whole head at once, no queue, an idle connection: nearly always.
AT_ONCE = "0/0/0"

# No retry and no queue: nearly always.
FIRST_ATTEMPT = "0 0/0"


def attempts_text(
    retries: int, *, is_redispatched: bool, server_queue: int, backend_queue: int
) -> str:
    """`retries srv_queue/backend_queue`; with a `+` before it if a retry was on another server."""
    return f"{'+' if is_redispatched else ''}{retries} {server_queue}/{backend_queue}"


def with_reason(attempts: str, reason: str) -> str:
    """Why it was refused or failed, in braces: where HAProxy has the headers that it captured."""
    return f"{attempts} {{{_BRACES.sub('?', escape(reason))}}}"


_BRACES = re.compile(r"[{|}]")


def with_trace(attempts: str, trace_id: bytes) -> str:
    """The trace id in braces, or empty ones: what HAProxy's `capture request header` looks like."""
    return f"{attempts} {{{trace_id.decode()}}}"


@lru_cache(maxsize=1024)  # 4 KiB each at most; clients ask for the same few things
def request_text(method: bytes, target: bytes, minor_version: int) -> str:
    """`GET /path HTTP/1.1`, fit for a line of the log whatever a stranger sent.

    What of `target` is beyond `REQUEST_MAX` is not shown: it need not be given, nor remembered.
    """
    request = b"%b %b HTTP/1.%d" % (method, target, minor_version)
    return escape(request.decode("latin-1"))


def escape(text: str) -> str:
    """Cut to `REQUEST_MAX` bytes, and `#XX` (hex) for `"`, `#` and all that is not 32 to 126."""
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "surrogatepass")
    return _UNSAFE.sub(lambda char: f"#{ord(char[0]):02X}", raw[:REQUEST_MAX].decode("latin-1"))


@lru_cache(maxsize=4096)  # not only the last: a stream's line carries the second it began in
def date(second: int) -> str:
    """`24/Nov/2026:12:55:17`, local time, as HAProxy's %tr has before its milliseconds."""
    at = time.localtime(second)
    return (
        f"{at.tm_mday:02}/{MONTHS[at.tm_mon - 1]}/{at.tm_year:04}"
        f":{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    )
