"""The configured timeouts, limits and parsers: a reload replaces all of them, as one object."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hermes_lb.http import RequestParser, ResponseParser
from hermes_lb.proxy import phases
from hermes_lb.proxy.timeouts import PlainTimeouts

if TYPE_CHECKING:
    from hermes_lb import config


class Settings:
    """Sizes are bytes. `phase_limits`: the timeouts, by phase."""

    __slots__ = (
        "most_for_retry",
        "most_fields",
        "most_in_body",
        "most_in_head",
        "phase_limits",
        "request_parser",
        "response_parser",
        "timeouts",
    )

    def __init__(self, configured: config.Config) -> None:
        limits = configured.limits
        self.timeouts = PlainTimeouts(**configured.timeouts.model_dump())
        self.phase_limits = phases.limits(self.timeouts)
        self.most_in_head = limits.head_size
        self.most_fields = limits.header_count
        self.most_for_retry = limits.retry_buffer
        self.most_in_body = limits.body_size or sys.maxsize
        kept = frozenset[bytes]().union(
            *(backend.header_keys for backend in configured.backends.values()),
            *(frontend.header_keys for frontend in configured.frontends),
        )
        self.request_parser = RequestParser(limits, kept)
        self.response_parser = ResponseParser(limits.header_count, kept)
