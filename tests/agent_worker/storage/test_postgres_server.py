from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import pytest

from agent_worker.storage import postgres_server
from agent_worker.storage.postgres import PostgresStorage
from agent_worker.storage.postgres_directory import ServerDirectory, server_user
from agent_worker.storage.postgres_server import PostgresServer
from agent_worker.storage.setup import StorageSetupError
from tests.support.waiting import until

pytestmark = pytest.mark.slow

SESSION = "session-number-one"


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    # Ended, and not yet reaped by its new parent.
    return status.rpartition(")")[2].split()[0] != "Z"


def user_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


async def value(server: PostgresServer, query: str) -> object:
    connection = await asyncpg.connect(server.url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_a_temporary_server_answers_and_leaves_nothing_behind() -> None:
    with PostgresServer.start() as server:
        assert server.is_running
        assert server.description.startswith("PostgreSQL 18.")
        folder = server.url.partition("host=")[2]
        assert os.stat(folder).st_mode & 0o777 == 0o700
        assert await value(server, "SHOW listen_addresses") == ""
        assert await value(server, "SHOW fsync") == "off"
        available = "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"
        assert await value(server, available) == 1
    assert not server.is_running
    with pytest.raises(FileNotFoundError):
        os.stat(folder)
    server.stop()


async def test_a_folder_keeps_claims_through_a_crash(open_folder: Path) -> None:
    with PostgresServer.start(open_folder / "data") as server:
        assert await value(server, "SHOW fsync") == "on"
        storage = await PostgresStorage.open(server.url)
        assert await storage.once_ledger.claim(SESSION, "3.0", "hash")
        # Killed without a checkpoint: the data is in the log only.
        os.kill(server.pid, signal.SIGQUIT)
        await until(lambda: not server.is_running)
        await storage.close()
    with PostgresServer.start(open_folder / "data") as server:
        storage = await PostgresStorage.open(server.url)
        assert not await storage.once_ledger.claim(SESSION, "3.0", "hash")
        await storage.close()


def test_two_servers_do_not_share_a_folder(open_folder: Path) -> None:
    with PostgresServer.start(open_folder / "data"):
        with pytest.raises(StorageSetupError, match="ended at once"):
            PostgresServer.start(open_folder / "data")
        # At least it does not disturb the first one.
        with PostgresServer.start() as other:
            assert other.is_running


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_reported(open_folder: Path, name: str) -> None:
    (open_folder / "file").write_text("in the way")
    with pytest.raises(StorageSetupError, match=r"cannot use .* for PostgreSQL"):
        PostgresServer.start(open_folder / name)


def test_a_folder_with_something_else_in_it_is_not_touched(open_folder: Path) -> None:
    (open_folder / "letter").write_text("mine")
    with pytest.raises(StorageSetupError, match=r"initdb in .* failed"):
        PostgresServer.start(open_folder)
    assert [path.name for path in open_folder.iterdir()] == ["letter"]


by_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts it as another user")


@by_root
def test_started_by_root_it_runs_as_somebody_else() -> None:
    with PostgresServer.start() as server:
        assert user_of(server.pid) != 0


@pytest.fixture
def closed_folder(open_folder: Path) -> Path:
    """Like a clone in root's home: PostgreSQL's user cannot enter it."""
    folder = open_folder / "closed"
    folder.mkdir(mode=0o700)
    return folder


@by_root
def test_programs_in_a_closed_folder_run_as_a_copy(
    closed_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = postgres_server._package()
    for part in package.parent.glob(f"{package.name}*"):
        shutil.copytree(part, closed_folder / part.name)
    monkeypatch.setattr(postgres_server, "_package", lambda: closed_folder / package.name)
    with PostgresServer.start() as server:
        assert user_of(server.pid) != 0
        vector = "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"
        assert asyncio.run(value(server, vector)) == 1
        place = Path(server.url.partition("host=")[2])
        assert os.readlink(f"/proc/{server.pid}/exe").startswith(f"{place}/")
    assert not place.exists()
    assert closed_folder.stat().st_mode & 0o777 == 0o700


@by_root
def test_a_closed_directory_for_temporary_files_is_left_for_an_open_one(
    closed_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(closed_folder))
    with PostgresServer.start() as server:
        assert server.is_running
        assert list(closed_folder.iterdir()) == []


@by_root
def test_a_closed_folder_for_the_data_is_refused_with_the_reason(closed_folder: Path) -> None:
    with pytest.raises(StorageSetupError, match=r"closed/data .* who cannot enter it"):
        PostgresServer.start(closed_folder / "data")


@by_root
def test_a_copy_is_open_to_the_user_whatever_the_umask_was(closed_folder: Path) -> None:
    package = closed_folder / "package"
    for name, mode in (("pginstall/bin/run", 0o700), ("pginstall/share/text", 0o600)):
        (package / name).parent.mkdir(mode=0o700, parents=True)
        (package / name).touch(mode)
    place = ServerDirectory.make(server_user())
    try:
        programs = place.programs_for(server_user(), package)
        copy = programs.parents[1]
        modes = {
            path.relative_to(copy).as_posix(): path.stat().st_mode & 0o777
            for path in copy.rglob("*")
        }
    finally:
        place.remove()
    folders = dict.fromkeys(("pginstall", "pginstall/bin", "pginstall/share"), 0o755)
    assert modes == {**folders, "pginstall/bin/run": 0o755, "pginstall/share/text": 0o644}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
async def test_it_ends_when_its_parent_is_killed(open_folder: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from agent_worker.storage.postgres_server import PostgresServer\n"
        f"server = PostgresServer.start(Path({str(open_folder / 'data')!r}))\n"
        "print(server.pid, flush=True)\n"
        "input()\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Killed, it does not clean up; the fixture does.
        env={**os.environ, "TMPDIR": str(open_folder)},
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert is_running(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: not is_running(pid))


_LEAVES_A_SERVER = """
from agent_worker.storage.postgres_server import PostgresServer
server = PostgresServer.start()
print(server.pid, server.url.partition("host=")[2], flush=True)
input()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
async def test_what_a_killed_one_leaves_is_removed_by_the_next_and_a_living_ones_is_not(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _LEAVES_A_SERVER),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(open_folder)},
    )
    assert parent.stdout is not None
    pid, left = (await parent.stdout.readline()).decode().split()
    with PostgresServer.start() as living:
        assert Path(left).name in os.listdir(open_folder), "its parent lives"
        parent.kill()
        await parent.wait()
        await until(lambda: not is_running(int(pid)))
        assert Path(left).name in os.listdir(open_folder), "nobody was there to remove it"
        with PostgresServer.start():
            assert Path(left).name not in os.listdir(open_folder)
            assert await value(living, "SELECT 1") == 1
    assert os.listdir(open_folder) == []
