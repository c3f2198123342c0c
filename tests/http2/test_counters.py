"""Counters of HTTP/2: connections, streams, responses, resets, and why connections ended."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import hpack
import pytest

from hermes_lb.backends.counters import GOAWAY_CAUSES
from hermes_lb.control.views import describe_status
from tests.http2.test_requests import by_hand
from tests.support.http2_peer import PREFACE, SETTINGS, Http2Client
from tests.support.http2_wire import GET, frame, get, reset, setting, upload, window
from tests.support.http_peer import Ended
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage


def counted(lb: LoadBalancer) -> dict[str, Any]:
    """What the API has of the frontend, without the numbers that are 0."""
    [frontend] = lb.observed.frontends.values()
    return {
        name.removeprefix("http2_"): {k: v for k, v in n.items() if v} if isinstance(n, dict) else n
        for name, n in frontend.shown().items()
        if name.startswith("http2_") and (any(n.values()) if isinstance(n, dict) else n)
    }


async def test_connections_streams_and_responses(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    first = await client.open("/a")
    at_origin, _ = await origin.accept_request()
    served = {"connections": 1, "connections_total": 1, "requests": 1, "streams_total": 1}
    assert counted(lb) == {**served, "streams": 1}
    await at_origin.respond(b"fine")
    await client.answer(first)
    assert counted(lb) == {**served, "responses": {"2xx": 1}}
    client.client.abort()
    await eventually(lambda: counted(lb).get("connections") is None)
    [frontend] = lb.observed.frontends.values()
    assert (frontend.requests, frontend.connections_total) == (1, 1)  # among all


async def test_requests_of_http1_are_not_counted(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving(), frontend={"http2": True})
    assert (await (await stage.client(lb)).ask()).status == 200
    assert counted(lb) == {}


async def test_refusals_and_local_replies_are_responses(stage: Stage) -> None:
    lb = await stage.balancer(stage.nobody(), backend={"retries": 0}, frontend={"http2": True})
    client = Http2Client(await stage.client(lb), checks=False)
    assert (await client.ask()).status == 503
    assert (await client.ask(method="BREW")).status == 501
    assert counted(lb)["responses"] == {"5xx": 2}
    assert counted(lb)["requests"] == 1  # the other never became one


async def test_resets(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    client = Http2Client(client.client, checks=False)
    await client.reset(await client.open("/a"))
    await eventually(lambda: counted(lb).get("resets_by_client") == 1)
    number = await client.open("/lost")
    at_origin, _ = await origin.accept_request()
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await client.body(number, 4)
    at_origin.abort()
    await client.read_until(lambda: number in client.resets)
    malformed = await client.send_fields([*GET, ("x-a:", "1")])
    await client.read_until(lambda: malformed in client.resets)
    assert counted(lb)["resets_by_client"] == 1
    assert counted(lb)["resets_by_balancer"] == 2
    assert "streams" not in counted(lb)


async def test_a_rapid_reset_is_counted_and_begins_nothing(stage: Stage) -> None:
    lb, client, _ = await by_hand(stage)
    await client.client.send(PREFACE + SETTINGS + get() + reset(1) + get(stream=3) + reset(3))
    await eventually(lambda: counted(lb).get("resets_by_client") == 2)
    assert counted(lb) == {
        "connections": 1, "connections_total": 1, "streams_total": 2, "resets_by_client": 2
    }  # fmt: skip


async def test_streams_above_the_number_that_may_be_open(stage: Stage) -> None:
    lb, client, _ = await by_hand(stage)
    many = b"".join(get(stream=n) for n in range(1, 241, 2))
    await client.client.send(PREFACE + SETTINGS + many)
    await eventually(lambda: counted(lb).get("refused_streams") == 20)
    assert counted(lb)["streams_total"] == 100


async def test_a_response_that_is_not_read_is_a_stall(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    stuck = await client.open("/stuck")
    client.stuck.add(stuck)
    at_origin, _ = await origin.accept_request()
    stage.tasks.spawn(at_origin.respond(b"x" * 400_000), name="respond")
    await client.body(stuck, 65_000)
    await eventually(lambda: counted(lb).get("stalls") == 1)


async def test_a_connection_that_is_not_read_holds_its_servers_back(stage: Stage) -> None:
    """The client's windows are as large as can be: its socket alone says that it does not read."""
    origin = await stage.origin()
    lb = await stage.balancer(origin, frontend={"http2": True})
    client = await stage.client(lb, receive_buffer=4096)
    widest = setting(4, 2**31 - 1) + window(0, 2**31 - 2**16)
    await client.send(PREFACE + widest + get())
    at_origin, _ = await origin.accept_request()
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 90000000\r\n\r\n")
    assert await at_origin.send_until_stuck(b"x" * 65_536, 90_000_000) < 40_000_000
    assert counted(lb)["stalls"] == 1


