"""Uploads that servers refuse from their heads harm no other request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.chaos.scenarios.refused_uploads import RefusedUploads
from tests.support.chaos import holds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.mark.timeout(60)  # 2 s on two idle cores
async def test_refused_uploads_take_no_server_out(tmp_path: Path) -> None:
    report = await holds(RefusedUploads(uploads=60), tmp_path)
    assert report.count("... answered with 413") == 60
