"""The affinity cookie in its other modes, through the balancer; HAProxy's letters in the log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.affinity import dates
from tests.support.loops import on_both_loops
from tests.support.origin import Origin, answers

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage


async def balancer(
    stage: Stage, *fields: str, **affinity: Any
) -> tuple[LoadBalancer, list[Origin]]:
    origins = [await stage.serving(answers(b"%d" % n, *fields)) for n in (1, 2)]
    return await stage.balancer(
        *origins, backend={"affinity": {"cookie": "S", **affinity}}
    ), origins


async def test_rewrite_puts_the_servers_name_into_the_servers_cookie(stage: Stage) -> None:
    lb, origins = await balancer(stage, "Set-Cookie: S=own; Path=/", mode="rewrite")
    assert (await stage.ask(lb)).get("Set-Cookie") == "S=agent1; Path=/"
    answer = await stage.ask(lb, "Cookie: a=b; S=agent2")
    assert answer.body == b"2"
    assert origins[1].requests[0].get("Cookie") == "a=b; S=agent2"
    assert [line.cookies for line in await stage.logged(lb, 2)] == ["NR", "VR"]


async def test_prefix_hides_the_servers_name_from_the_servers(stage: Stage) -> None:
    lb, origins = await balancer(stage, "Set-Cookie: S=own; HttpOnly", mode="prefix")
    assert (await stage.ask(lb)).get("Set-Cookie") == "S=agent1~own; HttpOnly"
    answer = await stage.ask(lb, "Cookie: S=agent2~own; a=b")
    assert answer.body == b"2"
    assert origins[1].requests[0].get("Cookie") == "S=own; a=b"


@pytest.mark.parametrize("mode", ["rewrite", "prefix"])
async def test_a_server_that_sets_no_cookie_gets_none(stage: Stage, mode: str) -> None:
    lb, _ = await balancer(stage, mode=mode)
    assert (await stage.ask(lb)).get("Set-Cookie") is None


async def test_a_cookie_lives_from_its_last_use(stage: Stage) -> None:
    lb, _ = await balancer(stage, max_idle="10m", max_life="1h")
    fresh = (await stage.ask(lb)).get("Set-Cookie")
    assert fresh is not None
    assert fresh.startswith("S=agent1|")
    now = int(time.time())

    def cookie(idle: int, life: int) -> str:
        value = b"agent2|%b|%b" % (dates.to_text(now - idle), dates.to_text(now - life))
        return f"Cookie: S={value.decode()}"

    kept = await stage.ask(lb, cookie(300, 300))
    assert kept.body == b"2"
    assert (kept.get("Set-Cookie") or "").startswith("S=agent2|")
    await stage.ask(lb, cookie(700, 800))
    await stage.ask(lb, cookie(10, 3700))
    letters = [line.cookies for line in await stage.logged(lb, 4)]
    assert letters == ["NI", "VU", "EI", "OI"]


async def test_keyed_values_name_no_server_to_those_without_the_key(stage: Stage) -> None:
    one, origins = await balancer(stage, secret="between us")
    ports = [origin.port for origin in origins]
    two = await stage.balancer(
        *ports, backend={"affinity": {"cookie": "S", "secret": "between us"}}
    )
    told = (await stage.ask(one)).get("Set-Cookie")
    assert told is not None
    value = told.removeprefix("S=").partition(";")[0]
    assert "agent" not in value
    for lb in (one, two, one, two):
        answer = await stage.ask(lb, f"Cookie: S={value}")
        assert (answer.body, answer.get("Set-Cookie")) == (b"1", None)
    # Made up by a client: it is as good as none.
    bodies = {(await stage.ask(one, "Cookie: S=agent2")).body for _ in range(4)}
    assert bodies == {b"1", b"2"}


@pytest.mark.parametrize("mode", ["insert", "rewrite", "prefix"])
@on_both_loops
async def test_no_cookie_names_a_server_that_is_gone(stage: Stage, mode: str) -> None:
    affinity: dict[str, Any] = {"cookie": "S", "mode": mode}
    lb, client, at_origin = await stage.asked(backend={"affinity": affinity})
    other = await stage.serving()
    server = {"name": "other", "address": f"127.0.0.1:{other.port}"}
    config = lb.config.model_dump(mode="json", exclude_defaults=True)
    config["backends"] = {"agents": {"servers": [server], "affinity": affinity}}
    await lb.reconfigure(config)
    await at_origin.respond(b"last", "Set-Cookie: S=own")
    answer = await client.read_response()
    assert (answer.body, answer.get("Set-Cookie")) == (b"last", "S=own")
    assert (await client.ask()).body == b"ok"
