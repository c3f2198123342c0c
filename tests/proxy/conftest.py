"""Tests of the data path: the real balancer between scripted peers, on uvloop by default."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.loops import pytest_asyncio_loop_factories
from tests.support.stage import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["pytest_asyncio_loop_factories", "stage"]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Stage(tmp_path) as running:
        yield running
