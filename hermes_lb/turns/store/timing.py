"""The periods of the store, in seconds."""

from __future__ import annotations

from typing import Final, NamedTuple


class Timing(NamedTuple):
    """A lease survives two lost beats. Notifications may be lost: `poll` bounds what that costs."""

    lease: float = 15.0  # without a beat for this time, a process is dead
    beat: float = 5.0
    poll: float = 2.0  # of waiters, of owners for cancellations, of the beats of others


TIMING: Final = Timing()
