"""Autobahn's WebSocket cases: through the balancer each gives exactly what it gives without.

WEBSOCKET_CASES=all python -m pytest tests/outside/test_websocket_cases.py    (about 20 min)
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.needs import needs_package
from tests.support.programs import run, server_process

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stage import Stage

pytestmark = pytest.mark.slow

needs_package("kosoku")

WHICH = "all" if os.environ.get("WEBSOCKET_CASES") == "all" else "few"
# Seconds for one run. It takes 6 and 330 on a machine of two cores; kosoku bounds each case.
PATIENCE = {"few": 90, "all": 1800}[WHICH]
# Many of the first 10 groups only wait; the others keep a core busy each.
CONCURRENCY = {"few": 8, "all": 2}[WHICH]
# Some cases ask who is faster, an echo or the end because of the frame behind it. On a busy
# machine that differs now and then: those that differ are asked so often again, alone.
CHANCES = 3

# aiohttp takes the close code 1006, which no endpoint may send. That is the server's matter.
SERVER_FAILS = {"7.9.5"}

Outcomes = dict[str, dict[str, Any]]


async def outcomes(url: str, file: Path, cases: set[str] | None = None) -> Outcomes:
    """Run the cases in a process of their own; all of `WHICH`, or some of them one by one."""
    ran = await run(
        sys.executable, "-m", "tests.outside.websocket_cases",
        url, str(file), *((str(CONCURRENCY), WHICH) if cases is None else ("1", ",".join(cases))),
        within=PATIENCE,
    )  # fmt: skip
    assert ran.status == 0, ran.said
    return read(file)


def read(file: Path) -> Outcomes:
    found: Outcomes = json.loads(file.read_text())
    return found


def differences(one: Outcomes, other: Outcomes) -> list[str]:
    assert one.keys() == other.keys()
    return [
        f"case {case}: {name}: {value!r} and {other[case][name]!r}"
        for case, told in one.items()
        for name, value in told.items()
        if value != other[case][name]
    ]


def differing(one: Outcomes, other: Outcomes) -> set[str]:
    return {case for case, told in one.items() if told != other[case]}


def failing(cases: Outcomes) -> set[str]:
    good = {"OK", "NON-STRICT", "INFORMATIONAL"}
    return {
        case
        for case, told in cases.items()
        if not good.issuperset((told["behavior"], told["behavior_close"]))
    }


@pytest.mark.row(24)
@pytest.mark.timeout(4 * PATIENCE)
async def test_each_case_gives_through_the_balancer_what_it_gives_without(
    stage: Stage, tmp_path: Path
) -> None:
    async with server_process("tests.outside.echo_server") as echo:
        lb = await stage.balancer(echo.port)
        direct, balanced = f"ws://127.0.0.1:{echo.port}", lb.url.replace("http:", "ws:")

        without = await outcomes(direct, tmp_path / "without.json")
        through = await outcomes(balanced, tmp_path / "through.json")
        again = await outcomes(direct, tmp_path / "again.json")
        asked = len(through)

        for _ in range(CHANCES):
            cases = differing(without, again) | differing(without, through)
            if not cases:
                break
            without |= await outcomes(direct, tmp_path / "without.json", cases)
            through |= await outcomes(balanced, tmp_path / "through.json", cases)
            again |= await outcomes(direct, tmp_path / "again.json", cases)
            asked += len(cases)

        # A case that is not the same twice says nothing of us, and must not be used as if it did.
        assert differences(without, again) == [], "these differ without the balancer, too"
        assert differences(without, through) == []
        assert failing(without) == SERVER_FAILS
        await stage.logged(lb, asked)
