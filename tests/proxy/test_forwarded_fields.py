"""What a server learns of the client, and where requests go."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.http_peer import Message, request
from tests.support.origin import answers

if TYPE_CHECKING:
    from tests.support.stage import Stage


async def forwarded(stage: Stage, *fields: str, **more: str) -> Message:
    """What arrives at the server of a request with these fields."""
    _, client, origin = await stage.served()
    assert (await client.answer_to(request("GET", more.get("target", "/"), *fields))).status == 200
    return origin.requests[0]


async def relayed(stage: Stage, *fields: str) -> Message:
    """What arrives at the client of a response with these fields."""
    _, client, _ = await stage.served(answers(b"ok", *fields))
    return await client.ask()


# The client's identity.


async def test_the_client_is_made_known(stage: Stage) -> None:
    message = await forwarded(stage, "Host: agent.example:81")
    assert message.get("X-Forwarded-For") == "127.0.0.1"
    assert message.get("X-Real-IP") == "127.0.0.1"
    assert message.get("X-Forwarded-Proto") == "http"
    assert message.get("X-Forwarded-Host") == "agent.example:81"
    assert message.get("Host") == "agent.example:81"
    assert re.fullmatch(stage.version + r" hermes-lb-[0-9a-f]{16}", message.get("Via") or "")


@pytest.mark.parametrize(
    "chain",
    [
        "6.6.6.6, ::ffff:203.0.113.9, ::ffff:10.1.2.3",
        "6.6.6.6, 203.0.113.9:4711, [::ffff:10.1.2.3]:80",
    ],
)
async def test_a_mapped_address_is_the_ipv4_one(stage: Stage, chain: str) -> None:
    """As a proxy writes it that listens on a socket of both families."""
    lb, client, origin = await stage.served(
        frontend={"trusted_proxies": ["::ffff:127.0.0.0/104", "10.0.0.0/8"]}
    )
    await client.ask("/", f"X-Forwarded-For: {chain}")
    assert origin.requests[0].get("X-Real-IP") == "203.0.113.9"
    assert origin.requests[0].get("X-Forwarded-For") == f"{chain}, 127.0.0.1"
    assert (await stage.log_line(lb)).address == "203.0.113.9"


@pytest.mark.parametrize("chain", ["203.0.113.9 ,", "203.0.113.9, , 10.1.2.3", ",203.0.113.9,,"])
async def test_an_empty_entry_names_nobody(stage: Stage, chain: str) -> None:
    """RFC 9110 section 5.6.1.2: empty elements of a list are ignored; nginx does so too."""
    _, client, origin = await stage.served(
        frontend={"trusted_proxies": ["127.0.0.1", "10.0.0.0/8"]}
    )
    await client.ask("/", f"X-Forwarded-For: {chain}")
    assert origin.requests[0].get("X-Real-IP") == "203.0.113.9"


# Request ids and loops.


async def test_a_request_gets_an_id_of_its_own(stage: Stage) -> None:
    _, client, origin = await stage.served()
    for _ in range(3):
        await client.ask()
    ids = [message.get("X-Request-ID") or "" for message in origin.requests]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    assert len(set(ids)) == 3


async def test_a_request_id_is_kept(stage: Stage) -> None:
    assert (await forwarded(stage, "x-request-id: mine-1")).get("X-Request-ID") == "mine-1"


async def test_two_balancers_in_a_row_are_no_loop(stage: Stage) -> None:
    origin = await stage.serving()
    inner = await stage.balancer(origin)
    outer = await stage.balancer(int(inner.url.rsplit(":", 1)[1]))
    client = await stage.client(outer)
    assert (await client.ask()).status == 200
    assert (origin.requests[0].get("Via") or "").count("hermes-lb") == 2
    await outer.stop()  # first: it is a client of the other one


# Routes.


async def test_the_first_route_that_matches_wins(stage: Stage) -> None:
    def servers(name: str, port: int) -> dict[str, object]:
        return {"servers": [{"name": name, "address": f"127.0.0.1:{port}"}]}

    names = ["host", "wild", "exact", "prefix"]
    origins = {name: await stage.serving(answers(name.encode())) for name in names}
    _, client, _ = await stage.served(
        answers(b"default"),
        frontend={
            "routes": [
                {"host": "one.example", "backend": "host"},
                {"host": "*.example", "path_prefix": "/w/", "backend": "wild"},
                {"path": "/exact", "backend": "exact"},
                {"path_prefix": "/p", "backend": "prefix"},
                {"host": "dotted.test.", "backend": "exact"},
            ]
        },
        backends={name: servers(name, origin.port) for name, origin in origins.items()},
    )
    for host, target, expected in [
        ("one.example", "/w/", b"host"),
        ("ONE.Example:8080", "/", b"host"),
        ("one.example.:80", "/", b"host"),  # a whole name may end with a dot
        ("two.example.", "/w/x", b"wild"),
        ("dotted.test", "/", b"exact"),
        ("dotted.test.", "/", b"exact"),
        ("two.example", "/w/x", b"wild"),
        ("example", "/w/x", b"default"),
        ("other", "/exact?q=1", b"exact"),
        ("other", "/exactly", b"default"),
        ("other", "/path", b"prefix"),
        ("other", "/", b"default"),
    ]:
        answer = await client.ask(target, f"Host: {host}")
        assert (host, target, answer.body) == (host, target, expected)


async def test_no_route_is_404(stage: Stage) -> None:
    lb = await stage.start(
        {
            "frontends": [
                {
                    "name": "public",
                    "bind": "127.0.0.1:0",
                    "routes": [{"path_prefix": "/api/", "backend": "agents"}],
                }
            ],
            "backends": {
                "agents": {"servers": [{"name": "a", "address": f"127.0.0.1:{stage.nobody()}"}]}
            },
        }
    )
    client = await stage.client(lb)
    assert (await client.ask("/other")).status == 404
    line = await stage.log_line(lb)
    assert (line.status, line.termination, line.backend) == (404, "PR", "public")


async def test_a_route_may_stay_out_of_the_log(stage: Stage) -> None:
    lb = await stage.balancer(
        await stage.serving(),
        frontend={"routes": [{"path": "/health", "backend": "agents", "access_log": False}]},
    )
    stage.unlogged = 1
    client = await stage.client(lb)
    for target in ("/health", "/page"):
        assert (await client.ask(target)).status == 200
    assert (await stage.log_line(lb)).request == f"GET /page {stage.protocol}"
