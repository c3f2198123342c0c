"""A turn, and what each of its clients got."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from bench.chaos_turns.script import Question

#: `Heard.end` of a client that has all of the answer.
DONE = "done"


class Segment(NamedTuple):
    """What one connection has brought: events behind the first `after` ones."""

    after: int
    events: list[bytes]
    is_clean: bool  # it said that the answer ends here


@dataclass
class Heard:
    """What one client got of a turn, over all of its connections.

    `end`: `DONE`, or why it got no more; empty while it goes on.
    """

    end: str = ""
    segments: list[Segment] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)  # complete answers that are no streams
    #: The last event's id, and how many events there are up to it.
    last_id: str = ""
    position: int = 0
    #: Its response was sent while the store was away: nothing of it is kept.
    is_degraded: bool = False
    connections: int = 0
    log: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.end!r} behind {self.position}: {'; '.join(self.log[-12:])}"


@dataclass
class Turn:
    """One request to a backend. `key`, `session`: empty where it has none."""

    kind: str
    question: Question
    principal: str
    path: str
    key: str = ""
    session: str = ""
    is_get: bool = False
    #: As the balancer has named it.
    resume_path: str = ""
    began: float = 0.0  # time.time()
    is_deleted: bool = False
    #: When its last client left for good, where that cancels it; 0: it did not.
    left: float = 0.0
    heard: list[Heard] = field(default_factory=list)

    @property
    def uid(self) -> str:
        return self.question.uid

    @property
    def headers(self) -> dict[str, str]:
        found = {"Authorization": self.principal}
        if self.is_get:
            found["Origin"] = "https://page.example"
        else:
            found["Content-Type"] = "application/json"
            if self.key:
                found["Idempotency-Key"] = self.key
        if self.session:
            found["X-Session-Id"] = self.session
        return found

    @property
    def target(self) -> dict[str, str]:
        """Its query."""
        return {**self.question.query, "key": self.key} if self.is_get else {}

    def __str__(self) -> str:
        return f"{self.kind} {self.uid} {self.resume_path or '(no path)'}"
