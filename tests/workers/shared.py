"""A `SharedState` over a small shared memory, and a fleet that records messages."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hermes_lb.workers.gathered import Gathered
from hermes_lb.workers.layout import Layout
from hermes_lb.workers.shared_memory import SharedMemory
from hermes_lb.workers.shared_state import SharedState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.backends import Server
    from hermes_lb.config import Config


class FakeFleet:
    """`told` are the messages, `spared` the child that was left out of each (None: none was)."""

    def __init__(self) -> None:
        self.children: list[Any] = []
        self.told: list[dict[str, Any]] = []
        self.spared: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.all_have_answered = True
        self.patience: list[float] = []  # seconds

    def broadcast(self, message: dict[str, Any], *, but: Any = None) -> None:
        self.told.append(message)
        self.spared.append(but)

    async def ask_all(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        self.asked.append(message)
        return self.answers

    async def all_answer(self, message: dict[str, Any], timeout: float) -> bool:
        self.asked.append(message)
        self.patience.append(timeout)
        return self.all_have_answered


class Shared:
    """The state and its collaborators."""

    def __init__(self, configured: Config) -> None:
        self.memory = SharedMemory.create(3, rows=10)
        self.gathered = Gathered(self.memory)
        self.layout = Layout(self.memory)
        self.fleet: Any = FakeFleet()
        self.state = SharedState(self.fleet, self.layout, self.gathered)
        self.state.reconfigure(configured)

    def server(self, name: str, backend: str = "agents") -> Server:
        return next(s for s in self.state.pools[backend].servers if s.name == name)


@contextmanager
def a_shared_state(configured: Config) -> Iterator[Shared]:
    shared = Shared(configured)
    try:
        yield shared
    finally:
        shared.memory.close()
