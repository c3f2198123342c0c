"""A strategy of one's own whose file changes, in a running balancer in this process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb import ConfigError
from hermes_lb.config import Config, load_config
from hermes_lb.config.runtime import RuntimeServers, checked
from tests.support.stage import pool_of
from tests.support.strategy_file import BAD, BAD_IDS, FIRST, LEARNS, SECOND, StrategyFile, picking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage


@pytest.fixture
def mine(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[StrategyFile]:
    monkeypatch.syspath_prepend(str(stage.folder))
    file = StrategyFile(stage.folder, f"strategy_of_test_{abs(hash(request.node.nodeid))}")
    yield file
    sys.modules.pop(file.module, None)


async def start(stage: Stage, mine: StrategyFile, text: str) -> LoadBalancer:
    return await stage.balancer(*await stage.agents(2), backend={"balance": mine.write(text)})


async def reload(lb: LoadBalancer, **other: Any) -> list[str]:
    return await lb.reconfigure({**lb.config.model_dump(mode="json"), **other})


async def answers(stage: Stage, lb: LoadBalancer) -> list[str]:
    return [(await stage.ask(lb)).body.decode() for _ in range(3)]


async def test_another_text_takes_over_for_new_requests(stage: Stage, mine: StrategyFile) -> None:
    lb = await start(stage, mine, FIRST)
    for text, picked in ((SECOND, "agent2"), (FIRST, "agent1"), (SECOND, "agent2")):
        mine.write(text)
        said = f"backends.agents.balance: the module {mine.module} has changed"
        assert await reload(lb) == [said]
        assert await answers(stage, lb) == [picked] * 3


@pytest.mark.parametrize("text", BAD, ids=BAD_IDS)
async def test_a_text_that_is_refused_leaves_the_old_one(
    stage: Stage, mine: StrategyFile, text: str | None
) -> None:
    lb = await start(stage, mine, LEARNS)
    assert await answers(stage, lb) == ["agent1", "agent2", "agent2"]
    mine.write(text)
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            await reload(lb)
        (line,) = str(caught.value).splitlines()
        assert mine.refusal(text) in line
        assert await answers(stage, lb) == ["agent2"] * 3
    mine.write(LEARNS)
    assert await reload(lb) == []
    assert await answers(stage, lb) == ["agent2"] * 3
    assert pool_of(lb).unserved.strategy_failures == 0


async def test_a_configuration_keeps_what_it_was_loaded_with(
    stage: Stage, mine: StrategyFile
) -> None:
    lb = await start(stage, mine, FIRST)
    mine.write(SECOND)
    new = load_config(lb.config.model_dump(mode="json"))
    mine.write(FIRST)
    assert load_config(lb.config.model_dump(mode="json")) == lb.config != new
    await lb.reconfigure(new)
    assert await answers(stage, lb) == ["agent2"] * 3


async def test_a_good_text_waits_if_the_reload_is_refused_for_another_reason(
    stage: Stage, mine: StrategyFile
) -> None:
    lb = await start(stage, mine, FIRST)
    mine.write(SECOND)
    with pytest.raises(ConfigError, match="process"):
        await reload(lb, process={"workers": 7})
    await lb.change_servers(lambda servers: servers)
    assert await answers(stage, lb) == ["agent1"] * 3
    await reload(lb)
    assert await answers(stage, lb) == ["agent2"] * 3


@pytest.mark.parametrize("other", [{}, {"timeouts": {"connect": "3s"}}], ids=["", "timeouts"])
async def test_the_same_text_keeps_what_the_strategy_has_learnt(
    stage: Stage, mine: StrategyFile, other: dict[str, Any]
) -> None:
    lb = await start(stage, mine, LEARNS)
    assert await answers(stage, lb) == ["agent1", "agent2", "agent2"]
    mine.write(LEARNS)
    assert len(await reload(lb, **other)) == len(other)
    assert await answers(stage, lb) == ["agent2"] * 3


def _with_a_server(config: Config) -> Config:
    servers = RuntimeServers().with_removed("agents", "b")
    return config.model_copy(update={"backends": checked(config, servers, config.backends)})


def _with_another_secret(config: Config) -> Config:
    affinity = config.backends["agents"].affinity
    assert affinity is not None
    assert affinity.secret_file is not None
    with open(affinity.secret_file, "w") as file:
        file.write("another")
    return load_config(config)


# What makes another configuration of one that was loaded, and reads no file of a strategy.
AGAIN: dict[str, Callable[[Config], Config]] = {
    "an operator's server": _with_a_server,
    "a secret": _with_another_secret,
    "another process": lambda config: Config.restored(config.state()),
}


def test_what_was_checked_is_not_checked_again(stage: Stage, mine: StrategyFile) -> None:
    """A process may not stand still for it at each reload."""
    mine.write(picking("1 / 0"))
    servers = [{"name": "a", "address": "127.0.0.1:1"}]
    state = {
        "config": {
            "frontends": [{"name": "public", "bind": "127.0.0.1:0", "default_backend": "agents"}],
            "backends": {"agents": {"balance": mine.name, "servers": servers}},
        }
    }
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        Config.restored(state)  # of older code
    assert Config.restored({**state, "strategy_modules": {mine.module: mine.path.read_text()}})


@pytest.mark.parametrize("text", [SECOND, *BAD], ids=["good", *BAD_IDS])
@pytest.mark.parametrize("again", AGAIN)
def test_what_was_loaded_is_kept_whatever_the_file_is(
    stage: Stage, mine: StrategyFile, again: str, text: str | None
) -> None:
    (stage.folder / "secret").write_text("secret")
    config = load_config(
        {
            "frontends": [{"name": "public", "bind": "127.0.0.1:0", "default_backend": "agents"}],
            "backends": {
                "agents": {
                    "balance": mine.write(FIRST),
                    "affinity": {"cookie": "ID", "secret_file": str(stage.folder / "secret")},
                    "servers": [
                        {"name": "a", "address": "127.0.0.1:1"},
                        {"name": "b", "address": "127.0.0.1:2"},
                    ],
                }
            },
        }
    )
    mine.write(text)
    made = AGAIN[again](config)
    assert made is not config
    assert made.strategy_modules == {mine.module: FIRST}
    assert made.backends["agents"].has_strategy_of(config.backends["agents"])
