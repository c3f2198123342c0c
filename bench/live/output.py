"""A run's lasting record: JSON and, where matplotlib is installed, a picture of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench.live.report import doubts
from bench.live.requirements import judge

if TYPE_CHECKING:
    from pathlib import Path

    from bench.live.results import Results


def write_json(
    path: Path, results: Results, *, machine: dict[str, Any], run: dict[str, Any]
) -> None:
    """Write everything measured to `path`. Units are in the metrics' names (_us, _kb, _ms)."""
    verdicts = [
        {
            **asdict(verdict.requirement),
            "value": verdict.value,
            "is_met": verdict.is_met,
            "is_aim_met": verdict.is_aim_met,
            "doubt": verdict.doubt,
        }
        for verdict in judge(results)
    ]
    record = {
        "machine": machine,
        "run": run,
        "cases": results.to_json(),
        "requirements": verdicts,
        "problems": doubts(results),
    }
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
