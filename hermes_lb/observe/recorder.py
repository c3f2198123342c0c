"""How requests are logged, as `[log]` has it: one of the formats, and which requests."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.observe import combined, httplog, json_log
from hermes_lb.observe.sampling import sampler_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb import config
    from hermes_lb.observe.record import LogRecord
    from hermes_lb.observe.spans import Spans


class Format(NamedTuple):
    """A format of the access log."""

    line: Callable[[LogRecord], str]  # without its end
    captures: bool = False  # it shows what `observe.escaping.capture` finds


FORMATS = {
    "httplog": Format(httplog.line),
    "combined": Format(combined.line, captures=True),
    "json": Format(json_log.line, captures=True),
}


class Recorder:
    """Chosen once, when the configuration is loaded.

    - `line`: the format.
    - `captures`: the format shows fields of the head that nothing else needs.
    - `sampler`: None if every request has a line.
    - `makes_traces`: a request that comes without a trace gets one.
    - `spans`: exports spans of requests; None: there are none.
    """

    __slots__ = ("captures", "line", "makes_traces", "sampler", "spans")

    def __init__(self, configured: config.Log) -> None:
        self.line, captures = FORMATS[configured.format]
        if configured.format == "httplog" and configured.capture_trace:
            self.line = partial(httplog.line, shows_trace=True)
        self.captures = captures and configured.access != "off"
        self.makes_traces = configured.traceparent == "make"
        self.spans: Spans | None = None
        if configured.otlp is not None:
            from hermes_lb.observe.spans import Spans  # the SDK takes 0.2 s

            self.spans = Spans.to(configured.otlp, configured.tag)
        self.sampler = sampler_of(configured.sample, configured.slow)
