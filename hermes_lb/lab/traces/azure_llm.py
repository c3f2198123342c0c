"""Azure's traces of LLM inference: `TIMESTAMP,ContextTokens,GeneratedTokens` (CC-BY 4.0).

Azure/AzurePublicDataset, AzureLLMInferenceTrace_code and _conv, 2023 (Patel et al., "Splitwise",
ISCA 2024). Nothing tells which requests belong together, so each one is a session, and no prefix
is shared.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final

from hermes_lb.lab.recording import START, Call, Recording, Session
from hermes_lb.lab.traces.columns import number, rows

if TYPE_CHECKING:
    from collections.abc import Iterable

_COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(\.\d+)?(?:\+00:00|Z)?", re.ASCII)


def is_first(line: str) -> bool:
    return [name.strip() for name in line.split(",")] == list(_COLUMNS)


def read(lines: Iterable[str]) -> Recording:
    found = [
        (_seconds(time, line), int(number(total, line)), max(1, int(number(output, line))))
        for line, (time, total, output) in rows(lines, _COLUMNS)
    ]
    found.sort()
    sessions = [
        Session(str(i), at - found[0][0], [Call(START, 0.0, input=total, output=output)])
        for i, (at, total, output) in enumerate(found)
    ]
    recording = Recording(sessions, "")
    recording.text = (
        f"{recording.requests:,} requests of Azure's trace of LLM inference, each a session of its "
        "own."
    )
    return recording


def _seconds(text: str, line: int) -> float:
    """Of a day and a time with up to seven digits after the point."""
    found = _TIME.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        return datetime.fromisoformat(f"{found[1]}+00:00").timestamp() + float(found[2] or 0.0)
    except ValueError:
        raise ValueError(f"line {line}: {text[:40]!r} is not a time") from None
