"""Runs a scenario of `bench.chaos` as a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.chaos.arena import Arena
from bench.chaos.report import Report
from bench.chaos.scenario import Skipped

if TYPE_CHECKING:
    from pathlib import Path

    from bench.chaos.scenario import Scenario


async def holds(scenario: Scenario, folder: Path) -> Report:
    """Run it; every invariant that it knows must hold. How late the event loop was is no test's."""
    report = Report()
    try:
        async with Arena(folder, report) as arena:
            await scenario.run(arena)
    except Skipped as reason:
        pytest.skip(str(reason))
    assert not report.broken, "\n".join(report.broken)
    return report
