"""What a route or a backend may have of its own: a route before its backend, before all."""

from __future__ import annotations

from pydantic import Field

from hermes_lb.config.process import BODY_SIZE, RETRY_BUFFER
from hermes_lb.options.section import Section
from hermes_lb.options.units import PositiveDuration, Size


class OwnTimeouts(Section):
    """Of `[timeouts]`, those that begin once the route of a request is known."""

    connect: PositiveDuration | None = None
    client: PositiveDuration | None = None
    server: PositiveDuration | None = None
    tunnel: PositiveDuration | None = None
    queue: PositiveDuration | None = None


class OwnLimits(Section):
    """Of `[limits]`, those that need no more than a request's head."""

    body_size: Size | None = BODY_SIZE.by_default(None)
    retry_buffer: Size | None = RETRY_BUFFER.by_default(None)
    request_rate: float | None = Field(None, ge=0.0, le=1_000_000.0)
    request_burst: int | None = Field(None, ge=1, le=1_000_000)


class OwnLog(Section):
    """Of `[log]`: which normal requests have a line."""

    sample: float | None = Field(None, ge=0.0, le=1.0)
    slow: PositiveDuration | None = None
