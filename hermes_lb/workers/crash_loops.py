"""Who crashes again and again has to wait before it is started anew."""

from __future__ import annotations

# Who ends sooner than this after its start (seconds) is in a crash loop: its successor has to wait.
_STABLE_AFTER = 10.0
# Not for long: the kernel goes on to put clients into the backlog of its seat.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 2.0


class CrashLoops:
    """How often in a row the workers of each seat have crashed."""

    def __init__(self, seats: int) -> None:
        self._crashes = [0] * seats

    def __repr__(self) -> str:
        return f"<CrashLoops {self._crashes}>"

    def crashed(self, seat: int, lived: float) -> None:
        """The worker there has, after so many seconds."""
        self._crashes[seat] = self._crashes[seat] + 1 if lived < _STABLE_AFTER else 0

    def failed(self, seat: int) -> None:
        """One could not be started there."""
        self._crashes[seat] += 1

    def pause(self, seat: int) -> float:
        """Seconds until the next one may start there: none after a first crash."""
        crashes = self._crashes[seat]
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (crashes - 2)) if crashes > 1 else 0.0

    def pause_in_words(self, seat: int) -> str:
        """Such as " in 0.5 s"; nothing if there is none."""
        pause = self.pause(seat)
        return f" in {pause:g} s" if pause else ""
