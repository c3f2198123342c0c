"""Which version a client of TLS gets: by ALPN."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import site, trusting
from tests.support.http2_peer import Http2Client
from tests.support.tls import tls_client, with_tls

if TYPE_CHECKING:
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage
    from tests.support.tls import TlsClient


@pytest.fixture
def certificate(tmp_path: Path) -> str:
    return site(tmp_path, "a.test")


async def balancer(stage: Stage, certificate: str, *, http2: bool) -> LoadBalancer:
    frontend = {**with_tls(certificate), "http2": http2}
    return await stage.balancer(await stage.serving(), frontend=frontend)


async def offering(stage: Stage, lb: LoadBalancer, *protocols: str) -> TlsClient:
    context = trusting()
    context.set_alpn_protocols(protocols)
    return await tls_client(stage, lb, context=context)


async def test_the_first_choice_is_http2(stage: Stage, certificate: str) -> None:
    lb = await balancer(stage, certificate, http2=True)
    client = await offering(stage, lb, "http/1.1", "h2")
    assert client.tls.selected_alpn_protocol() == "h2"
    answer = await Http2Client(client).ask()
    assert (answer.status, answer.body) == (200, b"ok")
    assert (await stage.log_line(lb)).request == "GET / HTTP/2.0"


@pytest.mark.parametrize(("http2", "offered"), [(True, ["http/1.1"]), (False, ["h2", "http/1.1"])])
async def test_others_get_http1(
    stage: Stage, certificate: str, http2: bool, offered: list[str]
) -> None:
    lb = await balancer(stage, certificate, http2=http2)
    client = await offering(stage, lb, *offered)
    assert client.tls.selected_alpn_protocol() == "http/1.1"
    assert (await client.ask()).status == 200


async def test_it_is_on_by_default_with_tls(stage: Stage, certificate: str) -> None:
    lb = await stage.balancer(await stage.serving(), frontend=with_tls(certificate))
    client = await offering(stage, lb, "h2", "http/1.1")
    assert client.tls.selected_alpn_protocol() == "h2"
    assert (await Http2Client(client).ask()).status == 200


async def test_without_alpn_there_is_no_http2(stage: Stage, certificate: str) -> None:
    lb = await balancer(stage, certificate, http2=True)
    client = await tls_client(stage, lb)
    await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert (await client.read_head()).status == 505


async def test_a_reload_turns_it_on(stage: Stage, certificate: str) -> None:
    lb = await balancer(stage, certificate, http2=False)
    [frontend] = lb.config.frontends
    with_http2 = frontend.model_copy(update={"http2": True})
    await lb.reconfigure(lb.config.model_copy(update={"frontends": [with_http2]}))
    client = await offering(stage, lb, "h2")
    assert (await Http2Client(client).ask()).status == 200
