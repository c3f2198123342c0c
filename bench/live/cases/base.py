"""What every case has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from bench.live.bench import Bench
    from bench.live.peers.base import Peer, Running


@dataclass(frozen=True)
class Metric:
    """One figure of a case. `is_main` ones are shown with their spread over the rounds."""

    key: str
    title: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    digits: int = 1
    is_main: bool = False
    has_ratio: bool = True  # False where the bare figure is the point (a difference near zero)


@dataclass
class Sample:
    """What one measurement found: metric key -> value, and what casts doubt on it."""

    values: dict[str, float]
    warnings: list[str] = field(default_factory=list)


class Case(ABC):
    """One thing that is measured, the same way for every peer."""

    name: ClassVar[str]
    title: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    needs_wrk: ClassVar[bool] = False
    needs_certificate: ClassVar[bool] = False

    def accepts(self, peer: Peer) -> bool:
        """Whether `peer` can do this at all, and is there for it."""
        return self.name in peer.cases if peer.cases else peer.name != "direct"

    def left_out(self, bench: Bench) -> str | None:
        """What this machine can't show of it, and why."""
        return None

    def rounds(self, rounds: int, seconds: float) -> int:
        """How often each peer is measured in a run of `rounds` of `seconds`."""
        return rounds

    @abstractmethod
    def measure(self, peer: Peer, bench: Bench) -> Sample:
        """Start a new `peer`, measure it once for `bench.seconds`, end it."""


class SlicedCase(Case):
    """Measured in slices of a second: all peers run, and all but the measured one are stopped.

    A second is what wrk can do at least. Slices of different peers in the same round are close
    together in time, so their ratio suffers little from a machine whose speed changes.
    """

    SLICE: ClassVar[int] = 1  # s

    def rounds(self, rounds: int, seconds: float) -> int:
        return max(1, round(rounds * seconds / self.SLICE))

    def measure(self, peer: Peer, bench: Bench) -> Sample:
        with self.started(peer, bench) as proxy:
            return self.measure_slice(proxy, bench, max(1, round(bench.seconds)))

    @abstractmethod
    def started(self, peer: Peer, bench: Bench) -> AbstractContextManager[Running]:
        """Start a new `peer` and warm it up; end it with the context."""

    @abstractmethod
    def measure_slice(self, proxy: Running, bench: Bench, seconds: int) -> Sample:
        """Measure a running proxy once."""


# Beside most figures, so that a reader can judge them.
CPU_SHARE = Metric("cpu_share", "CPU used", "cores", "neither", 2)
FOREIGN = Metric("foreign", "used by others", "of a core", "neither", 2)
# From here on a figure says more about the neighbours than about the proxy (see Window).
FOREIGN_LIMIT = 0.1
# Of `cpu_us`; the kernel's part is much the same for all proxies. They are sampled at the clock
# tick: right for a busy proxy, and not for one that a timer of the load wakes.
USER = Metric("user_us", "of it user", "µs", "lower", 1)
SYSTEM = Metric("system_us", "of it system", "µs", "lower", 1)
