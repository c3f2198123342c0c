"""Run Autobahn's WebSocket cases against a server; what each of them gave goes to a file, as JSON.

    python -m tests.outside.websocket_cases URL FILE CONCURRENCY few|all|CASE,...

A process of its own, because kosoku changes the interpreter that it runs in (`binascii`, and the
path of modules).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kosoku._kosoku import CaseResult

# Groups 12 and 13 are compression: in each of their 12 parts 18 cases differ in the size of 1,000
# messages only, and take 97 % of the time. The first case of each part has all of the handshakes.
_SLOW = ("12.", "13.")


def is_quick(case: str) -> bool:
    return not case.startswith(_SLOW) or case.endswith(".1")


# What must be the same. Times and the sizes of single reads may differ.
_FIELDS = (
    "closed_by_me",
    "dropped_by_me",
    "failed_by_me",
    "local_close_code",
    "local_close_reason",
    "remote_close_code",
    "remote_close_reason",
    "result",
    "result_close",
    "rx_frame_stats",
    "was_clean",
    "was_close_handshake_timeout",
    "was_not_clean_reason",
    "was_open_handshake_timeout",
    "was_server_connection_drop_timeout",
)


def outcome(result: CaseResult) -> dict[str, Any]:
    received = repr(result.received).encode()
    return {
        "behavior": result.behavior.value,
        "behavior_close": result.behavior_close.value,
        "handshake": _handshake(result.http_response),
        "received": hashlib.sha256(received).hexdigest(),
        **{name: getattr(result, name) for name in _FIELDS},
    }


def _handshake(response: str) -> list[str]:
    """The status line and what the WebSocket protocol says; a proxy adds fields of its own."""
    first, *fields = response.strip().splitlines()
    meant = ("sec-websocket-extensions:", "sec-websocket-protocol:", "upgrade:")
    return [first, *sorted(line for line in fields if line.lower().startswith(meant))]


async def run(url: str, concurrency: int, cases: list[str]) -> dict[str, dict[str, Any]]:
    from kosoku import FailureError, run_fuzzingclient

    try:
        results = await run_fuzzingclient(url, cases, concurrency=concurrency)
    except FailureError as failure:  # it has the results of all cases
        results = failure.results
    return {result.case_id: outcome(result) for result in results}


def main() -> None:
    url, file, concurrency, which = sys.argv[1:]
    from kosoku.cases import CASES

    if which in ("few", "all"):
        cases = [case for case in CASES if which == "all" or is_quick(case)]
    else:
        cases = which.split(",")
    outcomes = asyncio.run(run(url, int(concurrency), cases))
    assert sorted(outcomes) == sorted(cases), "kosoku did not run what it was asked to run"
    Path(file).write_text(json.dumps(outcomes, sort_keys=True))


if __name__ == "__main__":
    main()
