"""The timeouts of the data path, in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class PlainTimeouts:
    """`config.Timeouts` for the data path: a slot is read faster than a model."""

    request_head: float
    connect: float
    client: float
    server: float
    tunnel: float
    keep_alive: float
    queue: float
