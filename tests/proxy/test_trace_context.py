"""Traces through the balancer: passed on, made where there is none, and in the log."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.logging_balancer import logging_balancer
from tests.support.origin import answers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.http_peer import Message
    from tests.support.stage import Stage

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
VALID = f"00-{TRACE}-00f067aa0ba902b7-01"
MADE = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-01")


async def forwarded(stage: Stage, folder: Path, *fields: str, **log: Any) -> tuple[Message, str]:
    """What the server gets of a request with these fields, and the line of the log."""
    origin = await stage.serving(answers())
    async with logging_balancer(folder / "log", origin, **log) as lb:
        client = await stage.client(lb)
        assert (await client.ask("/", *fields)).status == 200
    return origin.requests[0], (folder / "log").read_text()


async def test_a_trace_goes_on_as_it_came(stage: Stage, tmp_path: Path) -> None:
    fields = f"traceparent: {VALID}", "tracestate: vendor=1"
    request, line = await forwarded(stage, tmp_path, *fields)
    assert request.get("traceparent") == VALID
    assert request.get("tracestate") == "vendor=1"
    assert TRACE not in line


@pytest.mark.parametrize("fields", [[], ["traceparent: nonsense"], ["tracestate: stale=1"]])
async def test_a_request_without_a_trace_gets_one(
    fields: list[str], stage: Stage, tmp_path: Path
) -> None:
    request, _ = await forwarded(stage, tmp_path, *fields)
    assert MADE.fullmatch(request.get("traceparent") or "")
    assert request.get("tracestate") is None


async def test_it_can_be_configured_not_to_make_any(stage: Stage, tmp_path: Path) -> None:
    request, _ = await forwarded(stage, tmp_path, traceparent="pass")
    assert request.get("traceparent") is None


async def test_without_making_any_a_valid_one_still_goes_on(stage: Stage, tmp_path: Path) -> None:
    request, _ = await forwarded(stage, tmp_path, f"traceparent: {VALID}", traceparent="pass")
    assert request.get("traceparent") == VALID


async def test_httplog_shows_the_trace_where_haproxy_has_captured_fields(
    stage: Stage, tmp_path: Path
) -> None:
    _, line = await forwarded(stage, tmp_path, f"traceparent: {VALID}", capture_trace=True)
    assert line.endswith(f' 0/0 {{{TRACE}}} "GET / {stage.protocol}"\n')


async def test_a_trace_that_was_made_is_logged(stage: Stage, tmp_path: Path) -> None:
    request, line = await forwarded(stage, tmp_path, format="json")
    made = MADE.fullmatch(request.get("traceparent") or "")
    assert made
    assert f'"trace_id":"{made[1]}"' in line


async def test_a_retry_belongs_to_the_same_trace(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.origin()
    async with logging_balancer(tmp_path / "log", origin, origin) as lb:
        client = await stage.client(lb)
        await client.get()
        first, request = await origin.accept_request()
        first.close()
        second, again = await origin.accept_request()
        await second.respond(b"ok")
        assert (await client.read_response()).status == 200
    assert request.get("traceparent") == again.get("traceparent") is not None


async def test_each_request_of_a_connection_has_a_trace_of_its_own(
    stage: Stage, tmp_path: Path
) -> None:
    origin = await stage.serving(answers())
    async with logging_balancer(tmp_path / "log", origin) as lb:
        client = await stage.client(lb)
        for _ in range(3):
            await client.ask()
    assert len({request.get("traceparent") for request in origin.requests}) == 3
