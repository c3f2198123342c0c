"""No response is another's, and no POST is executed twice, while workers are killed at load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.chaos.scenarios.mix_up import MixUp
from bench.chaos.scenarios.post_once import PostOnce
from tests.support.chaos import holds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.mark.timeout(240)  # 25 s on two idle cores
async def test_100_000_responses_are_their_requests_own(tmp_path: Path) -> None:
    report = await holds(MixUp(requests=100_000, kills=20, seed=7), tmp_path)
    assert report.count("requests") >= 100_000
    assert report.count("workers killed with -9 and restarted") == 20
    assert report.count("wrong") == 0


@pytest.mark.timeout(120)  # 10 s on two idle cores
async def test_a_post_is_executed_at_most_once_and_one_with_a_key_is_repeated(
    tmp_path: Path,
) -> None:
    report = await holds(PostOnce(posts=1000, seed=7), tmp_path)
    assert report.count("plain: POSTs") >= 1000
    assert report.count("plain: executed more than once") == 0
    assert report.count("keyed: executed more than once") > 0
