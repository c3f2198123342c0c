"""The harness of the data path's tests, and the ways in which hostile bytes come."""

from __future__ import annotations

import pytest

from tests.support.hostile import Way
from tests.support.loops import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories", "way"]


@pytest.fixture(params=Way, ids=lambda way: way.value)
def way(request: pytest.FixtureRequest) -> Way:
    """A test that takes it runs once for each way."""
    found: Way = request.param
    return found
