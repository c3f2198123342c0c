"""The configured timeouts, limits and parsers: a reload replaces all of them, as one object."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from hermes_lb.http import RequestParser, ResponseParser
from hermes_lb.proxy import phases
from hermes_lb.proxy.local_replies import error_pages
from hermes_lb.proxy.timeouts import PlainTimeouts

if TYPE_CHECKING:
    from hermes_lb import config


@mypyc_attr(allow_interpreted_subclasses=True)
class BodyLimits:
    """Bytes of a request's body: the most there may be, and the most that is kept for a retry."""

    __slots__ = ("most_for_retry", "most_in_body")

    most_for_retry: int
    most_in_body: int


class Settings(BodyLimits):
    """Sizes are bytes. `phase_limits`: the timeouts, by phase.

    `configured`: what it was made of. `shortest`: of all timeouts, also of routes and backends.
    """

    __slots__ = (
        "configured",
        "error_pages",
        "most_fields",
        "most_in_head",
        "phase_limits",
        "request_parser",
        "response_parser",
        "shortest",
        "timeouts",
    )

    def __init__(self, configured: config.Config) -> None:
        self.configured = configured
        limits = configured.limits
        self.timeouts = PlainTimeouts(**configured.timeouts.model_dump())
        self.phase_limits = phases.limits(self.timeouts)
        self.shortest = _shortest(configured)
        self.error_pages = error_pages(configured.error_pages)
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


def _shortest(configured: config.Config) -> float:
    routes = (route for frontend in configured.frontends for route in frontend.routes)
    own = [route.timeouts for route in routes]
    own += [backend.timeouts for backend in configured.backends.values()]
    values = [value for one in (configured.timeouts, *own) for _, value in one or ()]
    shortest: float = min(value for value in values if value is not None)
    return shortest
