"""Who has which row of the shared memory."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from hermes_lb.workers.peers import row_of
from hermes_lb.workers.published import frontend_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hermes_lb.backends import Pool
    from hermes_lb.config import Config
    from hermes_lb.workers.block import Block


class Rows:
    """A row for each server, backend and frontend, by name.

    What is gone gives its row back, but nobody gets it while there are numbers of a process that
    has not heard of it: one that only finishes what runs.
    """

    def __init__(self, block: Block) -> None:
        self._block = block
        self._free: list[int] = []
        self._next = 0
        self.rows: dict[str, int] = {}

    def check(self, configured: Config) -> None:
        """Raises ValueError if a configuration has more of them than rows."""
        count = len(configured.frontends) + sum(
            1 + len(backend.servers) for backend in configured.backends.values()
        )
        if count > self._block.rows:
            raise ValueError(
                f"{count} servers, backends and frontends; there can be {self._block.rows}"
            )

    def deal(self, pools: Mapping[str, Pool], frontends: Iterable[str]) -> list[int]:
        """Rows for these and no others -> the rows that are free now: their base is void.

        Raises ValueError if there are more of them than rows; nothing is changed then.
        """
        wanted = [frontend_row(name) for name in frontends]
        for name, pool in pools.items():
            wanted.append(name)
            wanted += [row_of(name, server) for server in pool.servers]
        if len(wanted) > self._block.rows:
            raise ValueError(f"there can be {self._block.rows} servers, backends and frontends")
        new = [key for key in wanted if key not in self.rows]
        taken = list(islice(self._unused(), len(new)))
        if len(taken) < len(new):
            raise ValueError("all rows of the shared memory are in use: restart to clear it")
        known = {**self.rows, **dict(zip(new, taken, strict=True))}
        before, self.rows = self.rows, {key: known[key] for key in wanted}
        freed = [row for key, row in before.items() if key not in self.rows]
        given = set(taken)
        self._free = [row for row in self._free if row not in given] + freed
        self._next = max(self._next, *(row + 1 for row in taken), 0)
        return freed

    def _unused(self) -> Iterator[int]:
        """Those that were given back first."""
        for row in self._free:
            if all(part.is_row_clear(row) for part in self._block.parts):
                yield row
        yield from range(self._next, self._block.rows)

    def state(self) -> dict[str, object]:
        """For the program's next image (`restore`)."""
        return {"rows": self.rows, "free": self._free, "next": self._next}

    def restore(self, state: Mapping[str, object]) -> None:
        self.rows, self._free, self._next = state["rows"], state["free"], state["next"]  # type: ignore[assignment]
