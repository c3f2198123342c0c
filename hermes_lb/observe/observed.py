"""What the metrics and the admin listener look at: references, never copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hermes_lb.observe.access_log import AccessLog
    from hermes_lb.observe.loop_lag import LoopLag
    from hermes_lb.pool import FrontendCounters, Pool


@dataclass(frozen=True, slots=True)
class Observed:
    """One balancer, for those who only look."""

    pools: Mapping[str, Pool]  # by backend
    frontends: Mapping[str, FrontendCounters]
    access_log: AccessLog
    loop_lag: LoopLag
