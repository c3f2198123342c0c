"""Faults of an API server, each switched on by a test."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Faults:
    expire_versions: int = 0  # this number of watches gets 410
    expire_in_stream: bool = False  # as an ERROR event, not as a status
    too_many: int = 0  # this number of requests gets 429
    retry_after: str = "1"
    errors: int = 0  # this number of requests gets 500
    slow_list: float = 0.0  # seconds before each page
    drop_watches: int = 0  # this number of watches is cut after their first event
    date: str | None = None  # of refusals
    list_body: bytes | None = None  # instead of a page
    watch_body: bytes | None = None  # instead of events; repeated `watch_times`
    watch_times: int = 1
    refused: list[int] = field(default_factory=list)  # statuses that were sent
