"""HAProxy's `rise` and `fall`: when checks make a server up or down. No I/O, no clock.

Source: HAProxy 2.6 `src/check.c`, `set_server_check_status`, and `include/haproxy/server.h`,
`srv_getinter`. The state is one integer, here for rise = 2, fall = 3:

    value     0        1        2         3         4
    state   down     down       up        up        up
           "fully"          (starts                "fully"
                              here)
    pass     1     -> 4      -> 4      -> 4         4      one more; at `rise` it jumps to the top
    failure  0     -> 0      -> 0         2         3      one less; below `rise` it drops to 0

So a server that is fully up needs `fall` failures in a row to go down, one that is fully down
needs `rise` passes in a row to come up, and a single opposite result resets the count.
"""

from __future__ import annotations


class RiseFall:
    """The verdict on one server.

    It starts at `rise`: up, but one failure takes it down; or, with `up=False`, fully down.
    `rise` and `fall` are at least 1 (ValueError).
    """

    __slots__ = ("fall", "rise", "value")

    def __init__(self, rise: int, fall: int, *, up: bool = True) -> None:
        if rise < 1 or fall < 1:
            raise ValueError(f"rise and fall are at least 1, not {rise} and {fall}")
        self.rise = rise
        self.fall = fall
        self.value = rise if up else 0

    def __repr__(self) -> str:
        state = "up" if self.is_up else "down"
        return f"<RiseFall {state}, {self.value} of 0 to {self.top}, up from {self.rise}>"

    @property
    def top(self) -> int:
        return self.rise + self.fall - 1

    @property
    def is_up(self) -> bool:
        return self.value >= self.rise

    def passed(self) -> None:
        """A check has passed."""
        if self.value < self.top:
            self.value += 1
            if self.value >= self.rise:
                self.value = self.top

    def failed(self) -> None:
        """A check has failed, for any reason."""
        if self.value > 0:
            self.value -= 1
            if self.value < self.rise:
                self.value = 0

    def interval(self, interval: float, fast: float | None, down: float | None) -> float:
        """Seconds until the next check: `interval` when fully up, `down` when fully down, and
        `fast` between; HAProxy's `inter`, `downinter`, `fastinter`. None means `interval`."""
        if self.value == self.top:
            return interval
        chosen = fast if self.value else down
        return interval if chosen is None else chosen
