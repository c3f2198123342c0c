"""What h2load prints, as the benchmark reads it."""

from __future__ import annotations

import pytest

from bench.live.errors import BenchError
from bench.live.loads.h2load import Outcome, outcome

# Of nghttp2 1.52.
SAID = """
finished in 2.00s, 41213.50 req/s, 2.97MB/s
requests: 82427 total, 82627 started, 82427 done, 82420 succeeded, 4 failed, 3 errored, 1 timeout
status codes: 82411 2xx, 0 3xx, 0 4xx, 16 5xx
traffic: 5.95MB (6236134) total, 1.41MB (1483830) headers (space savings 90.00%)
"""


def test_answers_and_all_else() -> None:
    assert outcome(SAID) == Outcome(per_second=41_213.5, requests=82_411, failed=17)


def test_a_run_that_has_failed() -> None:
    with pytest.raises(BenchError, match="h2load: no connection"):
        outcome("no connection")
