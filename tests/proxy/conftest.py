"""Tests of the data path: the real balancer between scripted peers, on uvloop by default."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop

from tests.proxy.support import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, LoopFactory]:
    """uvloop, and asyncio's own loop too for what is marked `on_both_loops`."""
    marker = item.get_closest_marker("asyncio")
    both = marker is not None and marker.kwargs.get("loop_factories")
    factories: dict[str, LoopFactory] = {"uvloop": uvloop.new_event_loop}
    if both:
        factories["asyncio"] = asyncio.SelectorEventLoop
    return factories


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Stage(tmp_path) as running:
        yield running
