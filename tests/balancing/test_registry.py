"""A strategy is one file and one entry of the registry: everything else is derived from these."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hermes_lb.balancing import STRATEGIES
from tests.support.source_copy import copy_packages, run_in

ROOT = Path(__file__).parents[2]
PAGE, _, _ = (ROOT / "docs/strategies.md").read_text().partition("\n## ")

LAST = '''
from hermes_lb.balancing.base import NO_OPTIONS, Strategy, StrategyOptions
from hermes_lb.balancing.explanation import Explanation


class Options(StrategyOptions):
    skip: int = 0


class Last(Strategy):
    """The last server of the configuration that can take the request, but for `skip`."""

    options = Options
    rule = "the last one"

    def __init__(self, options=Options()):
        self._place = -1 - options.skip

    def pick(self, pool, request, now, rng):
        candidates = pool.candidates(request.tried, now)
        return candidates[self._place] if candidates else None

    def explain(self, view):
        return lambda picked: Explanation([(picked, ", the last")], "is the last")
'''

# Configuration, production and laboratory with it.
USE = """
import asyncio, json
import aiohttp
from hermes_lb import LoadBalancer
from hermes_lb.balancing import STRATEGIES
from hermes_lb.config import ConfigError, load_config
from hermes_lb.lab.experiment import Experiment
from hermes_lb.testing import Server, config_for

def refused(**backend):
    try:
        load_config(config_for("127.0.0.1:9", **backend))
    except ConfigError as error:
        return str(error)

async def served_by():
    async with Server("s0") as s0, Server("s1") as s1, Server("s2") as s2:
        tables = config_for(s0, s1, s2, balance="last", strategy={"skip": 1})
        async with LoadBalancer(tables) as lb, aiohttp.ClientSession() as client:
            return await (await client.get(lb.url)).text()

result = Experiment(["last"], 3, 50, why=1).scenario("turns")
print(json.dumps({
    "strategies": {name: sorted(one.options.model_fields) for name, one in STRATEGIES.items()},
    "foreign": refused(balance="last", strategy={"tau": 1}),
    "owner": refused(balance="p2c", strategy={"skip": 1}),
    "served_by": asyncio.run(served_by()),
    "why": result["why"]["last"],
    "shares": result["strategies"]["last"]["shares"],
}))
"""


def documented(page: str) -> dict[str, list[str]]:
    """The options of each strategy, by the table at the top of docs/strategies.md."""
    rows = re.findall(r"^\| `(?!balance)(\w+)` \| [^|]+ \| ([^|]*)\|", page, re.MULTILINE)
    return {name: sorted(re.findall(r"`(\w+)`", options)) for name, options in rows}


def test_the_page_has_a_row_for_each_strategy_with_its_options() -> None:
    options = {name: sorted(one.options.model_fields) for name, one in STRATEGIES.items()}
    assert documented(PAGE) == options


def test_every_strategy_has_a_rule() -> None:
    assert all(one.rule for one in STRATEGIES.values())


@pytest.mark.slow
def test_a_new_strategy_is_a_file_and_an_entry_of_the_registry(tmp_path: Path) -> None:
    copy_packages(tmp_path, "hermes_lb")
    balancing = tmp_path / "hermes_lb/balancing"
    (balancing / "last.py").write_text(LAST)
    registry = balancing / "registry.py"
    text = registry.read_text().replace('": FairQueue,\n', '": FairQueue,\n    "last": Last,\n')
    registry.write_text(
        text.replace("\nif TYPE", "from hermes_lb.balancing.last import Last\n\nif TYPE")
    )

    seen = json.loads(run_in(tmp_path, USE))
    assert seen["served_by"] == "s1"
    assert seen["shares"][2] > 0.9
    assert (seen["why"][0], seen["why"][-1]) == ("the last one", "picked: s2")
    assert seen["foreign"] == (
        'backends.servers.strategy.tau: not an option of "last"; '
        'it belongs to balance = "peak_ewma", "prequal", "least_load" or "selective_push"'
    )
    assert seen["owner"] == (
        'backends.servers.strategy.skip: not an option of "p2c"; it belongs to balance = "last"'
    )
    row = "| `last` | the order of the configuration | `skip` | no |\n"
    assert documented(PAGE) != seen["strategies"]
    assert documented(row + PAGE) == seen["strategies"]
