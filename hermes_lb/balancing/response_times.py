"""Time to first byte as a measure of a server, for the strategies that use it.

An error is often the fastest answer of all, and would draw all requests to the broken server; so it
never counts with its own time. A failure before any answer leaves no time at all: a server that has
failed comes last for a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hermes_lb.backends import Server

# Seconds; more than any answer takes (Finagle: `Penalty`). It still grows with requests in flight.
PENALTY: Final = 1e6
# An error counts as this multiple of the time of a good answer of this pool,
_ERROR_FACTOR: Final = 10.0
# and as at least this, in seconds, before the first good answer.
_ERROR_FLOOR: Final = 1.0
# How fast the pool's usual time follows: about the last 20 answers.
_SHARE: Final = 0.05


class ResponseTimes:
    """Turns answers into samples, in seconds, with errors made slow."""

    __slots__ = ("usual",)

    def __init__(self) -> None:
        self.usual = -1.0  # seconds of a good answer; negative: there was none yet

    def sample(self, status: int, seconds: float) -> float:
        """The sample for an answer of this status after `seconds`."""
        if status >= 500 or status == 429:
            floor = _ERROR_FLOOR if self.usual < 0.0 else _ERROR_FACTOR * self.usual
            return max(seconds, floor)
        self.usual = seconds if self.usual < 0.0 else self.usual + _SHARE * (seconds - self.usual)
        return seconds


def seconds_after_failure(server: Server, now: float) -> float:
    """What a server with `fails` counts as: `PENALTY` for its `fail_timeout`, then nothing.

    nginx's `max_fails` forgets failures after that time too. One request may try the server then;
    as a probe (`Server.picked`) it restarts the time, until its answer has cleared the failures.
    """
    return PENALTY if now - server.window_start <= server.config.fail_timeout else 0.0


def seconds_in_words(product: float, load: float, *, unknown: float = PENALTY) -> str:
    """A time (seconds) x (load + 1). `unknown`: the time that stands for no answer yet."""
    average = round(product / (load + 1.0), 9)
    if not average:
        return "0 s (no answer of late: worth a try)"
    text = f"{product:.4g} s = {average:.4g} s x {load + 1.0:.4g}"
    if average >= PENALTY:
        text += " (for its failures)"
    elif average == unknown:
        text += " (it has never answered)"
    return text
