"""One case, from the strategies or from the corpus, played on an arena and judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.differential.request_grammar import RequestCase
from tests.differential.request_judge import judge_requests
from tests.differential.response_judge import judge_response
from tests.differential.stream_grammar import NEXT_WIRE, StreamCase
from tests.differential.stream_judge import judge_stream, malformed, translation

if TYPE_CHECKING:
    from tests.differential.arena import Arena
    from tests.differential.response_grammar import ResponseCase
    from tests.differential.verdict import Verdict


def play(arena: Arena, case: RequestCase | ResponseCase | StreamCase) -> Verdict:
    """Raises Disagreement."""
    if isinstance(case, RequestCase):
        return judge_requests(arena.requests(case.pieces, early=case.early, refuses=case.refuses))
    if isinstance(case, StreamCase):
        outcome = arena.requests(case.pieces, behind=NEXT_WIRE)
        twin = None if malformed(case) else arena.requests([translation(case)])
        return judge_stream(case, outcome, twin)
    return judge_response(arena.response(case.request, case.pieces, case.ending))
