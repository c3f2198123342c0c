"""The dates in a cookie with `max_idle` or `max_life`, as HAProxy writes them.

`value|last|first`: the client's last and first request, each in steps of four seconds, as five
base64 digits (HAProxy, `s30tob64`, `http_process_res_common`).
"""

from __future__ import annotations

_DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_PLACES = 5
_STEP = 4
#: A date further ahead than this (seconds) comes from a wrong clock.
MOST_AHEAD = 86_400


def to_text(seconds: int) -> bytes:
    """Seconds since 1970, rounded up to a step."""
    steps = (seconds + _STEP - 1) // _STEP & (1 << 6 * _PLACES) - 1
    return bytes(_DIGITS[steps >> 6 * place & 63] for place in reversed(range(_PLACES)))


def from_text(text: bytes) -> int:
    """Seconds since 1970; 0 if it is no date."""
    steps = 0
    if len(text) < _PLACES:
        return 0
    for digit in text[:_PLACES]:
        value = _DIGITS.find(digit)
        if value < 0:
            return 0
        steps = steps << 6 | value
    return steps * _STEP


def is_past(date: int, allowed: float, now: int) -> bool:
    """Whether `date` is more than `allowed` seconds ago, or far in the future."""
    return now - date > allowed or date - now > MOST_AHEAD
