"""An upgrade that can't succeed is refused; a failing admin listener does not end the service."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.balancer_process import Running, reserved_port, run, until_it_listens
from tests.support.certificates import site
from tests.workers.forced_states import meddling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.stage import Stage

pytestmark = pytest.mark.slow


@asynccontextmanager
async def serving(
    stage: Stage, folder: Path, admin: str, *, log: str = "off", before: str = ""
) -> AsyncIterator[Running]:
    """A started balancer, with a server that says "ok"."""
    origin = await stage.serving()
    file = folder / "lb.toml"
    file.write_text(
        f"[process]\nmax_connections = 100\n[admin]\n{admin}\n"
        f'[log]\naccess = "{log}"\n'
        '[[frontends]]\nname = "public"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"\n'
        f'[backends.agents]\nservers = [{{ name = "a", address = "127.0.0.1:{origin.port}" }}]\n'
    )
    async with run(file, before=before) as running:
        await until_it_listens(running)
        yield running


async def serves(stage: Stage, running: Running) -> None:
    client = await stage.client(running.url)
    assert (await client.ask()).body == b"ok"
    client.close()


def write_token(folder: Path) -> Path:
    token = folder / "token"
    token.write_text("0123456789abcdefgh\n")
    return token


async def test_without_its_token_file_it_is_none(stage: Stage, tmp_path: Path) -> None:
    token = write_token(tmp_path)
    admin = f'bind = "127.0.0.1:0"\ntoken_file = "{token}"'
    async with serving(stage, tmp_path, admin) as running:
        before = running.workers
        token.unlink()
        running.signal(signal.SIGUSR2)
        await running.says(rf"no upgrade: the new code refuses: can't read {token}")
        assert running.workers == before
        await serves(stage, running)
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0


async def test_with_an_admin_certificate_that_is_none_it_is_none(
    stage: Stage, tmp_path: Path
) -> None:
    pem = site(tmp_path, "a.test")
    admin = f'bind = "127.0.0.1:0"\ntls = {{ certificate = "{pem}", key = "{pem}" }}'
    async with serving(stage, tmp_path, admin) as running:
        os.truncate(pem, 100)
        running.signal(signal.SIGUSR2)
        await running.says(r"no upgrade: the new code refuses: .*\[admin\.tls\]\) are no cert")
        await serves(stage, running)


async def test_without_its_log_directory_it_is_none(stage: Stage, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    async with serving(stage, tmp_path, "enabled = false", log=f"{folder}/access.log") as running:
        (folder / "access.log").unlink()
        folder.rmdir()
        running.signal(signal.SIGUSR2)
        await running.says(r"no upgrade: the new code refuses: .*access\.log' can't be opened: No")
        assert not folder.exists()
        await serves(stage, running)


@pytest.fixture
def port() -> Iterator[int]:
    with reserved_port() as number:
        yield number


async def test_a_token_that_goes_during_it_does_not_end_the_service(
    stage: Stage, tmp_path: Path, port: int
) -> None:
    """Until it is back the port refuses; the service continues."""
    token = write_token(tmp_path)
    code = f"if 'HERMES_LB_HANDOVER' in os.environ: os.unlink({str(token)!r})"
    before = meddling(tmp_path, code)
    admin = f'bind = "127.0.0.1:{port}"\ntoken_file = "{token}"'
    async with serving(stage, tmp_path, admin, before=before) as running:
        running.signal(signal.SIGUSR2)
        await running.says(rf"the admin listener can't be opened, .*: can't read {token}")
        await running.says("upgraded: all processes run the new code")
        await serves(stage, running)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(health, port)
        write_token(tmp_path)
        await running.says(rf"upgraded[^$]*admin on http://\S+:{port}\b")
        assert b"200 OK" in await asyncio.to_thread(health, port)
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
    assert "Traceback" not in running.said


async def test_a_configuration_that_is_spoilt_during_it_does_not_end_the_service(
    stage: Stage, tmp_path: Path
) -> None:
    spoils = f"open({str(tmp_path / 'lb.toml')!r}, 'w').write('spoilt')"
    code = f"if 'HERMES_LB_HANDOVER' in os.environ: {spoils}"
    async with serving(
        stage, tmp_path, 'bind = "127.0.0.1:0"', before=meddling(tmp_path, code)
    ) as running:
        running.signal(signal.SIGUSR2)
        await running.says("the old configuration goes on")
        await running.says("upgraded: all processes run the new code")
        await serves(stage, running)
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
    assert "Traceback" not in running.said


def health(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return sock.recv(4096)


async def test_a_checker_that_is_killed_is_reported(stage: Stage, tmp_path: Path) -> None:
    """As by the kernel when memory runs out."""
    code = "if '--check' in argv: os.kill(os.getpid(), signal.SIGKILL)"
    before = meddling(tmp_path, code)
    async with serving(stage, tmp_path, "enabled = false", before=before) as running:
        running.signal(signal.SIGUSR2)
        await running.says(r"no upgrade: the new code was ended by a signal \(SIGKILL\)")
        await serves(stage, running)
