"""A certificate for tests of TLS to clients; uvloop by default, as on the data path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import site
from tests.support.loops import pytest_asyncio_loop_factories

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["certificate", "pytest_asyncio_loop_factories"]


@pytest.fixture
def certificate(tmp_path: Path) -> str:
    """The path of one for a.test."""
    return site(tmp_path, "a.test")
