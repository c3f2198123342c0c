"""The long run: rounds of generated cases until the time is over, and what is found is shrunk.

A round is one run of hypothesis, by a seed of its own, on a fresh balancer. Of one kind of
disagreement the shrunk case of its first round is kept; later ones are only counted.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Flaky

from tests.differential import corpus, stream_corpus
from tests.differential.arena import Arena
from tests.differential.corpus import Case
from tests.differential.play import play
from tests.differential.request_grammar import RequestCase, request_cases
from tests.differential.response_grammar import response_cases
from tests.differential.stream_corpus import StreamFile
from tests.differential.stream_grammar import StreamCase, stream_cases
from tests.differential.verdict import Disagreement

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis import strategies as st

    from tests.differential.response_grammar import ResponseCase

    AnyCase = RequestCase | ResponseCase | StreamCase

EXAMPLES = 1000  # a round: some seconds
_SIDES: dict[str, st.SearchStrategy[Any]] = {
    "requests": request_cases(),
    "responses": response_cases(),
    "streams": stream_cases(),
}


@dataclass
class Found:
    """A kind of disagreement, the smallest case of it, and how often it came."""

    kind: str
    problem: str
    case: AnyCase
    side: str
    seed: int
    count: int = 1

    def as_file(self) -> tuple[str, str]:
        """A file of the corpus: its name and its text."""
        case, wire = self.case, b"".join(self.case.pieces)
        what = f"{self.kind} (seed {self.seed}, in {len(case.pieces)} pieces)"
        name = f"found-{self.side}-{hashlib.sha256(wire).hexdigest()[:8]}"
        if isinstance(case, StreamCase):
            found = StreamFile(name, what, case.fields, case.body, case.trailers)
            return f"{name}.h2", stream_corpus.write(found)
        if isinstance(case, RequestCase):
            plain = Case(name, what, wire, early=case.early, refuses=case.refuses)
        else:
            plain = Case(name, what, wire, request=case.request, ending=case.ending)
        return f"{name}.http", corpus.write(plain)


@dataclass
class Tally:
    """What the rounds have seen. `examples` and `outcomes` do not count what shrinking tried."""

    examples: Counter[str] = field(default_factory=Counter)  # by side
    outcomes: Counter[str] = field(default_factory=Counter)  # "requests 400", "responses passed"
    strict: Counter[str] = field(default_factory=Counter)  # refused, though all referees agree
    found: dict[str, Found] = field(default_factory=dict)  # by kind


class _TimeIsOver(BaseException):
    """No failure of an example: hypothesis lets it through, as it does with KeyboardInterrupt."""


class Fuzz:
    """Rounds of all sides in turn."""

    def __init__(
        self, seed: int, report: Callable[[Tally], None], announce: Callable[[Found], None]
    ) -> None:
        """`report` is called after each example, `announce` for each new kind of disagreement."""
        self.tally = Tally()
        self._seed = seed
        self._report = report
        self._announce = announce
        self._ends_at = 0.0

    def run(self, seconds: float) -> Tally:
        """Rounds for `seconds`; only shrinking may take longer."""
        self._ends_at = time.monotonic() + seconds
        for number, side in enumerate(cycle(_SIDES)):
            if self._is_over():
                return self.tally
            self._round(side, self._seed + number)
        raise AssertionError("a cycle has no end")

    def _is_over(self) -> bool:
        return time.monotonic() >= self._ends_at

    def _round(self, side: str, seed: int) -> None:
        first: Found | None = None  # of a kind that is not known yet

        @hypothesis.seed(seed)
        @settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
        )
        @given(_SIDES[side])
        def examples(case: AnyCase) -> None:
            nonlocal first
            if first is None and self._is_over():
                raise _TimeIsOver
            try:
                verdict = play(arena, case)
            except Disagreement as problem:
                if first is None:
                    if known := self.tally.found.get(problem.kind):
                        known.count += 1
                        return
                    first = Found(problem.kind, "", case, side, seed)
                    self.tally.found[problem.kind] = first
                elif problem.kind != first.kind:
                    return  # shrunk to something else, which is not what is being looked at
                first.problem, first.case = str(problem), case
                raise
            if first is None:  # else hypothesis shrinks
                self.tally.examples[side] += 1
                self.tally.outcomes[f"{side} {verdict.refusal[:3] or 'passed'}"] += 1
                if verdict.strict:
                    self.tally.strict[verdict.strict] += 1
                self._report(self.tally)

        with Arena() as arena:
            try:
                examples()
            except (Disagreement, Flaky):
                assert first is not None
                self._announce(first)
            except _TimeIsOver:
                pass
