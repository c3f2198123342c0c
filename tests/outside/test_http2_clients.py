"""Clients of HTTP/2 by other people: curl, nghttp, h2load, httpx, Node."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from tests.support.certificates import ca_file, site, trusting
from tests.support.programs import run
from tests.support.stage import in_flight
from tests.support.tls import with_tls
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
LONG = 60.0  # seconds that a program may take on a busy machine
DEBIAN = {"nghttp": "nghttp2-client", "h2load": "nghttp2-client", "node": "nodejs"}


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {DEBIAN.get(name, name)}")
    return path


async def _echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read(), headers={"X-Method": request.method})


async def _words(request: web.Request) -> web.Response:
    return web.Response(text="some words " * 100)


async def _held(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begun")
    await asyncio.Event().wait()
    return response


@pytest.fixture
async def origin() -> AsyncIterator[int]:
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/echo", _echo)
    app.router.add_get("/words", _words)
    app.router.add_get("/held", _held)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.fixture(params=["clear", "TLS"])
async def front(
    request: pytest.FixtureRequest, stage: Stage, tmp_path: Path, origin: int
) -> tuple[LoadBalancer, str, str]:
    """The balancer, its URL, and the file of its authority ("" without TLS)."""
    if request.param == "clear":
        lb = await stage.balancer(origin, frontend={"http2": True})
        return lb, lb.url, ""
    certificate = site(tmp_path, "localhost")
    lb = await stage.balancer(origin, frontend={**with_tls(certificate), "http2": True})
    return lb, lb.url.replace("127.0.0.1", "localhost"), ca_file(tmp_path)


def counters(lb: LoadBalancer) -> Any:
    [frontend] = lb.observed.frontends.values()
    return frontend


def sent_by_http2_alone(lb: LoadBalancer, requests: int, connections: int = 1) -> None:
    seen = counters(lb)
    assert seen.http2_requests == seen.requests == requests
    assert seen.http2_connections_total == seen.connections_total == connections
    assert seen.http2_resets_by_balancer == 0


Front = tuple["LoadBalancer", str, str]


async def test_curl(front: Front, tmp_path: Path) -> None:
    lb, url, ca = front
    body = tmp_path / "body"
    body.write_bytes(bytes(range(256)) * 8000)
    versions = ["--cacert", ca, "--http2"] if ca else ["--http2-prior-knowledge"]
    curl = partial(run, program("curl"), "-sS", *versions, within=LONG)
    ran = await curl(
        "--data-binary", f"@{body}", "-o", str(tmp_path / "got"),
        "-w", "%{http_version} %{http_code}", f"{url}/echo",
    )  # fmt: skip
    assert ran == (0, "2 200")
    assert (tmp_path / "got").read_bytes() == body.read_bytes()
    sent_by_http2_alone(lb, 1)
    if not ca:
        return  # curl 7.88 opens no second stream with prior knowledge: "(16) Error in the HTTP2
        # framing layer", with HAProxy as well
    ran = await curl(
        "-Z", "--parallel-max", "50", "--no-progress-meter", "-o", "/dev/null",
        "-w", "%{http_code}\n", f"{url}/words?[1-80]",
    )  # fmt: skip
    assert (ran.status, ran.said.split()) == (0, ["200"] * 80)
    assert counters(lb).http2_requests == 81


async def test_curl_upgrades_from_http1_in_vain(stage: Stage, origin: int) -> None:
    """`h2c` by Upgrade is obsolete (RFC 9113 section 3.1): the request is answered by HTTP/1.1."""
    lb = await stage.balancer(origin, frontend={"http2": True})
    ran = await run(
        program("curl"), "-sS", "--http2", "-o", "/dev/null", "-w", "%{http_version} %{http_code}",
        f"{lb.url}/words", within=LONG,
    )  # fmt: skip
    assert ran == (0, "1.1 200")


async def test_nghttp(front: Front) -> None:
    """With narrow windows, padding, and its tree of priorities by RFC 7540."""
    lb, url, _ = front
    ran = await run(
        program("nghttp"), "-n", "-s", "-w", "12", "-W", "13", "-b", "200", "-m", "10",
        f"{url}/words", within=LONG,
    )  # fmt: skip
    assert ran.status == 0, ran.said
    assert len(re.findall(r" 200 +1K /words", ran.said)) == 10, ran.said
    sent_by_http2_alone(lb, 10)


async def test_nghttp_uploads(front: Front, tmp_path: Path) -> None:
    lb, url, _ = front
    body = tmp_path / "body"
    body.write_bytes(b"x" * 3_000_000)
    for more in ([], ["--expect-continue"], ["--no-content-length"]):
        ran = await run(program("nghttp"), "-d", str(body), *more, f"{url}/echo", within=LONG)
        assert ran.status == 0, ran.said[-300:]
        assert ran.said.count("x") >= 3_000_000
    assert counters(lb).http2_requests == 3


async def test_h2load(front: Front) -> None:
    lb, url, _ = front
    ran = await run(
        program("h2load"), "-n", "2000", "-c", "4", "-m", "50", f"{url}/words", within=LONG
    )
    assert "status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx" in ran.said, ran.said
    assert "0 failed, 0 errored, 0 timeout" in ran.said
    sent_by_http2_alone(lb, 2000, connections=4)


async def test_httpx(front: Front) -> None:
    httpx = pytest.importorskip("httpx")
    lb, url, _ = front
    context = trusting()
    async with httpx.AsyncClient(http1=False, http2=True, verify=context) as client:
        answers = await asyncio.gather(*(client.get(f"{url}/words?{n}") for n in range(60)))
        assert {(one.status_code, one.http_version) for one in answers} == {(200, "HTTP/2")}
        body = bytes(range(256)) * 4000
        assert (await client.post(f"{url}/echo", content=body)).content == body
        async with client.stream("GET", f"{url}/held") as held:
            async for part in held.aiter_bytes():
                assert part == b"begun"
                break
    sent_by_http2_alone(lb, 62)
    await eventually(lambda: in_flight(lb) == [0])


async def test_node(front: Front) -> None:
    """300 streams at once, of which 100 may be open: it waits with the others."""
    lb, url, ca = front
    script = Path(__file__).with_name("http2_client.js")
    ran = await run(program("node"), str(script), url, *([ca] if ca else []), within=LONG)
    assert ran.status == 0, ran.said
    seen, end = map(json.loads, ran.said.splitlines())
    assert seen == {
        "statuses": [200] * 300, "echoed": True, "pinged": True, "rst": 8, "extended": True,
    }  # fmt: skip
    assert end == {"goaway": None}
    assert counters(lb).http2_resets_by_client == 1
    await eventually(lambda: in_flight(lb) == [0])
