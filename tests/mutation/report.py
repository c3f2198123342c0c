"""The result of each mutant, and its report."""

from __future__ import annotations

import re
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.mutation.copies import Ended
    from tests.mutation.table import Mutant


class Verdict(StrEnum):
    """All but the first are failures of the run."""

    KILLED = "killed"
    SURVIVED = "SURVIVED"  # its tests passed, or were skipped
    TIMED_OUT = "TIMED OUT"  # neither: a test must fail by what it asserts
    STALE = "STALE"  # the text that it replaces is not there any more
    BROKEN = "BROKEN"  # pytest could not run its tests: one was renamed, or the mutant is no code


class Result(NamedTuple):
    mutant: Mutant
    verdict: Verdict
    detail: str
    seconds: float

    def __str__(self) -> str:
        line = f"{self.verdict:9}  {self.seconds:5.1f} s  {self.mutant.name}"
        return f"{line}\n           {self.detail}" if self.detail else line


def verdict_of(ended: Ended) -> tuple[Verdict, str]:
    """What a run of pytest says of a mutant: the verdict, and a line of detail for a person."""
    if ended.code is None:
        return Verdict.TIMED_OUT, ""
    if ended.code == 0:
        return Verdict.SURVIVED, _last_line(ended.output)
    if ended.code == 1:
        return Verdict.KILLED, ""
    return Verdict.BROKEN, f"pytest ended with {ended.code}: {_last_line(ended.output)}"


def failed_tests(output: str) -> list[str]:
    """The node ids of the tests that failed, by pytest's short summary."""
    _, _, summary = output.rpartition(" short test summary info ")
    found = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", summary, re.MULTILINE)
    return list(dict.fromkeys(found))


def _last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].strip("= ") if lines else ""


def summary(results: Iterable[Result]) -> str:
    """Such as `57 killed, 1 SURVIVED`."""
    counts = Counter(result.verdict for result in results)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
