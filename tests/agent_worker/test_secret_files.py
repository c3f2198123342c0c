"""Secrets of a worker in files: HERMES_..._FILE, and tokens that change while it runs."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from agent_worker import secret_files
from agent_worker.secret_files import follow_file, read_secret_files
from agent_worker.tasks import spawn
from tests.agent_worker.test_cli import Process
from tests.support.mounted_secret import MountedSecret
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import aiohttp

    from agent_worker.redis_server import RedisServer


def test_each_variable_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" sk-hush\n")
    environment = {
        "HERMES_ENGINE_KEY_FILE": str(tmp_path / "key"),
        "HERMES_REDIS_URL": "redis://elsewhere",
        "OTHER_FILE": str(tmp_path / "none"),
    }
    read_secret_files(environment)
    assert environment["HERMES_ENGINE_KEY"] == "sk-hush"
    assert "OTHER" not in environment


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file or directory"), (b" \n", "it is empty"), (b"\xff", "it is not text")],
)
def test_a_file_of_no_use_is_one_line(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="HERMES_ENGINE_KEY_FILE") as refused:
        read_secret_files({"HERMES_ENGINE_KEY_FILE": str(path)})
    assert str(refused.value) == f"can't use {path} (HERMES_ENGINE_KEY_FILE): {why}"


async def test_contents_of_no_use_leave_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(secret_files, "_EVERY_S", 0.01)
    secret = MountedSecret(tmp_path / "mounted", tokens="hush=a")
    used: list[str] = []

    def use(content: str) -> None:
        if "=" not in content:
            raise ValueError("write token=principal")
        used.append(content)

    following = spawn(follow_file(str(secret.path("tokens")), "hush=a", use), name="follow")
    for count, wrong in enumerate(("", "hush"), 1):
        secret.replace(tokens=wrong)
        await until(lambda n=count: len(caplog.records) == n)
    secret.replace(tokens="hush=b")
    await until(lambda: used)
    assert used == ["hush=b"]
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "it is empty",
        "write token=principal",
    ]
    following.cancel()
    await asyncio.wait([following])


@pytest.mark.slow
async def test_a_worker_accepts_the_tokens_of_its_file(
    tmp_path: Path,
    redis_server: RedisServer,
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = MountedSecret(tmp_path / "mounted", tokens="first-token=ada")
    monkeypatch.setenv("HERMES_TOKENS_FILE", str(secret.path("tokens")))
    monkeypatch.delenv("HERMES_TOKENS", raising=False)
    async with Process("--port", "0", "--redis-url", redis_server.url) as worker:
        url = await worker.url()

        async def accepts(token: str) -> bool:
            headers = {"Authorization": f"Bearer {token}"}
            async with http.post(f"{url}/api/agent/sessions", headers=headers) as response:
                assert response.status in (201, 401)
                return response.status == 201

        assert [await accepts("first-token"), await accepts("other-token")] == [True, False]
        secret.replace(tokens="other-token=ada\nthird-token=eve")
        await until(lambda: accepts("other-token"))
        assert [await accepts("first-token"), await accepts("third-token")] == [False, True]
        os.kill(worker.process.pid, signal.SIGTERM)
        status, said, error = await worker.end()
    assert status == 0
    assert not any(token in said + error for token in ("other-token", "first-token"))
