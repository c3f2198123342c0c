"""The admin listener by itself."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_token_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the developer's environment."""
    monkeypatch.delenv("HERMES_LB_ADMIN_TOKEN", raising=False)
