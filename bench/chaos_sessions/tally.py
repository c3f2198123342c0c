"""Counts of the checks, and the violations found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The invariants of docs/sessions.md by number, and more that follow from the same promises.
INVARIANTS = {
    "1": "at most one fence writes",
    "2": "the version grows by 1 with each write",
    "3": "the history is a serial concatenation of turns",
    "4": "an accepted message is there once, none is twice",
    "5": "a once call runs at most once",
    "6": "event ids strictly increase; none lost, none repeated",
    "7": "all keys of a session expire together",
    "8": "nothing succeeds for another principal",
    "answers": "deltas, tools' results, answer and history say the same",
    "resumed": "a resumed stream is the one that nothing broke",
    "turns": "a turn that its client resumes ends with its answer",
    "deleted": "a deleted session stays deleted",
    "live": "each request with a key is settled in the end",
    "logs": "no worker logs an unexpected error",
}
_MOST_REPORTED = 6000  # characters of a violation


@dataclass(frozen=True)
class Violation:
    invariant: str
    #: Whose dump shows it; empty: of no session in particular.
    session_id: str
    what: str


@dataclass
class Tally:
    tested: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    #: Whatever else is counted: kills, turns, lost writes that a failover explains.
    figures: Counter[str] = field(default_factory=Counter)
    #: By their names in `check`, what each says.
    invariants: Mapping[str, str] = field(default_factory=lambda: INVARIANTS)

    def check(self, invariant: str, holds: bool, what: str, session_id: str = "") -> None:
        """One test of an invariant; `what` says what was seen if it does not hold."""
        assert invariant in self.invariants
        self.tested[invariant] += 1
        if not holds:
            self.violations.append(Violation(invariant, session_id, what[:_MOST_REPORTED]))

    def broken(self, invariant: str) -> int:
        return sum(each.invariant == invariant for each in self.violations)
