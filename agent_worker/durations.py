"""Durations as text: a number and a unit."""

from __future__ import annotations

import re

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Seconds in `text`: "20ms", "1.5s", "2m", "1h", or "0".

    Raises ValueError, with the expected form, for anything else, such as a number without a unit.
    """
    text = text.strip()
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and a unit: 20ms, 1.5s, 2m")
    return float(match[1]) * _UNITS_S[match[2]]


def format_duration(seconds: float) -> str:
    """The shortest form that `parse_duration` accepts."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    return f"{seconds:g}s"
