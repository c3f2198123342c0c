"""Generated cases, always the same ones; `python -m tests.differential` looks for new ones."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.differential.play import play
from tests.differential.request_grammar import request_cases
from tests.differential.response_grammar import response_cases
from tests.support.examples import examples

if TYPE_CHECKING:
    from hypothesis import strategies as st

    from tests.differential.arena import Arena

EXAMPLES = examples(1500).max_examples

pytestmark = [
    pytest.mark.hypothesis,
    pytest.mark.timeout(300),
]  # some seconds on an idle processor


def _outcomes(arena: Arena, cases: st.SearchStrategy[Any]) -> Counter[str]:
    """Play them -> how often each kind of refusal came, "" for none."""
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(cases)
    def play_one(case: Any) -> None:
        outcomes[play(arena, case).refusal[:3]] += 1

    play_one()
    return outcomes


def test_every_reader_finds_the_same_requests_behind_us(arena: Arena) -> None:
    outcomes = _outcomes(arena, request_cases())
    assert outcomes[""] > EXAMPLES / 4, outcomes  # or it has shown nothing
    assert outcomes["400"] > EXAMPLES / 10, outcomes


def test_every_reader_finds_the_same_response_before_us(arena: Arena) -> None:
    outcomes = _outcomes(arena, response_cases())
    assert outcomes[""] > EXAMPLES / 4, outcomes
    assert outcomes["502"] > EXAMPLES / 10, outcomes
    assert outcomes["cut"] > EXAMPLES / 50, outcomes
