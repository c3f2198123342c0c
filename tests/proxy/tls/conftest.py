"""What every test of TLS to clients has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import site

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def certificate(tmp_path: Path) -> str:
    """The path of one for a.test."""
    return site(tmp_path, "a.test")
