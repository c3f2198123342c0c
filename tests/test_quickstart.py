"""`hermes-lb proxy ADDRESS...`: its configuration, its errors, and a balancer that runs by it."""

from __future__ import annotations

import signal
from tomllib import loads
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from hermes_lb.cli import app
from hermes_lb.config import Config, load_config
from hermes_lb.quickstart import Wanted, configuration, introduction
from hermes_lb.testing import Server
from tests.support.balancer_process import hermes_lb, until_it_listens

if TYPE_CHECKING:
    from tests.support.stage import Stage


def configured(*servers: str, **wanted: object) -> Config:
    return load_config(loads(configuration(Wanted(servers, **wanted))))  # type: ignore[arg-type]


def proxy(*words: str) -> Result:
    return CliRunner().invoke(app, ("proxy", *words), prog_name="hermes-lb")


@pytest.mark.parametrize(
    ("given", "address", "name"),
    [
        ("8000", "127.0.0.1:8000", "127.0.0.1-8000"),
        (":8000", "127.0.0.1:8000", "127.0.0.1-8000"),
        ("localhost:8000", "localhost:8000", "localhost-8000"),
        ("http://agents.internal", "agents.internal:80", "agents.internal-80"),
        ("http://10.0.0.1:81/", "10.0.0.1:81", "10.0.0.1-81"),
        ("https://agents.internal", "agents.internal:443", "agents.internal-443"),
        ("[::1]:8000", "[::1]:8000", "1-8000"),
        ("unix:/run/agents/a.sock", "unix:/run/agents/a.sock", "unix-run-agents-a.sock"),
    ],
)
def test_an_address_becomes_a_server(given: str, address: str, name: str) -> None:
    config = configured(given)
    [server] = config.backends["servers"].servers
    assert (str(server.address), server.name) == (address, name)
    assert (config.backends["servers"].tls is not None) == given.startswith("https://")


def test_each_server_has_a_name_of_its_own() -> None:
    config = configured("unix:/run/a.sock", "unix:/run/a,sock", f"unix:/{'a' * 90}", "a.b:1")
    names = [server.name for server in config.backends["servers"].servers]
    assert names == ["unix-run-a.sock", "unix-run-a-sock", "a" * 60, "a.b-1"]
    names = [one.name for one in configured("unix:/a,b", "unix:/a;b").backends["servers"].servers]
    assert names == ["unix-a-b", "unix-a-b-2"]


def test_what_is_not_said_has_a_default_that_fits_most() -> None:
    config = configured("8000", "8001")
    backend = config.backends["servers"]
    assert (backend.balance, backend.affinity.cookie) == ("leastconn", "SERVERID")
    assert backend.health.probe == "tcp"
    assert [str(bind) for bind in config.frontends[0].bind] == ["127.0.0.1:8080"]
    assert str(config.admin.bind) == "127.0.0.1:9900"
    assert config.frontends[0].routes == []


def test_each_option_is_in_the_configuration() -> None:
    config = configured(
        "8000", host="::", port=80, balance="p2c", cookie=None, health="/up", admin_port=None,
        turns=True,
    )  # fmt: skip
    backend = config.backends["servers"]
    assert (backend.balance, backend.affinity, backend.health.path) == ("p2c", None, "/up")
    assert [str(bind) for bind in config.frontends[0].bind] == ["[::]:80"]
    assert not config.admin.enabled
    [route] = config.frontends[0].routes
    assert route.backend == "servers"
    assert route.turns.principal == ["header:Authorization", "client"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["agents.internal"], "'agents.internal' is no address of a server: write \"host:port\""),
        (["http://a/path"], "'http://a/path' is no address of a server"),
        (["8000", ":8000"], "127.0.0.1:8000 is given twice"),
        (["https://a", "b:80"], "give only https://, or none"),
        (["8000", "--balance", "leastcon"], "there is no strategy 'leastcon'"),
        (["8000", "--health", "up"], 'backends.servers.health.path: "up" is not allowed'),
        (["8000", "--health", "/up ${HOME}"], '"/up $${HOME}" is not allowed'),
        (["8000", "--cookie", "a b"], "backends.servers.affinity.cookie"),
        (["8000", "--host", "a b"], "frontends[0].bind"),
        (["0"], "a server needs a port from 1 to 65535"),
    ],
)
def test_what_cannot_be_used_is_one_line(words: list[str], said: str) -> None:
    result = proxy(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_configuration_that_is_printed_is_the_one_that_runs() -> None:
    result = proxy("8000", "--print-config", "--turns")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == configuration(Wanted(["8000"], turns=True))


def test_the_introduction_says_what_runs_where() -> None:
    wanted = Wanted(["8000", "b:1"], host="0.0.0.0", cookie=None, health="/up", admin_port=None)
    assert introduction(wanted) == [
        "http://127.0.0.1:8080/ -> 8000, b:1",
        "  leastconn, health checks by GET /up",
        "  a request: curl -i http://127.0.0.1:8080/",
        "  to keep this as a file: the same command with --print-config > lb.toml",
    ]
    lines = introduction(Wanted(["8000"], turns=True))
    assert "  dashboard: http://127.0.0.1:9900/" in lines
    assert "  a turn:    curl -N http://127.0.0.1:8080/ -H 'Idempotency-Key: 1' -d '{}'" in lines


@pytest.mark.slow
async def test_it_serves_reloads_and_is_upgraded_without_a_file(stage: Stage) -> None:
    async with (
        Server("agent") as server,
        hermes_lb("proxy", server.address, "--port", "0", "--admin-port", "0") as running,
    ):
        await until_it_listens(running)
        client = await stage.client(running.url)
        assert (await client.ask()).status == 200
        running.signal(signal.SIGHUP)
        await running.says("reloaded: no change")
        running.signal(signal.SIGUSR2)
        await running.says("upgraded: all processes run the new code")
        client = await stage.client(running.url)
        assert (await client.ask()).status == 200
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
    assert running.said.count("a request: curl") == 1
