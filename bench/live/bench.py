"""What every measurement is given."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.live.errors import BenchError

if TYPE_CHECKING:
    from pathlib import Path

    from bench.live.certificate import Certificate
    from bench.live.upstreams import Upstreams


@dataclass(frozen=True)
class Bench:
    """One run's surroundings."""

    directory: Path  # temporary, removed at the end
    seconds: float  # length of one measurement
    proxy_core: int
    load_core: int
    spare_cores: tuple[int, ...]  # more that this machine has; most cases leave them alone
    upstreams: Upstreams
    syslog_port: int  # TCP and UDP, see SyslogSink
    certificate: Certificate | None


def choose_cores() -> tuple[int, int, tuple[int, ...]]:
    """(the proxy's core, the load's core, the rest) of those that this process may use."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("two cores are needed: one for the proxy, one for the load")
    return cores[0], cores[1], tuple(cores[2:])
