"""The long run finds what there is to find, shrinks it, and writes a case that can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.differential import __main__ as command
from tests.differential import corpus, fuzz
from tests.differential.play import play
from tests.differential.verdict import Disagreement, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from tests.differential.arena import Arena


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Instead of that of the corpus; and rounds are short."""
    monkeypatch.setattr(corpus, "FOLDER", tmp_path)
    monkeypatch.setattr(fuzz, "EXAMPLES", 100)
    return tmp_path


def _planted(arena: Arena, case: Any) -> Verdict:
    """A disagreement wherever there is more than one piece."""
    if len(case.pieces) > 1:
        raise Disagreement("cut", "in pieces")
    return play(arena, case)


def test_what_is_found_is_shrunk_and_saved(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz, "play", _planted)
    status = command.main(["--minutes", "0.02", "--seed", "1", "--save"])
    said = capsys.readouterr().out
    assert status == 1
    assert "found" in said
    assert "cut\n  in pieces" in said
    (case,) = corpus.cases()
    assert case.name.startswith("found-requests-")
    assert case.what.startswith("cut (seed 1, in 2 pieces")
    assert len(case.wire) < 100  # most are longer
    assert case.client is None


def test_nothing_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--minutes", "0.01", "--seed", "1", "--save"]) == 0
    assert "0 disagreements" in capsys.readouterr().out
    assert corpus.cases() == []


def test_one_kind_is_found_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "play", _planted)
    announced: list[str] = []
    run = fuzz.Fuzz(1, lambda tally: None, lambda found: announced.append(found.kind))
    run._round("requests", 1)
    run._ends_at = float("inf")
    run._round("requests", 1)
    run._round("responses", 1)
    assert announced == ["cut"]
    assert run.tally.found["cut"].count > 1
