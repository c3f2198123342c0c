"""The scenarios, by name, in the order in which they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.chaos.scenarios.cancelled import Cancelled
from bench.chaos.scenarios.descriptors import Descriptors
from bench.chaos.scenarios.floods import (
    Http2Floods,
    Http2Resets,
    LongBodies,
    Pipelining,
    TinyResponses,
    TinyUploads,
    UnreadResponses,
    UnreadStreams,
)
from bench.chaos.scenarios.half_open import HalfOpen
from bench.chaos.scenarios.mix_up import MixUp
from bench.chaos.scenarios.mute_worker import MuteWorker
from bench.chaos.scenarios.post_once import PostOnce
from bench.chaos.scenarios.processes import Processes
from bench.chaos.scenarios.refusals import Refusals
from bench.chaos.scenarios.refused_uploads import RefusedUploads
from bench.chaos.scenarios.slow_clients import SlowBodies, SlowHeads
from bench.chaos.scenarios.stuck_readers import StuckReaders
from bench.chaos.scenarios.wall_clock import WallClock
from bench.chaos.scenarios.worker_dies import WorkerDies

if TYPE_CHECKING:
    from bench.chaos.scenario import Scenario

SCENARIOS: dict[str, type[Scenario]] = {
    scenario.name: scenario
    for scenario in (
        MixUp,
        PostOnce,
        WorkerDies,
        HalfOpen,
        MuteWorker,
        RefusedUploads,
        Descriptors,
        StuckReaders,
        UnreadResponses,
        UnreadStreams,
        Pipelining,
        TinyUploads,
        TinyResponses,
        LongBodies,
        Http2Resets,
        Http2Floods,
        SlowHeads,
        SlowBodies,
        WallClock,
        Cancelled,
        Processes,
        Refusals,
    )
}
