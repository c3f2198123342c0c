"""The last requests that ended badly, for an operator who looks now."""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEPT: Final = 200
REQUEST_MAX: Final = 200  # characters of a request's first line

Abort = dict[str, Any]


def record(
    *,
    at: float,
    client: str,
    frontend: str,
    backend: str | None,
    server: str | None,
    termination: str,
    status: int,
    duration: float,
    request: str,
    reason: str,
) -> Abort:
    """What is kept of one: plain values, fit for JSON.

    `at` is when it ended, in seconds since 1970, and `duration` in seconds; `termination` has four
    letters; `status` is 0 if none was sent, which becomes the log's -1; `request` is fit for a line
    of a log.
    """
    return {
        "at": round(at, 3),
        "client": client,
        "frontend": frontend,
        "backend": backend,
        "server": server,
        "termination": termination,
        "status": status or -1,
        "duration_ms": int(duration * 1000.0),
        "request": request[:REQUEST_MAX],
        "reason": reason,
    }


class Recent:
    """The last `KEPT` of them, numbered from 1 in the order in which they were added.

    `on_add` is called for each: strangers can make thousands a second, so what it does must be
    cheap. By it a worker process hands them on, and the supervisor adds them to one of its own,
    whose numbers are its own as well.
    """

    def __init__(self, on_add: Callable[[Abort], None] | None = None) -> None:
        self.on_add = on_add
        self.last = 0  # the number of the newest
        self._kept: deque[Abort] = deque(maxlen=KEPT)

    def __repr__(self) -> str:
        return f"<Recent {len(self._kept)} of {self.last}>"

    def add(self, abort: Abort) -> None:
        """Keep it, with a number of ours."""
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
        """Go on from what another one's `since` gave, by its numbers; this one is still empty."""
        if kept:
            self._kept.extend(kept)
            self.last = kept[-1]["number"]
