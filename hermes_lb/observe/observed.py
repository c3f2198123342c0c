"""What the metrics and the admin listener look at: references, never copies."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from hermes_lb.observe.loop_lag import LoopLag
from hermes_lb.observe.usage import Usage, usage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hermes_lb.backends import FrontendCounters, Pool
    from hermes_lb.observe.certificates import CertificateView


@dataclass(slots=True)
class ProcessView:
    """A process of the data path. An embedded balancer has one, the one it runs in.

    The process itself updates it; a supervisor has one for each of its worker processes, from their
    `cells`. `number` is a label of the metrics, so it is unique among living processes, and a new
    process takes the lowest free one.
    """

    number: int
    pid: int
    started_at: float = field(default_factory=time.time)  # seconds since 1970
    is_draining: bool = False  # it takes no new connections: an old generation
    clients: int = 0  # open connections
    access_log_dropped: int = 0  # lines lost
    loop_lag: LoopLag = field(default_factory=LoopLag)
    usage: Usage = field(default_factory=Usage)

    WIDTH: ClassVar[int]

    @property
    def open_files(self) -> int:
        return self.usage.open_files

    @property
    def max_files(self) -> int:
        return self.usage.max_files

    def look(self) -> None:
        """Read `usage` from the kernel, in any process; it is kept if the process has ended."""
        self.usage = usage_of(self.pid) or self.usage

    def cells(self) -> list[float]:
        """`WIDTH` numbers: all but `usage`, which every process can read from the kernel."""
        return [
            self.number, self.pid, self.started_at, self.is_draining, self.clients,
            self.access_log_dropped, self.loop_lag.worst, *self.loop_lag.histogram.cells(),
        ]  # fmt: skip

    def load(self, cells: Sequence[float]) -> None:
        """Take the values of another one's `cells`."""
        number, pid, started_at, is_draining, clients, dropped, worst, *lag = cells
        self.number, self.pid, self.started_at = int(number), int(pid), started_at
        self.is_draining, self.clients = bool(is_draining), int(clients)
        self.access_log_dropped = int(dropped)
        self.loop_lag.worst = worst
        self.loop_lag.histogram.load(lag)


ProcessView.WIDTH = len(ProcessView(0, 0).cells())


class DiscoveryView(NamedTuple):
    """What a backend's discovery has done. Times are seconds since 1970, 0.0: never."""

    backend: str
    kind: str
    servers: int
    failures: int
    last_success: float

    def beside(self, other: DiscoveryView) -> DiscoveryView:
        """Of both, which are of one kind: the sums, and the older success."""
        return self._replace(
            servers=self.servers + other.servers,
            failures=self.failures + other.failures,
            last_success=min(self.last_success, other.last_success),
        )


def _no_discoveries() -> Sequence[DiscoveryView]:
    return ()


@dataclass(slots=True)
class Upkeep:
    """Events of the balancer as a whole. Times are seconds since 1970."""

    started_at: float = field(default_factory=time.time)
    loaded_at: float = field(default_factory=time.time)  # when the configuration in use was
    reloads: int = 0
    failed_reloads: int = 0  # after one of these the old configuration stays in use
    has_failed_to_reload: bool = False  # the last time
    process_restarts: int = 0  # worker processes that ended unexpectedly, and were replaced
    discoveries: Callable[[], Sequence[DiscoveryView]] = _no_discoveries

    def reloaded(self) -> None:
        """A new configuration is in use."""
        self.reloads += 1
        self.loaded_at = time.time()
        self.has_failed_to_reload = False

    def failed_to_reload(self) -> None:
        """A new configuration was refused."""
        self.failed_reloads += 1
        self.has_failed_to_reload = True

    @property
    def dns_failures(self) -> dict[str, int]:
        """By backend: look-ups of its servers' names (`resolve`)."""
        return {one.backend: one.failures for one in self.discoveries() if one.kind == "resolve"}


def _is_current() -> None:
    """Nothing has to be fetched."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One balancer, read-only. Call `refresh` before reading."""

    pools: Mapping[str, Pool]  # by backend
    frontends: Mapping[str, FrontendCounters]
    processes: Sequence[ProcessView] = ()
    upkeep: Upkeep = field(default_factory=Upkeep)
    refresh: Callable[[], None] = _is_current  # makes all numbers current; never waits
    supervisor_lag: LoopLag | None = None  # of a supervisor's loop, in which checks run
    certificates: Callable[[], Sequence[CertificateView]] = tuple  # those in use
