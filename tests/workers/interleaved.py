"""Workers that run interleaved: at each access to shared memory another one may continue."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.workers.several import Several

PATIENCE = 20.0  # seconds; reached only by a bug


class Interleaved:
    """Runs scripts interleaved; `order` selects at each access which one continues."""

    def __init__(self, several: Several, order: Iterable[int]) -> None:
        self._order = iter(order)
        self._semaphores: list[threading.Semaphore] = []
        self._alive: list[int] = []
        self._running = 0
        self._failed: list[BaseException] = []
        self._over = threading.Event()
        for region in several.memory.regions:
            for name in ("loads", "waiting", "raw_loads"):
                setattr(region, name, _Watched(getattr(region, name), self._switch))

    def run(self, *scripts: Callable[[], None]) -> None:
        """Run all to their ends. Raises what the first failed one raised."""
        self._semaphores = [threading.Semaphore(0) for _ in scripts]
        self._alive = list(range(len(scripts)))
        threads = [
            threading.Thread(target=self._run, args=(number, script), daemon=True)
            for number, script in enumerate(scripts)
        ]
        for thread in threads:
            thread.start()
        self._running = self._next()
        self._semaphores[self._running].release()
        assert self._over.wait(PATIENCE), "deadlock"
        for thread in threads:
            thread.join(PATIENCE)
        if self._failed:
            raise self._failed[0]

    def _next(self) -> int:
        return self._alive[next(self._order, 0) % len(self._alive)]

    def _run(self, number: int, script: Callable[[], None]) -> None:
        self._semaphores[number].acquire()
        try:
            script()
        except BaseException as error:
            self._failed.append(error)
        self._alive.remove(number)
        if self._alive:
            self._running = self._next()
            self._semaphores[self._running].release()
        else:
            self._over.set()

    def _switch(self) -> None:
        if not self._alive:
            return  # no other script is left
        before, self._running = self._running, self._next()
        if self._running != before:
            self._semaphores[self._running].release()
            self._semaphores[before].acquire()


class _Watched:
    """A view of the memory that switches before each access."""

    def __init__(self, view: memoryview, switch: Callable[[], None]) -> None:
        self._view = view
        self._switch = switch

    def __getitem__(self, place: Any) -> Any:
        self._switch()
        return self._view[place]

    def __setitem__(self, place: int, value: Any) -> None:
        self._switch()
        self._view[place] = value

    def release(self) -> None:
        self._view.release()
