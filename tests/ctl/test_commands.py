"""`hermes-lb ctl` against a real admin listener."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from typer.testing import CliRunner, Result

from hermes_lb.cli import app
from hermes_lb.config import Backend
from hermes_lb.control import guard
from hermes_lb.control.operator import NotPossible
from hermes_lb.ctl.client import _TAKES, AdminClient
from hermes_lb.ctl.errors import CtlError
from hermes_lb.observe.certificates import CertificateView
from hermes_lb.observe.observed import ProcessView
from hermes_lb.tasks import Tasks
from hermes_lb.testing import eventually
from hermes_lb.workers.upgrade import _CHECK_TAKES
from tests.control.test_api import broken
from tests.support.operator import TOKEN, Client, FakeOperator, admin_listener, agents, session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HERMES_LB_ADMIN_TOKEN", raising=False)
    monkeypatch.setattr(guard, "_PENALTY", 0.0)
    monkeypatch.setattr("hermes_lb.ctl.drain._EVERY", 0.01)
    monkeypatch.setattr("hermes_lb.ctl.upgrade._EVERY", 0.01)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with admin_listener() as running:
        yield running


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    running = Tasks()
    yield running
    await running.cancel_all()


async def ctl(*words: str, url: str | None = None, **environment: str) -> Result:
    """Run it in a thread, beside the listener in this loop."""
    where = () if url is None else ("--url", url)
    runner = CliRunner()
    return await asyncio.to_thread(runner.invoke, app, ["ctl", *where, *words], env=environment)


def lines(result: Result) -> list[str]:
    """Lines of standard output, without alignment."""
    assert result.exit_code == 0, result.stderr
    return [" ".join(line.split()) for line in result.stdout.splitlines() if line.strip()]


# Queries.


async def test_servers_in_a_table(client: Client) -> None:
    agent1 = client.operator.server("agent1")
    agent1.last_check = "200 in 3 ms"
    agent1.in_flight = 4
    agent1.counters.responses[2] = 1234
    agent1.counters.responses[5] = 6
    client.operator.server("agent2").failed(client.operator.now(), "refused")
    assert lines(await ctl("servers", url=client.url)) == [
        "SERVER ADDRESS SOURCE STATE WHY IN FLIGHT QUEUED WEIGHT REQUESTS 5XX ABORTED",
        "agents/agent1 127.0.0.1:8001 config up 200 in 3 ms 4/9 0 3 1,240 6 0",
        "agents/agent2 (backup) [::1]:8002 config failing 1 failure: refused 0 0 1 0 0 0",
    ]


async def test_status_in_tables(client: Client) -> None:
    frontend = client.operator.frontend
    frontend.connections, frontend.http2_connections, frontend.http2_streams = 12, 3, 40
    frontend.requests, frontend.http2_requests = 900, 800
    client.operator.server("agent1").counters.resume_outcomes[:] = [1, 2, 3, 4, 5, 6, 7]
    shown = lines(await ctl("status", url=client.url))
    assert shown[0].startswith("hermes_lb ")
    assert "agents 2 2 0 0 6 15" in shown
    assert "public 12 3 40 900 800 0" in shown
    assert any(line.startswith("0 4711 ") for line in shown)


async def test_certificates_in_a_table_the_next_to_expire_first(client: Client) -> None:
    assert len(lines(await ctl("certificates", url=client.url))) == 1
    now = time.time()
    client.operator.certificates = [
        CertificateView("public", "/etc/b.pem", ("b.test", "*.b.test"), now + 90 * 86_400 + 60),
        CertificateView("public", "/etc/a\x1b.pem", (), now - 60),
    ]
    _, expired, later = lines(await ctl("certificates", url=client.url))
    assert expired.startswith("public - ")
    assert expired.endswith("UTC EXPIRED /etc/a?.pem")
    assert later.startswith("public b.test, *.b.test ")
    assert later.endswith("90d00h /etc/b.pem")


async def test_sessions_in_a_table_and_what_strangers_sent_is_harmless(client: Client) -> None:
    client.operator.running = [
        session(target="/chat\x1b[2J", seconds=3700.0, pinned_by="cookie"),
        session(server=None, phase="Q", kind="request", version="2.0", stream=17),
    ]
    result = await ctl("sessions", url=client.url)
    assert "\x1b" not in result.stdout
    assert lines(result)[1:] == [
        "0-7f00-1 192.0.2.7:40312 1.1 agents/agent1 stream D 1h01m 100 2,000 cookie POST /chat?[2J",
        "0-7f00-1 192.0.2.7:40312 2.0/17 agents/- request Q 12s 100 2,000 - POST /chat",
    ]
    assert lines(await ctl("sessions", "--limit", "1", url=client.url))[-1].startswith("and 1 more")
    assert len(lines(await ctl("sessions", "--server", "agent1", url=client.url))) == 2


async def test_what_runs_without_its_client_is_in_the_table(client: Client) -> None:
    client.operator.running = [session(client=None, kind="detached")]
    shown = lines(await ctl("sessions", url=client.url))
    assert shown[1] == "0-7f00-1 - 1.1 agents/agent1 detached D 12s 100 2,000 - POST /chat"


async def test_what_runs_on_a_server_is_cut(client: Client) -> None:
    client.operator.server("agent1").in_flight = 3
    shown = lines(await ctl("sessions", "--server", "agent1", "--kill", url=client.url))
    assert shown == ["agents/agent1: 3 ended"]
    assert client.operator.server("agent1").in_flight == 0


@pytest.mark.parametrize("name", ["old", "agents/old"])
async def test_a_server_that_a_reload_has_removed_is_found_by_what_runs_on_it(
    client: Client, name: str
) -> None:
    client.operator.running = [session(server="old"), session(server="old"), session()]
    assert len(lines(await ctl("sessions", "--server", name, url=client.url))) == 3
    result = await ctl("sessions", "--server", name, "--kill", "--json", url=client.url)
    assert json.loads(result.stdout) == {"ended": 2}
    assert client.operator.running == [session()]
    result = await ctl("sessions", "--server", name, url=client.url)
    assert result.exit_code == 1
    assert f"there is no server '{name}'" in result.stderr


async def test_top_once(client: Client) -> None:
    shown = lines(await ctl("top", "--once", url=client.url))
    assert "1 processes" in shown[0]
    assert shown[1].startswith("BACKEND/SERVER STATE IN FLIGHT")
    assert shown[2].startswith("agents 2/2 available 0 0")
    assert shown[3].startswith("agent1 up 0/9 0")


@pytest.mark.parametrize(
    ("command", "path"),
    [("status", "status"), ("servers", "servers"), ("sessions", "sessions"), ("top", None)],
)
async def test_json_is_what_the_api_says(client: Client, command: str, path: str | None) -> None:
    client.operator.running = [session()]
    result = await ctl(command, "--json", url=client.url)
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    if path is None:
        assert answer.keys() >= {"status", "servers"}
    else:
        expected = await client.get(f"/api/v1/{path}")
        assert _stable(answer) == _stable(expected)


def _stable(answer: Any) -> Any:
    """Without fields that change between two queries."""
    if isinstance(answer, dict):
        return {k: _stable(v) for k, v in answer.items() if not k.startswith(("open_", "loop_"))}
    return [_stable(v) for v in answer] if isinstance(answer, list) else answer


# Commands.


async def test_states_by_either_name(client: Client) -> None:
    server = client.operator.server("agent1")
    for command, name, state in [
        ("drain", "agent1", "drain"),
        ("maint", "agents/agent1", "maint"),
        ("ready", "agent1", "up"),
    ]:
        shown = lines(await ctl(command, name, url=client.url))
        assert shown == [f"agents/agent1 is {state}, weight 3"]
        assert server.state == state


async def test_why_a_server_is_not_up_although_it_is_set_to_ready(client: Client) -> None:
    server = client.operator.server("agent1")
    server.announce_drain("503 with X-Hermes-Draining")
    assert lines(await ctl("ready", "agent1", url=client.url)) == [
        "agents/agent1 is drain (announced by itself), weight 3"
    ]
    server.set_up(False, "connection \x1b[2Jrefused")
    assert lines(await ctl("ready", "agent1", url=client.url)) == [
        "agents/agent1 is down (connection ?[2Jrefused), weight 3"
    ]


async def test_weights(client: Client) -> None:
    server = client.operator.server("agent1")
    for given, then in (("7", 7), ("0", 0), ("configured", 3)):
        assert lines(await ctl("weight", "agent1", given, url=client.url)) == [
            f"agents/agent1 is up, weight {then}"
        ]
        assert server.full_weight == then


async def test_a_reload(client: Client) -> None:
    client.operator.reload_answer = ["backend agents: server agent3 added", "timeouts: client 5s"]
    assert lines(await ctl("reload", url=client.url)) == client.operator.reload_answer
    client.operator.reload_answer = []
    assert lines(await ctl("reload", url=client.url)) == ["nothing has changed"]


async def test_a_reload_with_errors_shows_each(client: Client) -> None:
    client.operator.reload_answer = broken()
    result = await ctl("reload", url=client.url)
    assert result.exit_code == 1
    first, *problems = result.stderr.splitlines()
    assert first == "hermes-lb: the configuration has errors; the old one goes on"
    assert problems == [f"  {line}" for line in str(broken()).splitlines()]


async def test_an_upgrade(client: Client) -> None:
    assert (await ctl("upgrade", url=client.url)).exit_code == 0
    assert client.operator.upgrades == 1
    client.operator.upgrade_error = NotPossible("there is only this process")
    result = await ctl("upgrade", url=client.url)
    assert (result.exit_code, result.stderr) == (1, "hermes-lb: there is only this process\n")


async def test_an_upgrade_is_waited_for(client: Client, tasks: Tasks) -> None:
    processes = client.operator.processes
    waiting = tasks.spawn(ctl("upgrade", "--wait", url=client.url), name="upgrade")
    await eventually(lambda: client.operator.upgrades == 1)
    processes[0].is_draining = True
    processes.append(ProcessView(1, 4712, started_at=2000.0))
    [line] = lines(await waiting)
    assert re.fullmatch(r"upgraded to hermes_lb \S+; processes: 1 new, 1 draining", line)


async def test_with_json_an_upgrade_prints_the_status_at_its_end(
    client: Client, tasks: Tasks
) -> None:
    processes = client.operator.processes
    waiting = tasks.spawn(ctl("upgrade", "--wait", "--json", url=client.url), name="upgrade")
    await eventually(lambda: client.operator.upgrades == 1)
    processes[0] = ProcessView(1, 4712, started_at=2000.0)
    answer = json.loads((await waiting).stdout)
    assert [process["pid"] for process in answer["processes"]] == [4712]


async def test_an_upgrade_that_does_not_come_about_is_reported(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes_lb.ctl.upgrade._PATIENCE", 0.0)
    result = await ctl("upgrade", "--wait", url=client.url)
    assert result.exit_code == 1
    assert "process 4711 still runs the old code" in result.stderr


async def test_an_upgrade_that_is_refused_is_not_waited_for(client: Client) -> None:
    client.operator.upgrade_error = NotPossible("it drains")
    result = await ctl("upgrade", "--wait", url=client.url)
    assert (result.exit_code, result.stderr) == (1, "hermes-lb: it drains\n")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["maint"], "agents/agent1 is maint, weight 3"),
        (["drain"], "agents/agent1 is drain, weight 3"),
    ],
)
async def test_a_process_that_has_not_answered_is_reported(
    client: Client, command: list[str], said: str
) -> None:
    client.operator.settles = False
    result = await ctl(*command, "agent1", url=client.url)
    assert (result.exit_code, result.stdout) == (0, f"{said}\n")
    assert result.stderr == (
        "hermes-lb: a process has not answered yet: it applies this as soon as it does\n"
    )
    client.operator.settles = True
    assert (await ctl(*command, "agent1", url=client.url)).stderr == ""


# Drains with --wait.


async def test_a_drain_waits_until_nothing_is_left(client: Client, tasks: Tasks) -> None:
    server = client.operator.server("agent1")
    server.in_flight = 3
    waiting = tasks.spawn(ctl("drain", "agent1", "--wait", url=client.url), name="drain")
    await eventually(lambda: server.admin == "drain")
    server.in_flight = 0
    shown = lines(await waiting)
    assert shown[-2].startswith("agents/agent1: 0 of 3 left after")
    assert shown[-1] == "agents/agent1 is drain, weight 3"


async def test_at_the_deadline_what_is_left_goes_on(client: Client) -> None:
    server = client.operator.server("agent1")
    server.in_flight = 2
    result = await ctl("drain", "agent1", "--deadline", "30ms", url=client.url)
    assert result.exit_code == 1
    assert "agents/agent1 is drain, weight 3, 2 in flight" in result.stdout
    assert server.in_flight == 2


async def test_at_the_deadline_what_is_left_may_be_cut_and_maintenance_follow(
    client: Client,
) -> None:
    server = client.operator.server("agent1")
    server.in_flight = 2
    result = await ctl(
        "drain", "agent1", "--deadline", "30ms", "--kill", "--then", "maint", url=client.url
    )
    assert lines(result)[-1] == "agents/agent1 is maint, weight 3"
    assert server.in_flight == 0


async def test_a_drain_that_somebody_else_ends_is_reported(client: Client, tasks: Tasks) -> None:
    server = client.operator.server("agent1")
    server.in_flight = 2
    waiting = tasks.spawn(ctl("drain", "agent1", "--wait", url=client.url), name="drain")
    await eventually(lambda: server.admin == "drain")
    server.set_admin("ready")
    result = await waiting
    assert result.exit_code == 1
    assert "agents/agent1 was set to ready: another operator ended the drain" in result.stderr


async def test_a_drain_of_a_server_that_is_ejected_is_waited_for(
    client: Client, tasks: Tasks
) -> None:
    server = client.operator.server("agent1")
    server.in_flight = 2
    server.eject(client.operator.now() + 600, "3 failures in a row")
    waiting = tasks.spawn(ctl("drain", "agent1", "--wait", url=client.url), name="drain")
    await eventually(lambda: server.admin == "drain")
    server.in_flight = 0
    assert lines(await waiting)[-1] == "agents/agent1 is ejected (3 failures in a row), weight 3"


@pytest.mark.parametrize("then", [[], ["--then", "maint"]], ids=["", "then maint"])
async def test_a_drain_goes_on_when_a_reload_removes_the_server(
    client: Client, tasks: Tasks, then: list[str]
) -> None:
    operator = client.operator
    server = operator.server("agent1")
    server.in_flight = 2
    operator.running = [session(), session(), session(server="agent2")]
    waiting = tasks.spawn(ctl("drain", "agent1", "--wait", *then, url=client.url), name="drain")
    await eventually(lambda: server.admin == "drain")
    left = {"servers": [{"name": "agent2", "address": "[::1]:8002", "backup": True}]}
    operator.pools["agents"].reconfigure(Backend.model_validate(left))
    operator.running = operator.running[1:]
    operator.asked = 0
    await eventually(lambda: operator.asked > 1)
    assert not waiting.done()
    operator.running = operator.running[1:]
    shown = lines(await waiting)
    assert shown[-2].startswith("agents/agent1: 0 of 2 left after")
    assert shown[-1] == "agents/agent1 is removed, weight 3"


async def test_with_json_a_drain_prints_the_server_at_its_end(client: Client) -> None:
    result = await ctl("drain", "agent1", "--wait", "--json", url=client.url)
    assert json.loads(result.stdout)["state"] == "drain"


# Address and token.


def configuration(folder: Path, client: Client, **admin: str) -> str:
    file = folder / "lb.toml"
    more = "".join(f"{key} = {json.dumps(value)}\n" for key, value in admin.items())
    file.write_text(
        f'[admin]\nbind = "{client.admin.address}"\n{more}'
        '[[frontends]]\nname = "public"\nbind = ["127.0.0.1:0"]\ndefault_backend = "agents"\n'
        '[[backends.agents.servers]]\nname = "agent1"\naddress = "127.0.0.1:8001"\n'
    )
    return str(file)


async def test_the_configuration_says_where_and_with_which_token(tmp_path: Path) -> None:
    async with admin_listener(token=TOKEN) as client:
        file = configuration(tmp_path, client, token=TOKEN)
        assert lines(await ctl("drain", "agent1", "--config", file))
        result = await asyncio.to_thread(
            CliRunner().invoke, app, ["--config", file, "ctl", "servers"]
        )
        assert "agents/agent1" in result.stdout


@pytest.mark.parametrize("place", ["before", "behind", "environment"])
async def test_a_token_is_taken_from_where_people_put_it(place: str) -> None:
    async with admin_listener(token=TOKEN) as client:
        if place == "environment":
            result = await ctl("servers", url=client.url, HERMES_LB_ADMIN_TOKEN=TOKEN)
        elif place == "before":
            result = await ctl("--token", TOKEN, "servers", url=client.url)
        else:
            result = await ctl("servers", f"--token={TOKEN}", url=client.url)
        assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [((), "a token is needed; give it by --token"), (("--token", "x" * 20), "not its token")],
)
async def test_a_missing_or_wrong_token_is_reported(words: tuple[str, ...], said: str) -> None:
    async with admin_listener(token=TOKEN) as client:
        result = await ctl("servers", *words, url=client.url)
        assert result.exit_code == 1
        assert said in result.stderr


async def test_tls_is_trusted_by_the_configuration_or_by_ca(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("127.0.0.1")
    certificate, key = tmp_path / "admin.pem", tmp_path / "admin.key"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    async with admin_listener(tls={"certificate": str(certificate), "key": str(key)}) as client:
        file = configuration(tmp_path, client)
        with (tmp_path / "lb.toml").open("a") as text:
            text.write(f"[admin.tls]\ncertificate = {json.dumps(str(certificate))}\n")
            text.write(f"key = {json.dumps(str(key))}\n")
        for words in (("--config", file), ("--url", client.url, "--ca", str(certificate))):
            assert lines(await ctl("servers", *words))
        result = await ctl("servers", url=client.url)
        assert result.exit_code == 1
        assert "is not trusted" in result.stderr
        result = await ctl("servers", url=client.url.replace("https", "http"))
        assert "or it uses TLS: write https://" in result.stderr


# Errors.


async def test_nobody_there() -> None:
    with socket.socket() as taken:  # bound but not listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = await ctl("status", url=url)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"hermes-lb: nothing answers at {url}: is hermes-lb running")


def says(status: str, body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    "answer",
    [
        says("200 OK", b"hello"),
        says("200 OK", b"{}"),
        says("200 OK", b'{"server": "agent1"}'),
        says("200 OK", b"[1]"),
        says("200 OK", b"null"),
        says("200 OK", b'data: {"token": "a"}\n\n', "text/event-stream"),
        says("200 OK", b"data: hello\n\n", "text/event-stream"),
        says("404 Not Found", b'{"error": "no route"}'),
        says("404 Not Found", b'{"detail": "Not Found"}'),
        says("404 Not Found", b"[]"),
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
@pytest.mark.parametrize(
    "command", ["status", "servers", "sessions", "top", "drain agent1", "reload", "upgrade"]
)
async def test_somebody_else_there(answer: bytes, command: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        result = await ctl(*command.split(), url=url)
    assert result.exit_code == 1
    assert "is no admin listener of hermes-lb" in result.stderr


@pytest.mark.parametrize(
    ("begun", "command"),
    [
        (b"", "servers"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[", "servers"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: so far\n", "top --once"),
        (b"", "upgrade"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[", "upgrade"),
    ],
    ids=[
        "before its answer",
        "within it",
        "within the live stream",
        "what takes long",
        "within what takes long",
    ],
)
async def test_a_balancer_that_hangs_is_reported(
    begun: bytes, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begun)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    left = asyncio.Event()
    monkeypatch.setattr("hermes_lb.ctl.client._PATIENCE", 0.2)
    monkeypatch.setattr("hermes_lb.ctl.client._TAKES", {"upgrade": 0.3})
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        result = await ctl(*command.split(), url=url)
        await left.wait()
    assert result.exit_code == 1
    patience = 0.3 if command == "upgrade" else 0.2
    assert result.stderr == f"hermes-lb: {url} did not answer within {patience} s\n"


def test_who_asks_for_an_upgrade_waits_as_long_as_its_check_may_take() -> None:
    assert _TAKES["upgrade"] > _CHECK_TAKES


async def test_the_live_stream_goes_on_behind_an_upgrade() -> None:
    operator = FakeOperator()
    async with admin_listener(operator) as before:
        moments = AdminClient(before.url).events()
        assert (await asyncio.to_thread(next, moments))["status"]["is_draining"] is False
        port = before.admin.address.port
    operator.is_draining = True  # to distinguish it from the previous one
    async with admin_listener(operator, bind=f"127.0.0.1:{port}"):
        while not (await asyncio.to_thread(next, moments))["status"]["is_draining"]:
            pass
    with pytest.raises(CtlError, match="has ended: the balancer stopped"):
        await asyncio.to_thread(list, moments)


async def test_a_live_stream_in_which_nothing_comes_is_not_asked_for_again() -> None:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(says("200 OK", b"", "text/event-stream"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        result = await ctl("top", url=url)
    assert (result.exit_code, asked) == (1, 1)
    assert "has ended: the balancer stopped" in result.stderr


@pytest.mark.parametrize("words", ["servers", "servers --json", "drain agent1", "top"])
async def test_an_output_that_takes_nothing_is_reported(client: Client, words: str) -> None:
    command = [sys.executable, "-m", "hermes_lb", "ctl", "--url", client.url, *words.split()]
    ended = await asyncio.to_thread(run_into_a_full_disk, command)
    assert ended.stderr == b"hermes-lb: the output can't be written: No space left on device\n"
    assert ended.returncode == 1


def run_into_a_full_disk(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    with open("/dev/full", "w") as full:
        return subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)


async def test_unknown_and_ambiguous_names() -> None:
    async with admin_listener(FakeOperator(agents("a"), agents("b"))) as client:
        result = await ctl("drain", "agnet1", url=client.url)
        assert result.exit_code == 1
        assert "there is no server 'agnet1'; did you mean agent" in result.stderr
        result = await ctl("drain", "agent1", url=client.url)
        assert result.exit_code == 1
        assert "write a/agent1 or b/agent1" in result.stderr
        assert lines(await ctl("drain", "b/agent1", url=client.url))
        assert client.operator.pools["b"].servers[0].admin == "drain"
        assert client.operator.pools["a"].servers[0].admin == "ready"


@pytest.mark.parametrize(
    "words",
    [
        ("drain",),
        ("bogus",),
        ("weight", "agent1", "many"),
        ("weight", "agent1", "65536"),
        ("drain", "agent1", "--deadline", "soon"),
        ("drain", "agent1", "--kill"),
        ("drain", "agent1", "--then", "maint"),
        ("drain", "agent1", "--then", "ready", "--wait"),
        ("sessions", "--limit", "0"),
        ("sessions", "--kill"),
    ],
    ids=" ".join,
)
async def test_a_wrong_command_line_is_a_2_and_changes_nothing(
    client: Client, words: tuple[str, ...]
) -> None:
    result = await ctl(*words, url=client.url)
    assert result.exit_code == 2
    assert result.stderr
    assert client.operator.server("agent1").admin == "ready"


@pytest.mark.parametrize(
    "url", ["localhost:9900", "ftp://x", "http://", "http://x:99999", "http://x/y"]
)
async def test_a_wrong_address_is_reported(url: str) -> None:
    result = await ctl("status", url=url)
    assert result.exit_code == 1
    assert "URL" in result.stderr or "port" in result.stderr


async def test_a_configuration_without_an_admin_listener_is_reported(
    client: Client, tmp_path: Path
) -> None:
    file = configuration(tmp_path, client)
    text = (tmp_path / "lb.toml").read_text().replace("[admin]", "[admin]\nenabled = false")
    (tmp_path / "lb.toml").write_text(text)
    result = await ctl("status", "--config", file)
    assert result.exit_code == 1
    assert "enabled = false" in result.stderr
