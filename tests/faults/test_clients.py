"""Clients that are slow, that stop, and that leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.chaos.scenarios.cancelled import Cancelled
from bench.chaos.scenarios.floods import (
    Http2Floods,
    Http2Resets,
    LongBodies,
    Pipelining,
    UnreadResponses,
    UnreadStreams,
)
from bench.chaos.scenarios.slow_clients import SlowBodies, SlowHeads
from bench.chaos.scenarios.stuck_readers import StuckReaders
from tests.support.chaos import holds

if TYPE_CHECKING:
    from pathlib import Path

    from bench.chaos.scenario import Scenario

pytestmark = pytest.mark.slow


@pytest.mark.row(31)
async def test_slow_heads_get_a_408_and_a_good_client_is_served_meanwhile(tmp_path: Path) -> None:
    report = await holds(SlowHeads(clients=200, request_head=2.0, seconds=1.0), tmp_path)
    assert report.count("slow clients") == 200
    assert report.count("a good client beside them: requests") > 0


@pytest.mark.row(31)
async def test_a_body_or_a_reader_may_be_slow_but_not_stand_still(tmp_path: Path) -> None:
    await holds(SlowBodies(clients=2, timeout=2.0), tmp_path)


@pytest.mark.row(32)
async def test_the_work_for_a_client_that_has_left_is_cancelled(tmp_path: Path) -> None:
    # The row says 1 s, which `make chaos` holds. Three processes take part, and a busy machine may
    # keep each of them waiting; without the balancer's notice the work would go on for 10 minutes.
    await holds(Cancelled(clients=6, most=5.0), tmp_path)


@pytest.mark.row(36)
async def test_stuck_readers_hold_the_worker_back_and_not_their_response(tmp_path: Path) -> None:
    report = await holds(StuckReaders(readers=10, most_growth=4.0), tmp_path)
    assert report.count("a response, MB") == pytest.approx(200, abs=0.1)


# How late others are served is judged by `make chaos`: here the machine is shared.
_ANY = float("inf")


@pytest.mark.row(36)
@pytest.mark.parametrize(
    "scenario",
    [
        UnreadResponses(readers=60, seconds=1.0, most_p50=_ANY),
        UnreadStreams(readers=100, seconds=1.0, most_p50=_ANY),
        Pipelining(clients=1, seconds=2.0, most_p50=_ANY, least_answers=100),
        LongBodies(clients=1, seconds=2.0, most_p50=_ANY),
        Http2Resets(clients=3, seconds=2.0, most_p50=_ANY),
        Http2Floods(clients=12, seconds=2.0, most_p50=_ANY),
    ],
    ids=lambda scenario: scenario.name,
)
async def test_a_flood_costs_bounded_memory(scenario: Scenario, tmp_path: Path) -> None:
    await holds(scenario, tmp_path)
