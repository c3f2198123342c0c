"""The workers' records, as they are on the disk, whichever workers have been killed since."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from bench.chaos.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


class Left(NamedTuple):
    """A request whose client left before its end."""

    at_ns: int  # CLOCK_MONOTONIC
    sent: int  # bytes of the response that the worker got rid of before


class Journal:
    """One file for all workers: O_APPEND keeps their lines whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def executed(self) -> Counter[str]:
        """How often each id was begun."""
        return Counter(line[1] for line in self._lines("began"))

    def arriving(self) -> set[str]:
        """Requests whose heads came before their bodies."""
        return {line[1] for line in self._lines("arrives")}

    def executing(self, worker: str) -> set[str]:
        """All that this worker has ever begun."""
        return {line[1] for line in self._lines("began") if line[2] == worker}

    def stuck(self) -> dict[str, int]:
        """Responses of which nothing is taken, with the bytes that were taken before."""
        return {line[1]: int(line[2]) for line in self._lines("stuck")}

    def left(self) -> dict[str, Left]:
        return {line[1]: Left(int(line[2]), int(line[3])) for line in self._lines("left")}

    async def until_begun(self, idents: set[str]) -> None:
        """Wait until workers execute all of these."""

        async def are_begun() -> bool:
            return idents <= self.executed().keys()

        await until(are_begun, f"being executed: {idents}")

    async def until_stuck(self, idents: set[str]) -> None:
        """Wait until workers are held back by the readers of all of these."""

        async def are_stuck() -> bool:
            return idents <= self.stuck().keys()

        await until(are_stuck, f"held back: {idents}")

    async def until_left(self, idents: set[str]) -> dict[str, Left]:
        """Wait until workers know that the clients of all of these have left."""

        async def are_left() -> bool:
            return idents <= self.left().keys()

        await until(are_left, f"left by their clients: {idents}")
        return {ident: left for ident, left in self.left().items() if ident in idents}

    def _lines(self, event: str) -> list[list[str]]:
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return [line for line in lines if line[0] == event]
