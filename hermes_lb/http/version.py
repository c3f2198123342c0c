"""Versions of HTTP, as places in tables."""

from __future__ import annotations

from typing import Final

HTTP10: Final = 0
HTTP11: Final = 1

#: By version.
NAMES: Final[tuple[str, ...]] = ("1.0", "1.1")