BOMB = [("x-long", "v" * 4000)] * 400
CAUSES = {
    "rapid_reset": [get(stream=n) + reset(n) for n in range(1, 501, 2)],
    "continuations": [frame(1, 1, 1, b"\x82") + frame(9, 0, 1, b"\x84") * 20],
    "acknowledgements": [SETTINGS * 1500],
    "header_list": [frame(1, 5, 1, hpack.Encoder().encode([*GET, *BOMB]))],
    "glitches": [upload() + frame(0, 0, 1) * 12_000],
    "protocol": [frame(0, 0, 1, b"DATA on an idle stream")],
}


@pytest.mark.parametrize("cause", CAUSES)
async def test_a_connection_is_ended_for_its_cause(stage: Stage, cause: str) -> None:
    """With a GOAWAY, and a reason in the log."""
    lb, client, _ = await by_hand(stage)
    with suppress(OSError):
        await client.client.send(PREFACE + SETTINGS + b"".join(CAUSES[cause]))
    with suppress(Ended, OSError):
        await client.read_to_end()
    assert counted(lb)["goaways"] == {cause: 1}
    [goaway] = client.goaways
    assert goaway.error_code in ((1,) if cause == "protocol" else (2, 11))
    [frontend] = lb.observed.frontends.values()
    [((status, reason), count)] = frontend.refused.items()
    assert (status, count) == (0, 1)
    assert reason.startswith("HTTP/2: ")
    assert "streams" not in counted(lb)
    client.client.abort()
    await eventually(lambda: "connections" not in counted(lb))


async def test_a_text_of_the_client_is_no_label(stage: Stage) -> None:
    lb, client, _ = await by_hand(stage)
    await client.client.send(PREFACE + SETTINGS + frame(7, 0, 0, bytes(7) + b"\x0bbad luck"))
    await client.read_to_end()
    assert "goaways" not in counted(lb)
    [frontend] = lb.observed.frontends.values()
    assert frontend.refused == {}


async def test_an_idle_connection_and_a_drain_are_causes(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage, timeouts={"keep_alive": "100ms"})
    number = await client.open()
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"fine", "Connection: close")
    await client.answer(number)
    await client.read_to_end()
    assert counted(lb)["goaways"] == {"idle": 1}
    other = Http2Client(await stage.client(lb))
    await other.open("/slow")
    at_origin, _ = await origin.accept_request()
    draining = stage.tasks.spawn(lb.drain(5.0), name="drain")
    await other.read_until(lambda: len(other.goaways) == 2)
    await at_origin.respond(b"done")
    await draining
    assert counted(lb)["goaways"] == {"idle": 1, "drain": 1}


async def test_the_api_has_version_and_stream(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    for target in ("/a", "/b"):
        number = await client.open(target)
        at_origin, _ = await origin.accept_request()
        [row] = await lb.sessions()
        assert (row["version"], row["stream"]) == ("2.0", number)
        await at_origin.respond(b"fine", "Connection: close")
        await client.answer(number)
    [frontend] = describe_status(lb)["frontends"]
    assert frontend["http2_goaways"] == dict.fromkeys(GOAWAY_CAUSES, 0)
