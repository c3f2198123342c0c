from __future__ import annotations

import pytest

from agent_worker.runtime import tail, turns


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that ran out rings no bell: who waits looks now and then, here more often."""
    monkeypatch.setattr(turns, "_LOOK_S", 0.05)
    monkeypatch.setattr(tail, "_LOOK_S", 0.05)
