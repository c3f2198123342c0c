"""`python -m bench.chaos.control PID`: what the machine itself does to timers while PID runs.

A process that sleeps for 5 ms at a time, and each time looks how long the kernel has let PID's main
thread wait for a core. SIGTERM ends it; then it prints

- the worst delay of a sleep of its own, in seconds;
- and a line for each look: when, and how long PID had waited until then, in seconds.

The first alone would be unfair to PID: who sleeps most of the time is preferred when it wakes.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import FrameType

_INTERVAL = 0.005  # s


class Look(NamedTuple):
    """One line of the output."""

    at: float
    waited: float


class Control(NamedTuple):
    """The output, read back."""

    late: float
    looks: list[Look]

    @classmethod
    def parse(cls, output: str) -> Control:
        late, *lines = output.splitlines()
        return cls(float(late), [Look(*map(float, line.split())) for line in lines])

    def most_waited(self, window: float) -> float:
        """The most that the process waited for a core within this number of seconds."""
        most = 0.0
        first = 0
        for look in self.looks:
            while self.looks[first].at < look.at - window:
                first += 1
            most = max(most, look.waited - self.looks[first].waited)
        return most


class _Ended(Exception):
    pass


def _end(number: int, frame: FrameType | None) -> None:
    raise _Ended


def _waited(schedstat: Path) -> float:
    """Seconds on a run queue so far (proc_pid_schedstat: time on the CPU, time waiting, slices)."""
    try:
        return int(schedstat.read_text().split()[1]) / 1e9
    except (OSError, IndexError):  # it has ended, or this kernel does not count
        return 0.0


def main(pid: str) -> None:
    signal.signal(signal.SIGTERM, _end)
    schedstat = Path(f"/proc/{pid}/schedstat")
    late = 0.0
    looks: list[Look] = []
    try:
        while True:
            due = time.monotonic() + _INTERVAL
            time.sleep(_INTERVAL)
            now = time.monotonic()
            late = max(late, now - due)
            looks.append(Look(now, _waited(schedstat)))
    except _Ended:
        print(f"{late:.6f}")
        for look in looks:
            print(f"{look.at:.6f} {look.waited:.6f}")


if __name__ == "__main__":
    main(sys.argv[1])
