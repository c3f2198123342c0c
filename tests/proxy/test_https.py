"""From HTTP to HTTPS: redirects, and Strict-Transport-Security."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Tls
from hermes_lb.http.https import hsts_field
from tests.support.certificates import site
from tests.support.http_peer import request
from tests.support.origin import answers
from tests.support.tls import tls_client, with_tls

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stage import Stage

REDIRECTS = {"redirect_to_https": 308}


def with_tls_and_without(folder: Path, **options: Any) -> dict[str, Any]:
    """A frontend with two ports, of which the first speaks TLS."""
    frontend = with_tls(site(folder, "a.test"), **options)
    return frontend | {"bind": [frontend["bind"], "127.0.0.1:0"]}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_plain_http_is_sent_to_the_same_thing_by_tls(stage: Stage, status: int) -> None:
    lb, client, origin = await stage.served(frontend={"redirect_to_https": status})
    for _ in range(2):
        response = await client.ask("/a/b?c=d", "Host: Agent.Example.com:8080")
        assert (response.status, response.body) == (status, b"")
        assert response.get("Location") == "https://agent.example.com/a/b?c=d"
    assert origin.requests == []
    assert {(line.status, line.termination) for line in await stage.logged(lb, 2)} == {
        (status, "LR")
    }


async def test_another_port_stands_in_the_address(stage: Stage) -> None:
    _, client, _ = await stage.served(frontend={**REDIRECTS, "https_port": 8443})
    assert (await client.ask("/", "Host: [::1]:80")).get("Location") == "https://[::1]:8443/"


async def test_a_body_is_not_waited_for(stage: Stage) -> None:
    _, client, _ = await stage.served(frontend=REDIRECTS)
    await client.send(request("POST", "/", "Content-Length: 1000000") + b"the start of it")
    response = await client.read_response()
    assert (response.status, response.get("Connection")) == (308, client.closes)


@pytest.mark.http1_only("HTTP/1.0")
@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.0\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"]
)
async def test_what_has_no_address_is_refused(stage: Stage, data: bytes) -> None:
    _, client, origin = await stage.served(frontend=REDIRECTS)
    assert (await client.answer_to(data)).status == 400
    assert origin.requests == []


async def test_who_came_by_tls_is_served(stage: Stage, tmp_path: Path) -> None:
    frontend = with_tls_and_without(tmp_path) | REDIRECTS
    lb = await stage.balancer(await stage.serving(), frontend=frontend)
    client = await tls_client(stage, lb.urls[0])
    assert (await client.ask()).status == 200
    plain = await stage.client(lb.urls[1])
    assert (await plain.ask()).status == 308


@pytest.mark.parametrize(("trusted", "status"), [([], 308), (["127.0.0.0/8"], 200)])
async def test_a_trusted_proxy_may_have_had_the_tls(
    stage: Stage, trusted: list[str], status: int
) -> None:
    _, client, _ = await stage.served(frontend={**REDIRECTS, "trusted_proxies": trusted})
    assert (await client.ask("/", "X-Forwarded-Proto: https")).status == status


async def test_a_frontend_that_only_redirects_needs_no_backend(stage: Stage) -> None:
    _, client, _ = await stage.served(frontend={**REDIRECTS, "default_backend": None})
    assert (await client.ask()).status == 308


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, b""),
        ({"hsts": "1d"}, b"Strict-Transport-Security: max-age=86400\r\n"),
        ({"hsts": 0}, b"Strict-Transport-Security: max-age=0\r\n"),
        (
            {"hsts": "365d", "hsts_subdomains": True, "hsts_preload": True},
            b"Strict-Transport-Security: max-age=31536000; includeSubDomains; preload\r\n",
        ),
    ],
)
def test_hsts_is_said_as_configured(options: dict[str, Any], field: bytes) -> None:
    tls = Tls.model_validate({"certificate": "x", **options})
    said = hsts_field(tls.hsts, subdomains=tls.hsts_subdomains, preload=tls.hsts_preload)
    assert said == field


async def test_hsts_is_said_by_tls_only(stage: Stage, tmp_path: Path) -> None:
    frontend = with_tls_and_without(tmp_path, hsts="1d")
    lb = await stage.balancer(await stage.serving(), frontend=frontend)
    client, plain = await tls_client(stage, lb.urls[0]), await stage.client(lb.urls[1])
    for one, expected in ((client, "max-age=86400"), (plain, None)):
        response = await one.ask()
        assert response.get("Strict-Transport-Security") == expected


async def test_what_the_server_says_counts(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.serving(answers(b"ok", "strict-transport-security: max-age=5"))
    lb = await stage.balancer(origin, frontend=with_tls(site(tmp_path, "a.test"), hsts="1d"))
    client = await tls_client(stage, lb)
    assert (await client.ask()).get("Strict-Transport-Security") == "max-age=5"
