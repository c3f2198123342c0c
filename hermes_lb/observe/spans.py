"""OpenTelemetry: spans of requests, exported by OTLP.

A request is a span of kind SERVER, with children for what took time: `queue`, `connect`, and
`stream`, from the head of the response to its end. Its parent is the span in the client's
`traceparent`, and the server gets ours in its place (W3C Trace Context, section 3.4), so a trace
reads client, balancer, worker.

The data path appends a record to a bounded queue. A thread makes spans of them and calls the SDK's
exporter, which may block; what comes while the queue is full is dropped and counted.
"""

from __future__ import annotations

import logging
import re
import threading
from binascii import hexlify
from collections import deque
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from hermes_lb.http.version import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.http import RequestHead
    from hermes_lb.observe.record import LogRecord

logger = logging.getLogger("hermes_lb")

_LINE = re.compile(rb"traceparent:[^\r\n]*\r\n", re.IGNORECASE)
_IDS = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED = 1

# Records that wait, and that are exported at once; seconds between two exports.
_MOST_WAITING = 4096
_BATCH = 512
_EVERY = 1.0
# Seconds for the exporter to deliver a batch, its retries included.
_PATIENCE = 5.0
_NANO = 1_000_000_000


def check_exporter() -> None:
    """Raises ValueError if the SDK or its exporter is not installed."""
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401
    except ImportError:
        raise ValueError(
            "log.otlp needs OpenTelemetry's exporter: pip install 'hermes-lb[otel]'"
        ) from None


class Traced(bytes):
    """A request's trace id, with its span and the one of the client."""

    span: bytes  # 16 hex digits
    parent: bytes  # b"": it has none
    is_sampled: bool
    first_chunk: float | None = None  # of an event stream: seconds from the request


class Ended(NamedTuple):
    """A request that has ended."""

    record: LogRecord
    trace: Traced
    is_stream: bool
    first_byte: float | None  # seconds from the request to the response head


class Spans:
    """Exports spans until `close`. `exporter` is one of the SDK's."""

    def __init__(self, exporter: Any, service: str, rng: Random | None = None) -> None:
        from opentelemetry.sdk.resources import Resource

        self._exporter = exporter
        self._resource = Resource.create({"service.name": service})
        self._rng = rng or Random()
        self._waiting: deque[Ended] = deque()
        self._is_due = threading.Event()
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._has_failed = False
        self.dropped = 0

    @classmethod
    def to(cls, url: str, service: str) -> Spans:
        """By OTLP over HTTP; the SDK's variables, such as those of headers, hold.

        Raises ValueError without the SDK.
        """
        check_exporter()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return cls(OTLPSpanExporter(endpoint=url, timeout=_PATIENCE), service)

    # On the data path.

    def begin(self, head: RequestHead) -> None:
        """Give a request its span, and the server that in its `traceparent`."""
        trace, parent, flags = head.trace_id, b"", b"01"
        line = _LINE.search(head.forwarded)
        if trace and line is not None and (ids := _IDS.search(line[0])) is not None:
            parent, flags = ids[2], ids[3]
        if not trace:
            trace = hexlify(self._rng.randbytes(16))
        traced = Traced(trace)
        traced.span, traced.parent = hexlify(self._rng.randbytes(8)), parent
        traced.is_sampled = bool(int(flags, 16) & _SAMPLED)
        head.trace_id = traced
        head.forwarded = (
            _LINE.sub(b"", head.forwarded)
            + b"traceparent: 00-%b-%b-%b\r\n" % (trace, traced.span, flags)
        )  # fmt: skip

    def end(self, record: LogRecord, is_stream: bool, first_byte: float | None) -> None:
        """The request is over, and is in the sample."""
        trace = record.request.trace_id if record.request is not None else b""
        if not isinstance(trace, Traced) or not trace.is_sampled:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.append(Ended(record, trace, is_stream, first_byte))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Export what waits, and end the thread. Blocks for some seconds at most."""
        self._is_closed = True
        self._is_due.set()
        if self._thread is not None:
            self._thread.join(2 * _PATIENCE)
        self._exporter.shutdown()

    # In the thread.

    def _run(self) -> None:
        while not self._is_closed:
            self._is_due.wait(_EVERY)
            while self._waiting:
                self._export()

    def _export(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        try:
            result = self._exporter.export([span for one in batch for span in self._of(one)])
            failed = result.name != "SUCCESS"
        except Exception as error:  # of any kind: spans must not end the thread
            logger.debug("spans: %r", error)
            failed = True
        if failed != self._has_failed:
            self._has_failed = failed
            logger.warning("spans can%s be exported", "not" if failed else " now")
        if failed:
            self.dropped += len(batch)

    def _of(self, ended: Ended) -> Iterator[Any]:
        from opentelemetry.trace import SpanKind

        record, trace = ended.record, ended.trace
        began, finished = record.began, record.began + record.total
        request = record.request
        assert request is not None, "it has a trace"
        method = request.method.decode("latin-1")
        attributes: dict[str, Any] = {
            "http.request.method": method,
            "url.path": request.target.partition(b"?")[0].decode("latin-1"),
            "network.protocol.version": NAMES[request.version],
            "client.address": record.client,
            "hermes_lb.frontend": record.frontend,
            "hermes_lb.backend": record.backend,
            "hermes_lb.server": record.server,
            "hermes_lb.termination": record.termination,
            "http.request.resend_count": record.attempts.retries,
            "http.response.body.size": record.bytes_sent,
        }
        if record.status:
            attributes["http.response.status_code"] = record.status
        if trace.first_chunk is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = trace.first_chunk
        is_error = record.status >= 500 or record.termination[0] in "SsRI"
        if is_error:
            attributes["error.type"] = record.reason or str(record.status)
        span = int(trace.span, 16)
        parent = int(trace.parent, 16) if trace.parent else None
        yield self._span(
            method, trace, span, parent, began, finished, attributes,
            kind=SpanKind.SERVER, is_error=is_error,
        )  # fmt: skip
        yield from self._phases(ended, trace, span, finished)

    def _phases(self, ended: Ended, trace: Traced, parent: int, finished: float) -> Iterator[Any]:
        record = ended.record
        head, queue, connect = record.to_server
        at = record.began + (head or 0.0)
        for name, took in (("queue", queue), ("connect", connect)):
            if took:
                yield self._child(name, trace, parent, at, at + took, record)
                at += took
        if ended.is_stream and ended.first_byte is not None:
            first = record.began + ended.first_byte
            yield self._child("stream", trace, parent, first, finished, record)

    def _child(
        self, name: str, trace: Traced, parent: int, began: float, ended: float, record: LogRecord
    ) -> Any:
        span = self._rng.getrandbits(64) or 1
        attributes = {"hermes_lb.server": record.server}
        return self._span(name, trace, span, parent, began, ended, attributes)

    def _span(
        self,
        name: str,
        trace: Traced,
        span: int,
        parent: int | None,
        began: float,
        ended: float,
        attributes: dict[str, Any],
        *,
        kind: Any = None,
        is_error: bool = False,
    ) -> Any:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def context(number: int, *, is_remote: bool) -> SpanContext:
            return SpanContext(int(trace, 16), number, is_remote, TraceFlags(_SAMPLED))

        return ReadableSpan(
            name,
            context(span, is_remote=False),
            None if parent is None else context(parent, is_remote=kind is not None),
            self._resource,
            attributes,
            kind=kind or SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR if is_error else StatusCode.UNSET),
            start_time=int(began * _NANO),
            end_time=int(max(began, ended) * _NANO),
        )
