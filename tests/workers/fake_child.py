"""Fake worker processes: they record messages and do what a test asks for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hermes_lb.workers import fleet

if TYPE_CHECKING:
    import pytest


class FakeChild:
    """Stands in for `workers.child.Child` and for its channel.

    `told` are the messages. It answers while `answers` is set; `patience` are the timeouts of the
    questions, in seconds.
    """

    def __init__(self, number: int, slot: int, heard: Any, ended: Any) -> None:
        self.pid, self.number, self.slot = 1_000_000 + number, number, slot
        self.is_retired = self.serves = self.is_silent = False
        self.is_alone: bool | None = None
        self.listens: dict[Any, Any] = {}
        self.exit_status: int | None = None
        self.incarnation = ""
        self.started_at = asyncio.get_running_loop().time()
        self.channel = self
        self.is_closed = self.is_amid_message = False
        self.told: list[dict[str, Any]] = []
        self.patience: list[float] = []
        self.given: list[int] = []  # descriptors, with the last question
        self.answers = asyncio.Event()
        self.answers.set()
        self._heard, self._ended = heard, ended
        self._over = asyncio.Event()

    def __repr__(self) -> str:
        return f"<FakeChild {self.number}, slot {self.slot}>"

    @property
    def has_ended(self) -> bool:
        return self.exit_status is not None

    @property
    def end_in_words(self) -> str:
        return "by the test"

    def send(self, message: dict[str, Any]) -> None:
        self.told.append(message)

    async def ask(
        self, message: dict[str, Any], descriptors: Any = (), *, timeout: float
    ) -> dict[str, Any]:
        self.told.append(message)
        self.patience.append(timeout)
        self.given = list(descriptors)
        await self.answers.wait()
        return {"urls": []}

    def retire(self, timeout: float) -> None:
        self.is_retired = True
        if timeout == 0.0:
            self.ends()

    def kill(self) -> None:
        self.ends(-9)

    def ends(self, status: int = 0) -> None:
        if not self.has_ended:
            self.exit_status = status
            self._over.set()
            self._ended(self)

    async def wait(self) -> None:
        await self._over.wait()

    def what(self, do: str) -> list[dict[str, Any]]:
        """Messages of one kind."""
        return [message for message in self.told if message["do"] == do]


def fake_children(monkeypatch: pytest.MonkeyPatch) -> list[FakeChild]:
    """All children that fleets start after this call."""
    started: list[FakeChild] = []

    class Started(FakeChild):
        @classmethod
        def start(cls, loop: str, *, number: int, slot: int, heard: Any, ended: Any) -> FakeChild:
            started.append(cls(number, slot, heard, ended))
            return started[-1]

    monkeypatch.setattr(fleet, "Child", Started)
    return started
