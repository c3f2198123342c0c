"""A set of transitions, with the tests in which each was seen."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class State(NamedTuple):
    """`phase`: HAProxy's letter and a name, or a name alone for a connection without an exchange.

    `deadline`: "none", "-" (there is nothing to wait for), or "absolute" or "idle" and the timeout
    that set it. Traffic moves an idle one.
    """

    phase: str
    deadline: str

    def __str__(self) -> str:
        return f"{self.phase} [{self.deadline}]"


class Transition(NamedTuple):
    """`end`: the termination of the exchange that it ended; empty for none."""

    before: State
    event: str
    after: State
    end: str

    def __str__(self) -> str:
        end = f"  ends {self.end}" if self.end else ""
        return f"{self.before}  {self.event}  ->  {self.after}{end}"

    def simplified(self, *, letters: bool, timeouts: bool) -> Transition:
        """`letters`: only the letter of a phase. `timeouts`: not whether it is absolute or idle."""

        def simple(state: State) -> State:
            phase, deadline = state
            if letters and phase[1:2] == " ":
                phase = phase[0]
            return State(phase, deadline.split(" ")[-1] if timeouts else deadline)

        return self._replace(before=simple(self.before), after=simple(self.after))


@dataclass
class Seen:
    """`runs`: how many runs have it. `count`: how often in all, which depends on the time."""

    runs: int = 0
    count: int = 0
    tests: set[str] = field(default_factory=set)


class Recording:
    """Of one run of tests, or of several."""

    def __init__(self) -> None:
        self.runs = 1
        self.tests: set[str] = set()  # that were run
        self.transitions: dict[Transition, Seen] = defaultdict(Seen)

    def add(self, transition: Transition, test: str) -> None:
        seen = self.transitions[transition]
        seen.runs = 1
        seen.count += 1
        seen.tests.add(test)

    def merge(self, other: Recording, *, same_run: bool) -> None:
        """Add another one: of a part of the same run, or of another run."""
        self.runs = max(self.runs, other.runs) if same_run else self.runs + other.runs
        self.tests |= other.tests
        for transition, theirs in other.transitions.items():
            ours = self.transitions[transition]
            ours.runs = max(ours.runs, theirs.runs) if same_run else ours.runs + theirs.runs
            ours.count += theirs.count
            ours.tests |= theirs.tests

    def simplified(self, *, letters: bool, timeouts: bool) -> Recording:
        result = Recording()
        result.runs, result.tests = self.runs, self.tests
        for transition, seen in self.transitions.items():
            ours = result.transitions[transition.simplified(letters=letters, timeouts=timeouts)]
            ours.runs = max(ours.runs, seen.runs)
            ours.count += seen.count
            ours.tests |= seen.tests
        return result

    # Files.

    def dumps(self) -> str:
        tests = sorted(self.tests.union(*(seen.tests for seen in self.transitions.values())))
        numbers = {test: number for number, test in enumerate(tests)}
        rows = [
            json.dumps([*row, seen.runs, seen.count, sorted(numbers[test] for test in seen.tests)])
            for row, seen in sorted(self.transitions.items())
        ]
        names = [json.dumps(test) for test in tests]
        ran = sorted(numbers[test] for test in self.tests)
        parts = f'"runs": {self.runs},\n"ran": {ran},\n"tests": ' + _lines(names)
        return "{" + parts + ',\n"transitions": ' + _lines(rows) + "}\n"

    @classmethod
    def loads(cls, text: str) -> Recording:
        read: dict[str, Any] = json.loads(text)
        result = cls()
        result.runs = read["runs"]
        names = read["tests"]
        result.tests = {names[number] for number in read["ran"]}
        for before, event, after, end, runs, count, tests in read["transitions"]:
            transition = Transition(State(*before), event, State(*after), end)
            seen = Seen(runs, count, {names[number] for number in tests})
            result.transitions[transition] = seen
        return result

    @classmethod
    def load(cls, path: Path) -> Recording:
        return cls.loads(path.read_text())


def _lines(items: Iterable[str]) -> str:
    return "[\n" + ",\n".join(items) + "\n]"


class Difference(NamedTuple):
    """`new` and `missing`: transitions, each with a test that has, or should have, seen it.

    `unstable`: missing ones that not all runs of the old recording have.
    """

    new: dict[Transition, str]
    missing: dict[Transition, str]
    unstable: dict[Transition, str]


def compare(old: Recording, new: Recording) -> Difference:
    """Only tests that both have run count: a part of the suite can be compared with all of it."""
    both = old.tests & new.tests
    difference = Difference({}, {}, {})
    for transition, seen in sorted(new.transitions.items()):
        if transition not in old.transitions and (tests := seen.tests & both):
            difference.new[transition] = min(tests)
    for transition, seen in sorted(old.transitions.items()):
        if transition not in new.transitions and (tests := seen.tests & both):
            is_stable = seen.runs == old.runs
            (difference.missing if is_stable else difference.unstable)[transition] = min(tests)
    return difference


def compare_tests(old: Recording, new: Recording) -> list[str]:
    """Lines: for each test that both have run, the transitions that only one of them has."""
    both = old.tests & new.tests
    lines = []
    for sign, ours, others in (("-", old, new), ("+", new, old)):
        for transition, seen in ours.transitions.items():
            theirs = (
                others.transitions[transition].tests if transition in others.transitions else ()
            )
            lines += [(test, sign, str(transition)) for test in (seen.tests - set(theirs)) & both]
    return [f"{sign} {test}: {transition}" for test, sign, transition in sorted(lines)]
