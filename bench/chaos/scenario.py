"""What every scenario is: a name, sizes with defaults, and a run that fills a report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from bench.chaos.arena import Arena


@dataclass
class Scenario(ABC):
    """The sizes are the fields of the dataclass; tests make small ones."""

    name: ClassVar[str]
    title: ClassVar[str]

    @classmethod
    def of(cls, **asked: float | None) -> Self:
        """With those of the asked sizes that it knows, and its own defaults for the rest."""
        known = {field.name for field in fields(cls)}
        return cls(**{k: v for k, v in asked.items() if k in known and v is not None})

    @abstractmethod
    async def run(self, arena: Arena) -> None: ...


class Skipped(Exception):
    """This machine can't run the scenario; the message says why."""
