"""The example package of docs/: installed as a user would, in production and the laboratory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs/examples/my_strategy"

# By the name of its entry point, and by its module and class.
USE = """
import asyncio, json
import aiohttp
from hermes_lb import LoadBalancer
from hermes_lb.balancing import plugins
from hermes_lb.config import ConfigError, load_config
from hermes_lb.config.editor_schema import editor_schema
from hermes_lb.shipped import path_of
from hermes_lb.testing import Server, config_for

NAMES = ("fewest_queued", "python:my_strategy:FewestQueued")

def refused(**backend):
    try:
        load_config(config_for("127.0.0.1:9", **backend))
    except ConfigError as error:
        return str(error)

async def served(balance):
    async with Server("s0") as s0, Server("s1") as s1:
        tables = config_for(s0, s1, balance=balance, strategy={"choices": 1})
        async with LoadBalancer(tables) as lb, aiohttp.ClientSession() as client:
            return sorted({await (await client.get(lb.url)).text() for _ in range(40)})

schema = editor_schema(path_of("reference.toml").read_text())
print(json.dumps({
    "installed": plugins.installed(),
    "served": [asyncio.run(served(name)) for name in NAMES],
    "near": refused(balance="fewest_qeued"),
    "choices": refused(balance="fewest_queued", strategy={"choices": 0}),
    "schema": "fewest_queued" in json.dumps(schema["$defs"]["Backend"]["properties"]["balance"]),
}))
"""


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(folder / "site"), str(ROOT)))},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.slow
def test_the_example_is_installed_and_picks(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "source")
    install = (
        "-m pip install --quiet --no-deps --no-build-isolation --no-index --target site ./source"
    )
    run(tmp_path, *install.split())
    seen = json.loads(run(tmp_path, "-c", USE))
    assert seen["installed"] == {"fewest_queued": "my_strategy:FewestQueued"}
    assert seen["served"] == [["s0", "s1"]] * 2
    assert 'did you mean "fewest_queued"?' in seen["near"]
    assert seen["choices"].startswith("backends.servers.strategy.choices: 0 is ")
    assert seen["schema"]
    lab = "-m hermes_lb lab -s fewest_queued -s p2c --scenario turns --requests 300 --servers 3"
    assert "fewest_queued" in run(tmp_path, *lab.split(), "--output", "lab")
