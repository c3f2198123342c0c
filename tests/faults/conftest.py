"""Tests of faults with real processes: the scenarios of bench.chaos, at a size for every day."""

from __future__ import annotations

from tests.support.loops import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
