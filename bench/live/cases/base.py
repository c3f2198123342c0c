"""What every case has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from bench.live.bench import Bench
    from bench.live.peers.base import Peer


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

    @abstractmethod
    def measure(self, peer: Peer, bench: Bench) -> Sample:
        """Start a new `peer`, measure it once for `bench.seconds`, end it."""


# Beside most figures, so that a reader can judge them.
CPU_SHARE = Metric("cpu_share", "CPU used", "cores", "neither", 2)
FOREIGN = Metric("foreign", "used by others", "of a core", "neither", 2)
# From here on a figure says more about the neighbours than about the proxy (see Window).
FOREIGN_LIMIT = 0.1
