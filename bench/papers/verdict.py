"""What a ratio and its interval say of a claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hermes_lb.lab.intervals import Ratio

CONFIRMED: Final = "confirmed"
PARTLY: Final = "partly"
NOT_SEEN: Final = "not seen"
OPPOSITE: Final = "not seen; the opposite"


def verdict(found: Ratio, claimed: float) -> str:
    """Of "`claimed` times better, at least": confirmed if the interval is above 1 and reaches it,
    partly if it is above 1 only."""
    if found.low > 1.0:
        return CONFIRMED if found.high >= claimed else PARTLY
    return OPPOSITE if found.high < 1.0 else NOT_SEEN
