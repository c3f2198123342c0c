from __future__ import annotations

import pytest

from agent_worker.runtime import admission, tail, turns


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The expiry of a lease is not notified, but polled for; here more often."""
    for module in (admission, tail, turns):
        monkeypatch.setattr(module, "_LOOK_S", 0.05)
