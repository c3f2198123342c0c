"""The Compose file: valid, and its commands run as processes on this machine instead of Docker."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import yaml

from hermes_lb.config import load_config
from tests.deploy.environment import DEPLOY, PROGRAMS, needs_environment
from tests.support.balancer_process import hermes_lb
from tests.support.programs import free_port, is_ready, program
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

FILE = DEPLOY / "compose.yaml"
SERVICES: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]
WORKERS = [name for name in SERVICES if name.startswith("worker")]
BALANCERS = [name for name in SERVICES if name.startswith("balancer")]
# Of the request that the file shows.
[EXAMPLE] = re.findall(r"-d '(.*)'", FILE.read_text())
TOKEN = "a-token-for-this-test-only"

_CHECK = """
import sys, yaml
from compose_spec import PyCompose
PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(sys.stdin.read()))).validate()
"""


def _checked(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAMS / "python", "-c", _CHECK],
        input=text, capture_output=True, text=True, check=False, timeout=55,
    )  # fmt: skip


@needs_environment
def test_it_fits_the_specification() -> None:
    done = _checked(FILE.read_text())
    assert done.returncode == 0, done.stderr


@needs_environment
def test_a_misspelt_key_would_be_noticed() -> None:
    assert _checked(FILE.read_text().replace("read_only:", "readonly:")).returncode != 0


def test_it_has_two_balancers_and_three_workers_that_can_do_little() -> None:
    assert (len(BALANCERS), len(WORKERS)) == (2, 3)
    for name in (*BALANCERS, *WORKERS):
        service = SERVICES[name]
        assert service["read_only"] is True
        assert (service["tmpfs"], service["cap_drop"]) == (["/tmp"], ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
    for name in BALANCERS:  # dashboards are for this machine
        assert [port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"]] == [False, True]


def test_its_times_fit_together() -> None:
    config = load_config(DEPLOY / "compose/lb.toml")
    programs = (*BALANCERS, *WORKERS)
    stop = {name: int(SERVICES[name]["stop_grace_period"].rstrip("s")) for name in programs}
    for name in BALANCERS:
        assert stop[name] > config.process.drain_timeout
    for name in WORKERS:
        command = SERVICES[name]["command"]
        assert command[command.index("--drain-timeout") + 1] == "5m"
        assert stop[name] > 300
    addresses = [str(server.address) for server in config.backends["agents"].servers]
    assert addresses == [f"{name}:8000" for name in WORKERS]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_its_commands_serve(tmp_path: Path, store_url: str) -> None:
    """With ports of this machine where containers have names."""
    ports = {name: free_port() for name in WORKERS}
    (tmp_path / "admin-token").write_text(TOKEN)
    text = (DEPLOY / "compose/lb.toml").read_text()
    text = re.sub(r"redis://redis:6379/\d", store_url, text)
    text = text.replace("/run/secrets", str(tmp_path)).replace("0.0.0.0:9900", "127.0.0.1:0")
    text = text.replace("0.0.0.0:8080", "127.0.0.1:0")
    for name, port in ports.items():
        text = text.replace(f'"{name}:8000"', f'"127.0.0.1:{port}"')
    config = tmp_path / "lb.toml"
    config.write_text(text)
    async with AsyncExitStack() as running, aiohttp.ClientSession() as http:
        for name, port in ports.items():
            words = [str(port) if word == "8000" else word for word in SERVICES[name]["command"]]
            words = ["127.0.0.1" if word == "0.0.0.0" else word for word in words]
            assert words[0] == "agent-worker"
            await running.enter_async_context(
                program(
                    sys.executable, "-m", "agent_worker", *words[1:],
                    log=tmp_path / f"{name}.log",
                    environment={"HERMES_REDIS_URL": store_url, "HOME": str(tmp_path)},
                )
            )  # fmt: skip
        admins, publics = [], []
        for name in BALANCERS:
            words = SERVICES[name]["command"]
            assert words[:2] == ["hermes-lb", "--config"]
            balancer = await running.enter_async_context(hermes_lb("--config", str(config)))
            publics.append((await balancer.says(r"listening on (http://\S+)"))[1])
            admins.append((await balancer.says(r"admin on (http://\S+)"))[1])

        async def are_up(admin: str) -> bool:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with http.get(f"{admin}/api/v1/scaling/agents", headers=headers) as answer:
                found = await answer.json()
                return bool(found["available"] == found["servers"] == 3)

        for admin, public in zip(admins, publics, strict=True):
            assert await is_ready(http, f"{admin}/healthz")  # as the health check asks
            await until(lambda admin=admin: are_up(admin))
            asked = json.loads(EXAMPLE)
            async with http.post(f"{public}/v1/chat/completions", json=asked) as answer:
                said = await answer.text()
                assert (answer.status, said.strip()[-6:]) == (200, "[DONE]"), said
        checks = {
            name: SERVICES[name]["healthcheck"]["test"] for name in (BALANCERS[0], WORKERS[0])
        }
        for name, (_, *check) in checks.items():
            url = admins[0] if name in BALANCERS else f"http://127.0.0.1:{ports[name]}"
            code = re.sub(r"http://127.0.0.1:\d+", url, check[-1])
            checked = await asyncio.create_subprocess_exec(sys.executable, *check[1:-1], code)
            assert await checked.wait() == 0, name
