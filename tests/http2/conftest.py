"""Tests of HTTP/2: the real balancer between scripted peers, on uvloop by default."""

from __future__ import annotations

from tests.support.loops import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
