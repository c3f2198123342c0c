"""What a head means does not depend on those before it; `recurring` has the long run."""

from __future__ import annotations

import pytest

from tests.differential.recurring import compare
from tests.support.examples import examples

HEADS = max(10_000, examples(40_000).max_examples)  # fewer recur too rarely


@pytest.mark.pure_only("hits are counted by a replaced method")
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("of_requests", [True, False], ids=["requests", "responses"])
def test_memory_changes_no_meaning(seed: int, of_requests: bool) -> None:
    tally = compare(seed, HEADS, of_requests=of_requests)
    assert tally.found == []
    # Or it has shown nothing.
    assert tally.known > tally.heads / 20
    assert tally.varied > tally.heads / 100
    assert tally.heads / 4 < tally.accepted < tally.heads
