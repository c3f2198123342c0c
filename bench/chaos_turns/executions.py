"""What the backends have executed, by the file that they write."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

BEGUN, DONE, CUT = "begun", "done", "cut"
#: The backend's own 503, and its refusal of an older fence: nothing was executed.
REFUSED, FENCED = "refused", "fenced"
#: A request that needs a fence came without one.
UNFENCED = "unfenced"


@dataclass
class Execution:
    """`ended`: with the last byte, or when the connection was lost; None: it still runs.

    Times are of `time.time()`.
    """

    id: str
    uid: str
    principal: str
    session: str
    fence: int
    is_checked: bool
    begun: float
    ended: float | None = None
    is_whole: bool = False

    def __str__(self) -> str:
        how = "open" if self.ended is None else f"{'done' if self.is_whole else 'cut'}"
        until = f"{self.ended:.3f}" if self.ended else ""
        return f"{self.uid}/{self.id} fence {self.fence} {self.begun:.3f}-{until} {how}"


@dataclass
class Executions:
    by_uid: dict[str, list[Execution]]
    refused: int = 0
    fenced: int = 0
    unfenced: int = 0

    @classmethod
    def read(cls, file: Path, uids: Container[str] | None = None) -> Executions:
        """Of these turns only, or of all; in the order in which they began."""
        found = cls(defaultdict(list))
        known: dict[str, Execution] = {}
        for line in file.read_text().splitlines() if file.exists() else ():
            said = json.loads(line)
            if uids is not None and said["uid"] not in uids:
                continue
            what = said["what"]
            if what == BEGUN:
                names = "uid", "principal", "session", "fence", "is_checked"
                execution = Execution(
                    said["execution"], *(said[name] for name in names), begun=said["at"]
                )
                known[execution.id] = execution
                found.by_uid[execution.uid].append(execution)
            elif what in (DONE, CUT):
                known[said["execution"]].ended = said["at"]
                known[said["execution"]].is_whole = what == DONE
            else:
                found.refused += what == REFUSED
                found.fenced += what == FENCED
                found.unfenced += what == UNFENCED
        return found

    def of(self, uid: str) -> list[Execution]:
        return self.by_uid.get(uid, [])

    def by_session(self) -> dict[tuple[str, str], list[Execution]]:
        """Of sessions only, by principal and session, in the order in which they began."""
        found: dict[tuple[str, str], list[Execution]] = defaultdict(list)
        for executions in self.by_uid.values():
            for each in executions:
                if each.session:
                    found[each.principal, each.session].append(each)
        for executions in found.values():
            executions.sort(key=lambda each: each.begun)
        return found
