"""The admin listener by itself."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_token_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's environment has is not for the tests."""
    monkeypatch.delenv("HERMES_LB_ADMIN_TOKEN", raising=False)
