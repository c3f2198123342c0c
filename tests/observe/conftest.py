"""Tests with a balancer run on uvloop, like those of the data path."""

from __future__ import annotations

from tests.support.loops import uvloop_for_balancers as pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
