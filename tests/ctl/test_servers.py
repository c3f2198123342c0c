"""`hermes-lb ctl`: several servers a call, patterns, filters; commands of the runtime API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from hermes_lb.affinity.stores.registry import TableOptions
from hermes_lb.control.operator import KeptPin
from tests.ctl.test_commands import client, ctl, lines
from tests.support.operator import FakeOperator, admin_listener, agents, session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.operator import Client

__all__ = ["client"]


@pytest.fixture
async def fleet() -> AsyncIterator[Client]:
    """Two backends with the same names of servers."""
    async with admin_listener(FakeOperator(agents("agents"), agents("web"))) as running:
        yield running


def admins(client: Client) -> list[str]:
    pools = client.operator.pools.values()
    return [server.admin for pool in pools for server in pool.servers]


@pytest.mark.parametrize(
    ("names", "drained"),
    [
        (["agents/agent1", "web/agent2"], [0, 3]),
        (["agents/*"], [0, 1]),
        (["agent1*"], [0, 2]),
        (["*/agent[12]"], [0, 1, 2, 3]),
        (["agents/*", "agents/agent1"], [0, 1]),  # each once
    ],
)
async def test_names_and_patterns(fleet: Client, names: list[str], drained: list[int]) -> None:
    shown = lines(await ctl("drain", *names, url=fleet.url))
    assert len(shown) == len(drained)
    assert [place for place, admin in enumerate(admins(fleet)) if admin == "drain"] == drained


@pytest.mark.parametrize("names", [["agents/x*"], ["agents/agent1", "nobody"], ["agent1"]])
async def test_a_name_that_means_none_or_several_changes_nothing(
    fleet: Client, names: list[str]
) -> None:
    assert (await ctl("maint", *names, url=fleet.url)).exit_code == 1
    assert admins(fleet) == ["ready"] * 4


async def test_one_that_fails_does_not_keep_the_others(fleet: Client) -> None:
    fleet.operator.server("agent1").set_admin("maint")
    result = await ctl("health", "agents/*", "down", url=fleet.url)
    assert result.exit_code == 1
    assert "agents/agent1: agents/agent1 is in maintenance" in result.stderr
    assert fleet.operator.forced == {"agent2": False}


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--backend", "w*"], ["web/agent1", "web/agent2"]),
        (["--state", "drain,down"], ["agents/agent2"]),
        (["agent2"], []),  # ambiguous
        (["*/agent2", "--sort", "state"], ["agents/agent2", "web/agent2"]),
        (["--sort", "requests", "--backend", "web"], ["web/agent2", "web/agent1"]),
        (["--sort", "weight", "--backend", "web", "--full"], ["web/agent1", "web/agent2"]),
    ],
)
async def test_lists_are_filtered_and_sorted(
    fleet: Client, words: list[str], shown: list[str]
) -> None:
    fleet.operator.pools["agents"].servers[1].set_admin("drain")
    fleet.operator.pools["web"].servers[1].counters.responses[2] = 9
    result = await ctl("servers", *words, url=fleet.url)
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == shown
    assert (result.exit_code == 0) is bool(shown)


@pytest.mark.parametrize(
    "words",
    [
        ["servers", "--sort", "luck"],
        ["servers", "--state", "up,fine"],
        ["sessions", "--kill", "--server", "agent1", "--watch", "1"],
        ["add", "agents", "127.0.0.1:1"],
        ["add", "agents/x", "127.0.0.1:1", "--option", "weight"],
        ["set", "agent1"],
        ["health", "agent1", "fine"],
        ["pins", "clear"],
        ["pins", "clear", "--all", "--backend", "agents"],
    ],
)
async def test_a_wrong_command_line_is_a_2(client: Client, words: list[str]) -> None:
    assert (await ctl(*words, url=client.url)).exit_code == 2
    assert client.operator.running == []


async def test_servers_are_added_changed_and_removed(client: Client) -> None:
    words = ["agents/new", "127.0.0.1:9", "--max-connections", "0", "--option", "max_fails=2"]
    assert lines(await ctl("add", *words, url=client.url)) == ["agents/new is up, weight 1"]
    new = client.operator.server("new")
    assert (new.max_connections, new.config.max_fails) == (0, 2)
    words = ["set", "new", "--max-connections", "4", "--fail-timeout", "5s"]
    assert lines(await ctl(*words, url=client.url)) == ["agents/new is up, weight 1"]
    new = client.operator.server("new")
    assert (new.max_connections, new.config.fail_timeout) == (4, 5.0)
    assert lines(await ctl("remove", "new", url=client.url)) == ["agents/new: removed"]
    assert [s.name for s in client.operator.pools["agents"].servers] == ["agent1", "agent2"]


async def test_single_sessions_are_cut(client: Client) -> None:
    client.operator.running = [session(id="0-a-1"), session(id="0-b-1")]
    assert lines(await ctl("kill", "0-a-1", url=client.url)) == ["0-a-1: ended"]
    result = await ctl("kill", "0-a-1", url=client.url)
    assert (result.exit_code, "no such session" in result.stderr) == (1, True)
    assert [one["id"] for one in client.operator.running] == ["0-b-1"]


async def test_pins_are_listed_and_cleared(client: Client) -> None:
    client.operator.kept_pins = [KeptPin("01", "agents", "agent1"), KeptPin("02", "agents", "b")]
    shown = lines(await ctl("pins", "list", "--limit", "1", url=client.url))
    assert shown[1:] == ["01 agents/agent1", "and 1 more: --limit N shows them"]
    words = ["pins", "clear", "--server", "b"]
    assert lines(await ctl(*words, url=client.url)) == ["1 pins cleared"]
    assert lines(await ctl("pins", "clear", "--all", url=client.url)) == ["1 pins cleared"]
    assert client.operator.kept_pins == []


async def test_pins_of_a_store_that_is_away_are_an_error_and_the_others_are_cleared(
    client: Client,
) -> None:
    operator = client.operator
    [backend] = operator.config.backends.values()
    away = backend.model_copy(update={"pins": TableOptions(redis="unix:///nonexistent")})
    backends = {"agents": away, "web": backend}
    operator.config = operator.config.model_copy(update={"backends": backends})
    operator.kept_pins = [KeptPin("01", "agents", "agent1"), KeptPin("02", "web", "agent1")]
    shown = lines(await ctl("pins", "list", url=client.url))
    assert shown[-1].startswith("agents: not all that its store has: ")
    result = await ctl("pins", "clear", "--all", url=client.url)
    message, problem = result.stderr.splitlines()
    assert (result.exit_code, message) == (
        1, "hermes-lb: not all pins are cleared, but 1; what is left stays in use",
    )  # fmt: skip
    assert problem.startswith("  agents: 0 of those in its store, then: ")
    assert operator.kept_pins == [KeptPin("01", "agents", "agent1")]


async def test_what_has_happened_is_harmless_and_has_its_cause(client: Client) -> None:
    operator = client.operator
    operator.abort(request="GET /\x1b[2J HTTP/1.1")
    operator.frontend.refuse(429, "too many requests of one client")
    operator.server("agent1").failed(operator.now(), "connection \x1b[2Jrefused")
    await ctl("drain", "agent2", url=client.url)
    said = [await ctl(name, url=client.url) for name in ("aborts", "changes", "errors")]
    assert all("\x1b" not in one.stdout for one in said)
    aborts, changes, errors = map(lines, said)
    assert "SD--" in aborts[1]
    assert "agents/agent1" in aborts[1]
    assert "agents/agent2 drain set to drain" in changes[1]
    assert "frontend public 429 1 too many requests of one client" in errors
    assert "agents/agent1 - 1 connection ?[2Jrefused" in errors
    assert len(lines(await ctl("aborts", "--backend", "none", url=client.url))) == 1


async def test_names_that_are_looked_up(client: Client) -> None:
    client.operator.names = [
        {
            "backend": "agents", "server": "pod", "host": "pods.test", "interval": 10.0,
            "addresses": [], "is_failing": True, "failures": 3,
        }
    ]  # fmt: skip
    assert lines(await ctl("resolvers", url=client.url))[1:] == [
        "agents/pod pods.test failing 10s 3 -"
    ]


async def test_the_configuration_with_its_origins(client: Client) -> None:
    await ctl("set", "agent1", "--max-connections", "1", url=client.url)
    shown = lines(await ctl("config", "backends", "--json", url=client.url))
    assert len(json.loads("".join(shown))) > 10
    key = "backends.agents.servers.agent1.max_connections"
    assert f"{key} 1 runtime" in lines(await ctl("config", "--changed", url=client.url))


async def test_counters_are_cleared(client: Client) -> None:
    client.operator.server("agent1").counters.responses[2] = 5
    assert lines(await ctl("clear", url=client.url)) == ["cleared"]
    [agent1] = json.loads((await ctl("servers", "agent1", "--json", url=client.url)).stdout)
    assert agent1["counters"]["responses"]["2xx"] == 0


async def test_top_shows_problems_first(fleet: Client) -> None:
    fleet.operator.pools["web"].servers[1].set_up(False, "refused")
    shown = lines(await ctl("top", "--once", url=fleet.url))
    assert shown[1] == "problems: 1 down"
    assert [line.split()[0] for line in shown[3:]] == [
        "web", "agent2", "agent1", "agents", "agent1", "agent2",
    ]  # fmt: skip
    shown = lines(await ctl("top", "--once", "--backend", "agents", url=fleet.url))
    assert [line.split()[0] for line in shown[3:]] == ["agents", "agent1", "agent2"]


async def test_a_list_is_shown_again_and_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("hermes_lb.ctl.queries.time.sleep", sleep)
    shown = lines(await ctl("servers", "agent1", "--watch", "2", url=client.url))
    assert slept == [2.0, 2.0]
    assert [line.split()[0] for line in shown] == ["SERVER", "agents/agent1"] * 2
