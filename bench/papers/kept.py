"""Results by claim and seed, in a file: an interrupted run goes on from them.

They are of one state of the code and the traces (`state_of`): of another one nothing is taken.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.papers.lab import Pair

if TYPE_CHECKING:
    from collections.abc import Iterable

_ROOT: Final = Path(__file__).resolve().parents[2]
# What decides the figures.
_CODE: Final = ("bench/papers", "hermes_lb/backends", "hermes_lb/balancing", "hermes_lb/lab")


def state_of(traces: Iterable[Path]) -> str:
    """A digest of the code that a run depends on, and of the traces' content."""
    digest = sha256()
    sources = (path for folder in _CODE for path in (_ROOT / folder).rglob("*.py"))
    for path in [*sorted(sources), *traces]:
        digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class Kept:
    """`state`: what the results must be of to be taken."""

    def __init__(self, path: Path, state: str) -> None:
        self._path = path
        self._state = state
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        is_same = found.get("state") == state
        self._results: dict[str, dict[str, list[float]]] = found["results"] if is_same else {}

    def get(self, claim: str, seed: int) -> Pair | None:
        found = self._results.get(claim, {}).get(str(seed))
        return None if found is None else Pair(*found)

    def add(self, claim: str, seed: int, pair: Pair) -> None:
        """And write the file."""
        self._results.setdefault(claim, {})[str(seed)] = list(pair)
        text = json.dumps({"state": self._state, "results": self._results}, indent=1)
        part = self._path.with_suffix(".part")
        part.write_text(text + "\n")
        part.replace(self._path)


def read(path: Path) -> dict[str, list[Pair]]:
    """The pairs of each claim by seed, whatever state they are of."""
    found: dict[str, Any] = json.loads(path.read_text())
    return {
        claim: [Pair(*pairs[seed]) for seed in sorted(pairs, key=int)]
        for claim, pairs in found["results"].items()
    }
