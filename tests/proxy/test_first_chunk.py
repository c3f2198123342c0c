"""The time of a stream's first chunk, which its span has, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.observe import spans
from hermes_lb.observe.spans import Spans
from tests.proxy.test_resume import LAST, PATH, chunk, event, stream_head
from tests.support.http2_origin import http2_at
from tests.support.needs import needs_package
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage

otel = needs_package("opentelemetry", "sdk.trace.export.in_memory_span_exporter")

FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
LEARNS = {"stick": [{"on": "query:s", "learn": True, "response": "event:/s"}]}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The SDK's exporter that keeps spans, in place of the one by OTLP."""
    exporter = otel.sdk.trace.export.in_memory_span_exporter.InMemorySpanExporter()
    monkeypatch.setattr(Spans, "to", classmethod(lambda cls, url, service: cls(exporter, service)))
    monkeypatch.setattr(spans, "_EVERY", 0.01)
    return exporter


class Clock:
    """The data path's, which stands still between the test's steps."""

    def __init__(self, lb: LoadBalancer) -> None:
        context = lb._plane.context
        self._now = context.clock()
        context.clock = lambda: self._now

    def goes_on(self, seconds: float) -> None:
        self._now += seconds


async def span_of(kept: Any, name: str = "GET") -> Any:
    found: list[Any] = []

    def is_there() -> bool:
        found[:] = [one for one in kept.get_finished_spans() if one.name == name]
        return bool(found)

    await eventually(is_there)
    return found[0]


def path_of(lb: LoadBalancer) -> list[str]:
    """What the present response passes through, by class; empty: there is none."""
    bodies: list[Any] = [one.body for one in lb._plane.context.live.upstreams]
    body = next(filter(None, bodies), None)
    names = []
    while body is not None:
        names.append(type(body).__name__)
        body = getattr(body, "_body", None)
    return names


def has_come(lb: LoadBalancer) -> bool:
    """Whether a part of the first chunk has: it has left, or its event is held."""
    if "FirstChunkBody" not in path_of(lb):
        return True
    [upstream] = lb._plane.context.live.upstreams
    within: Any = upstream.body
    return bool(getattr(within._body, "_held", b""))


def log(stage: Stage) -> dict[str, Any]:
    return {"access": str(stage.folder / "access-0.log"), "otlp": "http://127.0.0.1:1/v1/traces"}


@pytest.mark.parametrize(
    ("route", "backend", "within", "as_a_part"),
    [
        ({}, {}, ["ChunkedBody"], 5.0),
        ({}, LEARNS, ["LearningBody", "ChunkedBody"], 5.0),
        ({"resume": True}, {}, ["EventsBody"], 6.0),  # only whole events leave
    ],
    ids=["plain", "learning", "resume"],
)
@pytest.mark.parametrize("comes", ["after the head", "with the head", "in two parts"])
async def test_it_is_that_of_the_first_bytes_that_leave(
    kept: Any, stage: Stage, route: dict[str, Any], backend: dict[str, Any], within: list[str],
    as_a_part: float, comes: str,
) -> None:  # fmt: skip
    routes = [{"path_prefix": "/", "backend": "agents", **route}]
    lb, client, origin = await stage.line(
        log=log(stage), frontend={"routes": routes}, backend=backend
    )
    clock = Clock(lb)
    await client.get("/")
    at_origin, _ = await origin.accept_request()
    head, first = stream_head(f"X-Hermes-Resume: {PATH}"), chunk(event(1))
    if comes == "with the head":
        clock.goes_on(5.0)
        await at_origin.send(head + first)
        await client.read_head()
    else:
        clock.goes_on(2.0)
        await at_origin.send(head)
        await client.read_head()
        assert path_of(lb) == ["FirstChunkBody", *within]
        clock.goes_on(3.0)
        if comes == "in two parts":
            await at_origin.send(first[:9])
            await eventually(lambda: has_come(lb))
            clock.goes_on(1.0)
        await at_origin.send(first[9:] if comes == "in two parts" else first)
    await client.read_until(b"data: {}")
    assert path_of(lb) == within
    clock.goes_on(4.0)
    await at_origin.send(chunk(event(2)) + LAST)
    await client.read_until(b"17-2")
    span, expected = await span_of(kept), as_a_part if comes == "in two parts" else 5.0
    assert span.attributes[FIRST_CHUNK] == pytest.approx(expected)


