"""Which worker processes are stuck: they live, and do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.observe.usage import usage_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_lb.workers.block import Block
    from hermes_lb.workers.child import Child

# Looks without a sign of life, after which a worker is taken for stuck: 10 s. Seconds would not do:
# when machine or container have stood still, all signs are old, and nobody is stuck.
_MOST_LOOKS = 20


class SignsOfLife:
    """Those in the shared memory: what each worker's clock says, several times a second."""

    def __init__(self, block: Block) -> None:
        self._block = block
        # By pid: the sign, and looks since it came.
        self._last: dict[int, tuple[float | None, int]] = {}

    def stuck(self, children: Iterable[Child]) -> list[Child]:
        """Who of all children has given none for a while. To be called each half second.

        Each is named once. The first sign of one that starts is that it uses the processor: how
        long a start takes depends on what else the machine has to do. One that hangs before its
        first tick of the clock has used 0.0 of it for ever, which is known, too.
        """
        seen: dict[int, tuple[float | None, int]] = {}
        found = []
        for child in children:
            sign = self._block.parts[child.number].gauges[-1] or None
            if sign is None and not child.serves:
                sign = _cpu_seconds(child.pid)
            last, looks = self._last.get(child.pid, (None, 0))
            looks = looks + 1 if sign == last and sign is not None else 0
            seen[child.pid] = sign, looks
            if looks == _MOST_LOOKS:
                found.append(child)
        self._last = seen
        return found


def _cpu_seconds(pid: int) -> float | None:
    """None: not known."""
    usage = usage_of(pid)
    return usage.cpu_seconds if usage is not None else None
