"""What must hold of each turn; counted over all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.chaos_streams.heard import DONE
from bench.chaos_streams.question import answer_to, difference, results_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.chaos_streams.heard import Heard

LOST = "bytes lost"
REPEATED = "bytes repeated"
ABORTED = "streams aborted"
ONCE_TWICE = "once twice"
UNANSWERED = "turns without their answer"
UNTRUE = "answers that differ from the history or the mails"


@dataclass
class Found:
    count: int = 0
    reported: list[str] = field(default_factory=list)


class Verdict:
    """`found` has each promise, by its name, with how often it was broken."""

    def __init__(self) -> None:
        promises = (LOST, REPEATED, ABORTED, ONCE_TWICE, UNANSWERED, UNTRUE)
        self.found = {promise: Found() for promise in promises}
        self.mails = self.unknown = 0

    def judge(self, turn: Heard, history: Sequence[Mapping[str, Any]] | None, sent: int) -> None:
        """`history`: the session's messages; None: they could not be read. `sent`: its mails."""
        self.mails += sent
        self._count(ONCE_TWICE, max(0, sent - 1), turn)
        self._count(ABORTED, int(turn.end != DONE), turn)
        self._count(REPEATED, len(turn.repeated_ids), turn, f"ids {turn.repeated_ids[:3]}")
        results = results_in(history or ())
        if history is None or len(results) < 2 or history[-1]["role"] != "assistant":
            self._count(UNANSWERED, 1, turn, f"its session: {history}")
            return
        wanted = answer_to(turn.content, results)
        pieces = [text for _, text in turn.transcript.parts]
        found = difference(pieces, wanted, is_whole=turn.end == DONE)
        what = f"got {''.join(pieces)!r} of {wanted!r}"
        self._count(LOST, found.lost, turn, what)
        self._count(REPEATED, found.repeated, turn, what)
        kept = "".join(each["content"] for each in history if each["role"] == "assistant")
        reported = {answer for answer in (turn.reported, turn.settled) if answer is not None}
        self._count(
            UNTRUE, len({kept, *reported} - {wanted}), turn, f"{kept=} {reported=} {wanted=}"
        )
        self._judge_mail(turn, results["send_mail"], sent)

    def _judge_mail(self, turn: Heard, result: str, sent: int) -> None:
        if result.startswith("unknown: "):
            self.unknown += 1
            return
        is_true = bool(sent) == result.startswith("sent to")
        self._count(UNTRUE, int(not is_true), turn, f"{result!r}, and {sent} sent")

    def _count(self, promise: str, count: int, turn: Heard, what: str = "") -> None:
        if count:
            self.found[promise].count += count
            self.found[promise].reported.append(f"{turn} {what}".strip())
