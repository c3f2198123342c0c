"""`X-Hermes-Load: 3.5`: a server reports its load, in requests, in responses and health checks."""

from __future__ import annotations

import re
from typing import Final

LOAD_FIELD: Final = b"x-hermes-load"
# 17 digits of a fraction are what a computed float may have: 0.30000000000000004.
_NUMBER = re.compile(rb"\d{1,9}(?:\.\d{1,20})?").fullmatch


def parse_load(text: bytes) -> float | None:
    """The load; None for anything but digits with an optional fraction."""
    return float(text) if _NUMBER(text) else None
