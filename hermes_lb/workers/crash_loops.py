"""Restart backoff for workers in a crash loop."""

from __future__ import annotations

# Seconds: a worker that ends sooner after its start is in a crash loop.
_STABLE_AFTER = 10.0
# Seconds. Short, as the kernel keeps putting clients into the backlog of the slot.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 2.0


class CrashLoops:
    """Consecutive crashes by slot."""

    def __init__(self, slots: int) -> None:
        self._crashes = [0] * slots

    def __repr__(self) -> str:
        return f"<CrashLoops {self._crashes}>"

    def crashed(self, slot: int, lived: float) -> None:
        """The slot's worker crashed after `lived` seconds."""
        self._crashes[slot] = self._crashes[slot] + 1 if lived < _STABLE_AFTER else 0

    def failed(self, slot: int) -> None:
        """A start failed in the slot."""
        self._crashes[slot] += 1

    def pause(self, slot: int) -> float:
        """Seconds to wait before the next start: 0 after a first crash."""
        crashes = self._crashes[slot]
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (crashes - 2)) if crashes > 1 else 0.0

    def pause_in_words(self, slot: int) -> str:
        """Such as " in 0.5 s"; empty without a pause."""
        pause = self.pause(slot)
        return f" in {pause:g} s" if pause else ""
