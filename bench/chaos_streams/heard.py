"""What one client got of one turn."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from bench.chaos_sessions.audit import event_order
from bench.chaos_sessions.reading import Transcript

if TYPE_CHECKING:
    from bench.chaos_sessions.reading import Event

#: `end` of a turn whose last event came.
DONE = "done"
# Seconds. No pause of the scripted engine's, nor of a machine that is only busy.
_GAP = 1.0
_ID = re.compile(r"\d+-\d+")


class Gap(NamedTuple):
    """A silence. Ids are empty where there was no event, or none with an id."""

    seconds: float
    before: str
    after: str
    ended: float  # time.time()

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s until {self.ended:.2f}, {self.before} to {self.after}"


@dataclass
class Heard:
    """`end` is `DONE`, or says how the stream ended instead; empty while it goes on."""

    kind: str
    uid: str
    session_id: str
    content: str
    transcript: Transcript = field(default_factory=Transcript)
    last_id: str = ""
    events: int = 0
    #: Events whose id had been there, or is below the last one's.
    repeated_ids: list[str] = field(default_factory=list)
    #: The answer as the last event tells it.
    reported: str | None = None
    worker: str = ""
    end: str = ""
    #: Before each event of another worker, and every other silence over `_GAP`.
    gaps: list[Gap] = field(default_factory=list)
    #: After the stream had been cut: the answer that the same key got, or why it got none.
    settled: str | None = None
    unsettled: str = ""
    _ids: set[str] = field(default_factory=set)
    _last_at: float = 0.0
    _fence: str = ""  # of the last event's id: it says which worker had the turn

    def begin(self, worker: str) -> None:
        """The response's head has come."""
        self.worker = worker
        self._last_at = time.monotonic()

    def add(self, event: Event) -> None:
        self._came(event.id)
        if event.id and event.id in self._ids:
            self.repeated_ids.append(event.id)
        self._ids.add(event.id)
        self.transcript.add(event)
        if event.name == "done":
            self.reported = event.data["content"]
            self.end = DONE
        elif event.name == "error":
            self.end = f"error {event.text}"

    def add_text(self, text: str, event_id: str) -> None:
        """A chunk of text; several may have the same id, or none."""
        self._came(event_id if _ID.fullmatch(event_id) else "")
        self.transcript.parts.append((event_id, text))

    def _came(self, event_id: str) -> None:
        now = time.monotonic()
        silence, self._last_at = now - self._last_at, now
        fence = event_id.partition("-")[0] or self._fence
        if silence > _GAP or fence != self._fence != "":
            self.gaps.append(Gap(silence, self.last_id, event_id, time.time()))
        self._fence = fence
        self.events += 1
        if event_id:
            if self.last_id and event_order(event_id) < event_order(self.last_id):
                self.repeated_ids.append(event_id)
            self.last_id = event_id

    def __str__(self) -> str:
        return (
            f"{self.kind} {self.uid} {self.session_id} first at {self.worker}: {self.end!r} behind "
            f"{self.last_id!r} ({self.events} events) {self.unsettled}"
        )
