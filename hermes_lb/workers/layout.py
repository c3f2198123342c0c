"""Assigns the rows of the shared memory."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hermes_lb.backends import Pool, Server
    from hermes_lb.config import Config
    from hermes_lb.workers.shared_memory import SharedMemory


def server_row(backend: str, server: Server) -> str:
    """The key of a server's row. The same name at another address is another server, unless a
    discovery says that it has moved."""
    return f"{backend}/{server.name} {server.config.identity}"


def frontend_row(name: str) -> str:
    """The key of a frontend's row."""
    return f"frontend {name}"


class Layout:
    """A row for each server, backend and frontend, by key.

    The row of a removed one is reused only when all regions are clear there: a draining worker may
    not know of the removal yet.
    """

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._free: list[int] = []
        self._next = 0
        self.rows: dict[str, int] = {}

    def check(self, configured: Config) -> None:
        """Raises ValueError if a configuration needs more rows than there are."""
        count = len(configured.frontends) + sum(
            1 + len(backend.servers) + (backend.discovery.max_servers if backend.discovery else 0)
            for backend in configured.backends.values()
        )
        if count > self._memory.rows:
            raise ValueError(
                f"{count} servers, backends and frontends; there can be {self._memory.rows} "
                "(a discovery counts with its max_servers)"
            )

    def assign(self, pools: Mapping[str, Pool], frontends: Iterable[str]) -> list[int]:
        """Assign rows to exactly these -> rows that were freed: their base counters are void.

        Raises ValueError if there are too few rows; nothing is changed then.
        """
        wanted = [frontend_row(name) for name in frontends]
        for name, pool in pools.items():
            wanted.append(name)
            wanted += [server_row(name, server) for server in pool.servers]
        if len(wanted) > self._memory.rows:
            raise ValueError(f"there can be {self._memory.rows} servers, backends and frontends")
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

    def change(self, new: Iterable[str], gone: Iterable[str]) -> list[int]:
        """Assign rows to more keys, and free those of others -> the rows that were freed.

        Raises ValueError if there are too few rows; nothing is changed then. The costs are those of
        these keys.
        """
        wanted = [key for key in new if key not in self.rows]
        taken = list(islice(self._unused(), len(wanted)))
        if len(taken) < len(wanted):
            raise ValueError("all rows of the shared memory are in use: restart to clear it")
        given = set(taken)
        freed = [row for key in gone if (row := self.rows.pop(key, None)) is not None]
        self.rows.update(zip(wanted, taken, strict=True))
        self._free = [row for row in self._free if row not in given] + freed
        self._next = max(self._next, *(row + 1 for row in taken), 0)
        return freed

    def _unused(self) -> Iterator[int]:
        """Free rows, those freed first at first."""
        for row in self._free:
            if all(region.is_row_clear(row) for region in self._memory.regions):
                yield row
        yield from range(self._next, self._memory.rows)

    def state(self) -> dict[str, object]:
        """For the next generation's `restore`."""
        return {"rows": self.rows, "free": self._free, "next": self._next}

    def restore(self, state: Mapping[str, object]) -> None:
        self.rows, self._free, self._next = state["rows"], state["free"], state["next"]  # type: ignore[assignment]
