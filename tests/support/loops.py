"""The event loops that a test of the data path runs on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

# Most tests run on uvloop only; a mark for those that run on asyncio's own loop as well.
on_both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """For the `conftest.py` of a folder: uvloop, and asyncio's own for `on_both_loops`."""
    marker = item.get_closest_marker("asyncio")
    both = marker is not None and marker.kwargs.get("loop_factories")
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "uvloop": uvloop.new_event_loop
    }
    if both:
        factories["asyncio"] = asyncio.SelectorEventLoop
    return factories


def uvloop_for_balancers(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The same for the tests of a folder that have a stage; asyncio's own loop for the others."""
    is_marked = any("loop_factories" in mark.kwargs for mark in item.iter_markers("asyncio"))
    if is_marked or "stage" in item.fixturenames:  # type: ignore[attr-defined]
        return pytest_asyncio_loop_factories(config, item)
    return {"asyncio": asyncio.new_event_loop}
