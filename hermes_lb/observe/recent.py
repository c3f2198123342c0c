"""The last requests that ended badly, for an operator who looks now."""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.observe import httplog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hermes_lb.observe.record import LogRecord

KEPT: Final = 200
REQUEST_MAX: Final = 200  # characters of a request's first line

Abort = dict[str, Any]


def abort(record: LogRecord, at: float) -> Abort:
    """The summary of a request that ended `at`, in seconds since 1970: plain values, fit for JSON.

    Without a status it is -1, as in the log.
    """
    request = record.request
    return {
        "at": round(at, 3),
        "client": record.client,
        "frontend": record.frontend,
        "backend": record.backend or None,
        "server": record.server or None,
        "termination": record.termination,
        "status": record.status or -1,
        "duration_ms": int(record.total * 1000.0),
        "request": ""
        if request is None
        else httplog.request_text(request.method, request.target[:REQUEST_MAX], request.version)[
            :REQUEST_MAX
        ],
        "reason": record.reason,
    }


class Recent:
    """The last `KEPT` of them, numbered from 1 in the order in which they were added.

    `on_add` is called for each and must be cheap: clients can cause thousands a second. A worker
    process forwards them with it to the supervisor, which numbers them again.
    """

    def __init__(self, on_add: Callable[[Abort], None] | None = None) -> None:
        self.on_add = on_add
        self.last = 0  # the number of the newest
        self._kept: deque[Abort] = deque(maxlen=KEPT)

    def __repr__(self) -> str:
        return f"<Recent {len(self._kept)} of {self.last}>"

    def add(self, abort: Abort) -> None:
        """Keep it, and number it."""
        self.last += 1
        numbered = {**abort, "number": self.last}
        self._kept.append(numbered)
        if self.on_add is not None:
            self.on_add(numbered)

    def since(self, number: int = 0) -> list[Abort]:
        """Those after `number`, oldest first; what is too old to be kept is not there."""
        newer = list(takewhile(lambda abort: abort["number"] > number, reversed(self._kept)))
        return newer[::-1]

    def restore(self, kept: Sequence[Abort]) -> None:
        """Continue from another one's `since`, with its numbers; this one must be empty."""
        if kept:
            self._kept.extend(kept)
            self.last = kept[-1]["number"]