async def test_the_chunk_may_be_the_last_one_that_is_looked_into(kept: Any, stage: Stage) -> None:
    """What finds keys in a body leaves the path with its first event, too."""
    lb, client, at_origin = await stage.asked(log=log(stage), backend=LEARNS)
    await at_origin.send(stream_head() + chunk(b'data: {"s":"one"}\n\n'))
    await client.read_until(b"one")
    assert path_of(lb) == ["ChunkedBody"]
    await at_origin.send(LAST)
    assert FIRST_CHUNK in (await span_of(kept)).attributes


async def test_a_server_by_http2(kept: Any, stage: Stage) -> None:
    lb, client, origin = await stage.line(log=log(stage), backend={"protocol": "h2"})
    clock = Clock(lb)
    await client.get("/")
    at_origin = await http2_at(origin)
    asked = await at_origin.request()
    clock.goes_on(2.0)
    await at_origin.head(asked, ("content-type", "text/event-stream"))
    await client.read_head()
    clock.goes_on(3.0)
    await at_origin.data(asked, event(1))
    await client.read_until(b"data: {}")
    clock.goes_on(4.0)
    await at_origin.data(asked, event(2), ends=True)
    assert (await span_of(kept)).attributes[FIRST_CHUNK] == pytest.approx(5.0)


@pytest.mark.parametrize(("events_before", "expected"), [(0, 5.0), (1, 0.0)])
async def test_of_a_stream_of_several_servers_it_is_that_of_the_first_event(
    kept: Any, stage: Stage, events_before: int, expected: float
) -> None:
    origins = [await stage.origin(), await stage.origin()]
    routes = [{"path_prefix": "/", "backend": "agents", "resume": True}]
    lb = await stage.balancer(*origins, log=log(stage), frontend={"routes": routes})
    client, clock = await stage.client(lb), Clock(lb)
    await client.get("/")
    at_first, _ = await origins[0].accept_request()
    head = stream_head(f"X-Hermes-Resume: {PATH}")
    await at_first.send(head + chunk(event(1)) * events_before)
    await client.read_head()
    at_first.abort()
    at_second, _ = await origins[1].accept_request()
    clock.goes_on(2.0)
    await at_second.send(head)
    timed = [] if events_before else ["FirstChunkBody"]
    await eventually(lambda: path_of(lb) == [*timed, "EventsBody"])
    clock.goes_on(3.0)
    await at_second.send(chunk(event(2)))
    await client.read_until(b"id: 17-2")
    assert path_of(lb) == ["EventsBody"]
    clock.goes_on(4.0)
    await at_second.send(LAST)
    assert (await span_of(kept)).attributes[FIRST_CHUNK] == pytest.approx(expected)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_stream_without_a_chunk_has_no_such_time(
    kept: Any, stage: Stage, chunked: bool
) -> None:
    _, client, at_origin = await stage.asked(log=log(stage))
    await at_origin.send(stream_head(chunked=chunked))
    await client.read_head()
    if chunked:
        await at_origin.send(LAST)
    else:
        at_origin.close()
    assert FIRST_CHUNK not in (await span_of(kept)).attributes
    assert await span_of(kept, "stream")


@pytest.mark.parametrize("spans_are", ["off", "not asked for by the client"])
async def test_a_stream_without_a_span_has_nothing_in_its_path(
    kept: Any, stage: Stage, spans_are: str
) -> None:
    options = {} if spans_are == "off" else {"log": log(stage)}
    fields = f"traceparent: 00-{'a' * 32}-{'b' * 16}-00"
    lb, client, at_origin = await stage.asked("/", fields, **options)
    await at_origin.send(stream_head())
    await client.read_head()
    assert path_of(lb) == ["ChunkedBody"]
    await at_origin.send(LAST)
