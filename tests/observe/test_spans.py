"""Spans of requests: by the SDK's exporter in memory, and by OTLP to a receiver."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from hermes_lb import LoadBalancer
from hermes_lb.observe import spans
from hermes_lb.observe.spans import Spans, Traced
from tests.observe.records import a_head, a_record
from tests.support.needs import needs_package
from tests.support.stage import configuration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.stage import Stage

otel = needs_package("opentelemetry", "sdk.trace.export.in_memory_span_exporter", "proto")

pytestmark = pytest.mark.http1_only("its balancer is not one of the stage's")

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "_EVERY", 0.01)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The SDK's exporter that keeps spans, in place of the one by OTLP."""
    exporter = otel.sdk.trace.export.in_memory_span_exporter.InMemorySpanExporter()
    monkeypatch.setattr(Spans, "to", classmethod(lambda cls, url, service: cls(exporter, service)))
    return exporter


async def serve(stage: Stage, *fields: str, stream: bool = False, **log: Any) -> Any:
    """One request through a balancer, which then ends -> the request at the server.

    What waits is exported at the end.
    """
    origin = await stage.origin()
    log = {"access": "off", "otlp": "http://127.0.0.1:1/v1/traces", **log}
    async with LoadBalancer(configuration((origin,), log=log, admin={"enabled": False})) as lb:
        client = await stage.client(lb)
        lines = "".join(f"{field}\r\n" for field in fields)
        await client.send(f"GET /chat?key=secret HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
        at_origin = await origin.accept()
        request = await at_origin.read_request()
        if stream:
            await at_origin.send(HEAD + b"data: 1\n\n")
            await client.read_until(b"data: 1\n\n")
            at_origin.close()
            await client.read_until(b"0\r\n\r\n")
        else:
            await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await client.read_until(b"ok")
    return request


async def test_a_request_is_a_span_between_the_clients_and_the_servers(
    kept: Any, stage: Stage
) -> None:
    request = await serve(stage, f"traceparent: 00-{TRACE}-{PARENT}-01", "tracestate: v=1")
    span = next(one for one in kept.get_finished_spans() if one.name == "GET")
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert request.get("traceparent") == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert request.get("tracestate") == "v=1"
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["hermes_lb.server"] == "agent1"
    assert span.attributes["url.path"] == "/chat"
    assert "secret" not in repr(span.attributes)
    assert span.start_time <= span.end_time


async def test_a_stream_has_a_span_and_the_time_to_its_first_chunk(kept: Any, stage: Stage) -> None:
    await serve(stage, stream=True)
    by_name = {one.name: one for one in kept.get_finished_spans()}
    whole, stream = by_name["GET"], by_name["stream"]
    assert whole.parent is None
    assert stream.parent.span_id == whole.context.span_id
    assert whole.attributes["gen_ai.response.time_to_first_chunk"] >= 0.0
    assert whole.start_time <= stream.start_time <= stream.end_time <= whole.end_time


@pytest.mark.parametrize(
    ("fields", "log"),
    [([f"traceparent: 00-{TRACE}-{PARENT}-00"], {}), ([], {"sample": 0.0})],
    ids=["not sampled by the client", "not in the sample of the log"],
)
async def test_what_is_not_sampled_has_no_span(
    fields: list[str], log: dict[str, Any], kept: Any, stage: Stage
) -> None:
    request = await serve(stage, *fields, **log)
    assert request.get("traceparent")
    assert kept.get_finished_spans() == ()


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ValueError, match=r"pip install 'hermes-lb\[otel\]'"):
        Spans.to("http://127.0.0.1:1/v1/traces", "lb")


def ended(exporter: Any, **record: Any) -> Spans:
    made = Spans(exporter, "lb")
    head = a_head(b"POST", b"/chat")
    head.trace_id = traced = Traced(TRACE.encode())
    traced.span, traced.parent, traced.is_sampled = b"1" * 16, b"", True
    made.end(a_record(request=head, **record), False, None)
    return made


def test_the_queue_and_the_dial_are_spans(kept: Any) -> None:
    from hermes_lb.observe.record import ToServer

    ended(kept, to_server=ToServer(0.1, 0.5, 0.25), total=2.0, began=100.0).close()
    spans_of = {one.name: one for one in kept.get_finished_spans()}
    times = {n: (s.start_time / 1e9, s.end_time / 1e9) for n, s in spans_of.items()}
    assert times["POST"] == (100.0, 102.0)
    assert times["queue"] == pytest.approx((100.1, 100.6))
    assert times["connect"] == pytest.approx((100.6, 100.85))


class Broken:
    """An exporter whose collector is away."""

    def export(self, batch: Any) -> Any:
        raise OSError("refused")

    def shutdown(self) -> None:
        """Nothing is open."""


def test_what_can_not_be_exported_is_dropped_and_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ended(Broken())
    made.close()
    assert made.dropped == 1
    assert [one.message for one in caplog.records] == ["spans cannot be exported"]
    monkeypatch.setattr(spans, "_MOST_WAITING", 0)
    assert ended(Broken()).dropped == 1


@pytest.fixture
async def received() -> AsyncIterator[tuple[str, list[Any]]]:
    """A receiver of OTLP over HTTP -> its URL, and the spans that it gets."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    got: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest.FromString(await request.read())
        for of_resource in message.resource_spans:
            for scope in of_resource.scope_spans:
                got.extend((of_resource.resource, span) for span in scope.spans)
        return web.Response()

    application = web.Application()
    application.router.add_post("/v1/traces", take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    yield f"http://127.0.0.1:{port}/v1/traces", got
    await runner.cleanup()


async def test_a_receiver_of_otlp_gets_them(received: tuple[str, list[Any]], stage: Stage) -> None:
    url, got = received
    await serve(stage, f"traceparent: 00-{TRACE}-{PARENT}-01", otlp=url, tag="edge")
    resource, span = next(one for one in got if one[1].name == "GET")
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    names = {one.key: one.value.string_value for one in resource.attributes}
    assert names["service.name"] == "edge"
