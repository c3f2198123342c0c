"""What `python -m bench.strategies` prints."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bench import strategies
from hermes_lb.balancing import STRATEGIES

if TYPE_CHECKING:
    import pytest


def test_the_table_is_whole_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe has no width of its own."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "argv", ["strategies", *STRATEGIES])
    monkeypatch.setattr(strategies, "measure", lambda *_: 1234.0)
    assert strategies.main() == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name in STRATEGIES:
        assert [name, *["1,234"] * len(strategies.COLUMNS)] in lines
