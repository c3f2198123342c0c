"""One case, from the strategies or from the corpus, played on an arena and judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.differential.request_grammar import RequestCase
from tests.differential.request_judge import judge_requests
from tests.differential.response_judge import judge_response

if TYPE_CHECKING:
    from tests.differential.arena import Arena
    from tests.differential.response_grammar import ResponseCase
    from tests.differential.verdict import Verdict


def play(arena: Arena, case: RequestCase | ResponseCase) -> Verdict:
    """Raises Disagreement."""
    if isinstance(case, RequestCase):
        return judge_requests(arena.requests(case.pieces, early=case.early, refuses=case.refuses))
    return judge_response(arena.response(case.request, case.pieces, case.ending))
