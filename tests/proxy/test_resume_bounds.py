"""Streams that resume: their bounds of time, what they can't pass through, and their log lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.testing import eventually
from tests.proxy.test_resume import (
    HANDOVER,
    LAST,
    PATH,
    RESUMABLE,
    Talk,
    balancer,
    chunk,
    event,
    stream_head,
)
from tests.support.http_peer import AtOrigin, Client, Ended, Message
from tests.support.logging_balancer import logging_balancer
from tests.support.loops import on_both_loops
from tests.support.stage import Stage, in_flight, server_of

if TYPE_CHECKING:
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from tests.support.origin import Origin

EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"

# No client here is silent for this time; the sweep is as fine as the shortest timeout requires.
FINE_SWEEP = {"keep_alive": "200ms"}


async def opened(
    stage: Stage, lb: LoadBalancer, origin: Origin, head: bytes, *fields: str, version: str = "1.1"
) -> tuple[Client, AtOrigin, Message]:
    """A GET of a stream, and the head of its answer."""
    client = await stage.client(lb)
    await client.get("/", "Accept: text/event-stream", *fields, version=version)
    at_origin, asked = await origin.accept_request()
    await at_origin.send(head)
    assert (await client.read_head()).status == 200
    return client, at_origin, asked


# Time.


async def queued(stage: Stage, **options: Any) -> tuple[Talk, Client, AtOrigin]:
    """A stream that is lost while the only other server is full."""
    talk = await Talk.begin(stage, 2, each=[{}, {"max_connections": 1}], **options)
    other = await stage.client(talk.lb)
    await other.get("/other")
    at_second, _ = await talk.origins[1].accept_request()
    talk.origins[0].stop_listening()
    talk.first.close()
    await eventually(lambda: len(talk.lb.pools["agents"].waiting) == 1)
    return talk, other, at_second


@on_both_loops
async def test_a_stream_that_waits_too_long_in_the_queue_is_cut_visibly(stage: Stage) -> None:
    talk, other, at_second = await queued(
        stage, route={"resume_attempts": 1}, timeouts={"queue": "500ms"}
    )
    assert LAST not in await talk.client.read_until_cut()
    assert (await stage.log_line(talk.lb)).termination.startswith("SD")
    assert not talk.lb.pools["agents"].waiting
    # All other deadlines are kept.
    silent = await stage.client(talk.lb)
    await silent.send(b"GET / HT")
    await at_second.serves(other, b"ok")


async def test_the_time_for_all_attempts_bounds_the_queue_too(stage: Stage) -> None:
    talk, other, at_second = await queued(
        stage, route={"resume_timeout": "200ms"}, timeouts={"queue": "1h", **FINE_SWEEP}
    )
    assert LAST not in await talk.client.read_until_cut()
    assert not talk.lb.pools["agents"].waiting
    await at_second.serves(other, b"ok")


async def before_a_black_hole(stage: Stage) -> tuple[LoadBalancer, Client]:
    """A stream whose server is lost, and that no other one can be asked for."""
    origin = await stage.origin()
    lb = await balancer(
        stage,
        origin,
        stage.black_hole(),
        route={"resume_timeout": "200ms"},
        timeouts={"connect": "1h", **FINE_SWEEP},
    )
    client, first, _ = await opened(stage, lb, origin, RESUMABLE + chunk(event(1)))
    first.close()
    return lb, client


async def test_the_time_for_all_attempts_bounds_the_dial_too(stage: Stage) -> None:
    _, client = await before_a_black_hole(stage)
    assert LAST not in await client.read_until_cut()


async def test_a_server_that_can_not_be_dialed_in_time_is_one_attempt(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes_lb.proxy.resume._MOST_FOR_ATTEMPT", 0.5)
    origins = [await stage.origin() for _ in range(2)]
    lb = await balancer(
        stage,
        origins[0],
        stage.black_hole(),
        origins[1],
        timeouts={"connect": "1h", **FINE_SWEEP},
        each=[{}, {}, {"backup": True}],
    )
    talk = Talk(stage, lb, origins)
    talk.client, first, _ = await opened(stage, lb, origins[0], RESUMABLE)
    origins[0].stop_listening()
    first.close()
    third, _ = await talk.taken_up()
    await talk.finish(third, 1)


async def test_a_pause_between_two_attempts_is_no_servers_silence(stage: Stage) -> None:
    route = {"resume_attempts": 2, "resume_timeout": "600ms"}
    talk = await Talk.begin(stage, route=route, timeouts={"server": "40ms"})
    for number in (1, 2):
        server_of(talk.lb, number).set_up(False, "check failed")
    await talk.first.send(chunk(event(2)))
    talk.first.close()
    await talk.client.read_until_cut()
    assert [server_of(talk.lb, number).counters.connect_errors for number in (1, 2)] == [0, 0]


# Before the answer.


async def test_early_hints_of_the_next_server_are_not_for_a_client_that_has_its_head(
    stage: Stage,
) -> None:
    talk = await Talk.begin(stage)
    talk.first.close()
    second, _ = await talk.taken_up()
    await second.send(EARLY_HINTS)
    await talk.finish(second)


async def test_early_hints_are_counted_from_zero_for_each_attempt(stage: Stage) -> None:
    talk = await Talk.begin(stage, 4)
    talk.first.close()
    second, _ = await talk.taken_up(1)
    await second.send(20 * EARLY_HINTS)
    await second.respond(b"", status=503)
    third, _ = await talk.taken_up(2)
    await third.send(20 * EARLY_HINTS + RESUMABLE + chunk(event(2)))
    assert await talk.client.read_chunk() == event(2)
    third.close()
    fourth, _ = await talk.taken_up(3)
    await talk.finish(fourth, 3)


async def test_a_server_that_has_nothing_but_early_hints_is_left(stage: Stage) -> None:
    talk = await Talk.begin(stage, 3)
    talk.first.close()
    second, _ = await talk.taken_up(1)
    await second.send(40 * EARLY_HINTS)
    third, _ = await talk.taken_up(2)
    await talk.finish(third)


# Responses that are not streams of events.


@on_both_loops
@pytest.mark.parametrize(
    "route", [{}, {"resume": False, "sse_keep_alive": "20ms"}], ids=["resume", "keep-alive"]
)
@pytest.mark.parametrize("coding", ["gzip", "GZIP", "identity, br"])
async def test_a_compressed_stream_passes_as_it_comes(
    stage: Stage, route: dict[str, Any], coding: str
) -> None:
    origin = await stage.origin()
    lb = await balancer(stage, origin, route=route)
    head = stream_head(f"X-Hermes-Resume: {PATH}", f"Content-Encoding: {coding}")
    client, at_origin, _ = await opened(stage, lb, origin, head, "Accept-Encoding: gzip, br")
    for part in (b"\x1f\x8b no end of an event", b"event: handover\n\n", b"\x00"):
        await at_origin.send(chunk(part))
        assert await client.read_chunk() == part
    await at_origin.send(LAST)
    assert await client.read_chunk() == b""


async def test_a_stream_that_is_said_to_be_as_it_is_can_be_resumed(stage: Stage) -> None:
    head = stream_head(f"X-Hermes-Resume: {PATH}", "Content-Encoding: identity")
    talk = await Talk.begin(stage, head=head)
    talk.first.close()
    second, _ = await talk.taken_up()
    await talk.finish(second)


async def test_a_server_that_would_go_on_compressed_is_left(stage: Stage) -> None:
    talk = await Talk.begin(stage, 3)
    talk.first.close()
    second, _ = await talk.taken_up(1)
    await second.send(stream_head("Content-Encoding: gzip") + chunk(b"\x1f\x8b"))
    third, _ = await talk.taken_up(2)
    await talk.finish(third)


@pytest.mark.parametrize("route", [{"on_disconnect": "detach"}, {"resume": True}])
async def test_a_stream_without_a_rule_that_needs_events_passes_as_it_comes(
    stage: Stage, route: dict[str, Any]
) -> None:
    origin = await stage.origin()
    lb = await balancer(stage, origin, route={"resume": False, **route})
    client, at_origin, _ = await opened(stage, lb, origin, stream_head())
    await at_origin.send(chunk(event(1)[:9]))
    assert await client.read_chunk() == event(1)[:9]


# Handovers.


@pytest.mark.parametrize(
    ("method", "version"),
    [pytest.param("GET", "1.0", marks=pytest.mark.http1_only("HTTP/1.0")), ("HEAD", "1.1")],
)
async def test_nobody_is_asked_to_hand_over_what_could_not_go_on(
    stage: Stage, method: str, version: str
) -> None:
    origin = await stage.origin()
    client = await stage.client(await balancer(stage, origin))
    await client.send(f"{method} / HTTP/{version}\r\nHost: a\r\n\r\n".encode())
    at_origin, asked = await origin.accept_request()
    assert asked.get("X-Hermes-Handover") is None
    await at_origin.respond()
    assert (await client.read_response(method=method)).status == 200


@pytest.mark.http1_only("bytes are compared")
@on_both_loops
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\r"])
async def test_a_handover_behind_an_event_that_was_too_large_is_a_visible_cut(
    stage: Stage, end: bytes
) -> None:
    talk = await Talk.begin(stage)
    huge = b"data: " + b"x" * 70_000 + end
    await talk.first.send(chunk(huge))
    assert huge.startswith(await talk.client.read_chunk())
    await talk.first.send(chunk(b"\n\n" + event(2)) + chunk(HANDOVER) + LAST)
    rest = await talk.client.read_until_cut()
    assert event(2) in rest
    assert b"handover" not in rest
    assert not rest.endswith(LAST)
    assert await talk.origins[1].has_no_new_connection()
    line = await stage.log_line(talk.lb)
    assert (line.termination[:2], line.reason) == ("SD", "it has handed over")


# Where the client was.


@pytest.mark.parametrize("said", ["17-40", "a b\u00e9", "x" * 1024])
async def test_a_client_that_came_back_is_resumed_where_it_was(stage: Stage, said: str) -> None:
    origins = [await stage.origin() for _ in range(2)]
    talk = Talk(stage, await balancer(stage, *origins), origins)
    talk.client = await stage.client(talk.lb)
    await talk.client.send(
        b"GET / HTTP/1.1\r\nHost: a\r\nLast-Event-ID:  %b \r\n\r\n" % said.encode("latin-1")
    )
    first, asked = await origins[0].accept_request()
    assert (asked.get("Last-Event-ID") or "").strip() == said
    await first.send(RESUMABLE)
    assert (await talk.client.read_head()).status == 200
    first.close()
    second, asked = await talk.taken_up()
    assert asked.get("Last-Event-ID") == said
    await second.send(RESUMABLE + chunk(event(41)))
    assert await talk.client.read_chunk() == event(41)
    second.close()
    third, asked = await talk.taken_up(0)
    assert asked.get("Last-Event-ID") == "17-41"
    await talk.finish(third, 42)


@pytest.mark.parametrize(
    "fields",
    [("Last-Event-ID: 1", "last-event-id: 2"), ("Last-Event-ID: " + "x" * 1025,)],
    ids=["two of them", "too long"],
)
async def test_where_a_client_was_that_nobody_can_tell_is_not_guessed(
    stage: Stage, fields: tuple[str, ...]
) -> None:
    origins = [await stage.origin() for _ in range(2)]
    talk = Talk(stage, await balancer(stage, *origins), origins)
    talk.client, first, _ = await opened(stage, talk.lb, origins[0], RESUMABLE, *fields)
    first.close()
    with pytest.raises(Ended):
        await talk.client.read_chunk()
    assert await origins[1].has_no_new_connection()
    # Behind an event with an id of its own it is known.
    talk.client, first, _ = await opened(
        stage, talk.lb, origins[1], RESUMABLE + chunk(event(1)), *fields
    )
    assert await talk.client.read_chunk() == event(1)
    first.close()
    second, asked = await talk.taken_up(0)
    assert asked.get("Last-Event-ID") == "17-1"
    await talk.finish(second)


# The log.


async def refused_once(stage: Stage, **options: Any) -> Talk:
    """A stream that has gone on at the third server, behind a pause."""
    talk = await Talk.begin(stage, 3, **options)
    talk.first.close()
    second, _ = await talk.taken_up(1)
    await second.respond(b"", status=503)
    talk.first, _ = await talk.taken_up(2)
    return talk


async def test_the_times_in_the_log_are_those_of_the_first_connection(stage: Stage) -> None:
    talk = await refused_once(stage)
    await talk.finish(talk.first)
    line = await stage.log_line(talk.lb)
    assert line.reached == "TR Tw Tc Tr"
    assert line.reason == "resumes=1"


async def test_the_times_are_kept_when_nobody_goes_on(stage: Stage) -> None:
    lb, client = await before_a_black_hole(stage)
    await client.read_until_cut()
    assert (await stage.log_line(lb)).reached == "TR Tw Tc Tr"


async def test_the_json_line_has_the_times_of_the_first_connection(
    stage: Stage, tmp_path: Path
) -> None:
    origins = [await stage.origin() for _ in range(3)]
    routes = [{"path_prefix": "/", "backend": "agents", "resume": True}]
    path = tmp_path / "log"
    async with logging_balancer(path, *origins, frontend={"routes": routes}, format="json") as lb:
        talk = Talk(stage, lb, origins)
        talk.client, first, _ = await opened(stage, lb, origins[0], RESUMABLE + chunk(event(1)))
        assert await talk.client.read_chunk() == event(1)
        first.close()
        second, _ = await talk.taken_up(1)
        await second.respond(b"", status=503)
        third, _ = await talk.taken_up(2)
        await talk.finish(third)
    (line,) = map(json.loads, path.read_text().splitlines())
    assert line["response_ms"] >= 0
    assert (line["retries"], line["redispatched"], line["reason"]) == (0, False, "resumes=1")


async def test_to_be_resumed_is_no_retry(stage: Stage) -> None:
    talk = await Talk.begin(stage)
    talk.first.close()
    second, _ = await talk.taken_up()
    await talk.finish(second)
    assert (await stage.log_line(talk.lb)).retries == "0"


async def test_a_retry_on_another_server_is_still_known_behind_a_resume(stage: Stage) -> None:
    origins = [await stage.origin() for _ in range(2)]
    lb = await balancer(stage, stage.nobody(), *origins)
    talk = Talk(stage, lb, origins)
    talk.client, first, _ = await opened(stage, lb, origins[0], RESUMABLE)
    first.close()
    second, _ = await talk.taken_up()
    await talk.finish(second, 1)
    assert (await stage.log_line(lb)).retries == "+1"


async def test_a_client_that_leaves_a_resumed_stream_does_not_hide_that(stage: Stage) -> None:
    talk = await Talk.begin(stage)
    talk.first.close()
    second, _ = await talk.taken_up()
    await second.send(RESUMABLE + chunk(event(2)))
    assert await talk.client.read_chunk() == event(2)
    talk.client.close()
    line = await stage.log_line(talk.lb)
    assert (line.termination[:2], line.reason) == ("CD", "resumes=1")
    assert in_flight(talk.lb) == [0, 0]


async def test_why_a_resumed_stream_was_cut_stands_behind_that(stage: Stage) -> None:
    talk = await Talk.begin(stage)
    talk.first.close()
    second, _ = await talk.taken_up()
    await second.send(RESUMABLE + chunk(event(2)))
    assert await talk.client.read_chunk() == event(2)
    second.close()
    again, _ = await talk.taken_up(0)
    await again.respond(b"", status=410)
    await talk.client.read_until_cut()
    line = await stage.log_line(talk.lb)
    assert line.reason.startswith("resumes=1; ")
    assert line.reason.endswith("; agent1 answered 410")
