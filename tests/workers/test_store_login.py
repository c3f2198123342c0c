"""`store.url_file` changes: another password is used by all processes, and another store waits."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agent_worker.redis_server import RedisServer
from hermes_lb.config import load_config
from hermes_lb.workers.layout import Layout
from hermes_lb.workers.new_file import accepted
from hermes_lb.workers.shared_memory import SharedMemory
from tests.support.mounted_secret import MountedSecret
from tests.support.waiting import until
from tests.turns.store.test_login import delete, permit, url, users
from tests.workers.processes import serving, turns_in

if TYPE_CHECKING:
    from tests.workers.processes import Site

PROCESSES = 2


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_password_that_is_rotated_while_turns_run(site: Site) -> None:
    secret = site.folder / "turns.secret"
    secret.write_bytes(os.urandom(32))
    with RedisServer.start() as server:
        permit([server.port], "old", "p1")
        mounted = MountedSecret(site.folder / "mounted", store=url(server, "old:p1"))
        file = site.write(count=PROCESSES)
        store = f'url_file = "{mounted.path("store")}"'
        file.write_text(file.read_text() + turns_in(store, secret))
        async with serving(file) as (running, _):

            async def turn(path: str, key: str) -> str:
                headers = {"Authorization": "Bearer a", "Idempotency-Key": key}
                async with site.client.get(f"{running.url}{path}", headers=headers) as answer:
                    assert answer.status == 200, await answer.text()
                    return await answer.text()

            async with asyncio.TaskGroup() as streams:
                begun = [
                    streams.create_task(turn("/stream", f"stream-{number}")) for number in range(8)
                ]
                await until(lambda: sum(worker.running for worker in site.workers) == len(begun))
                mounted.replace(store=url(server, "new:p2"))
                await running.says(r"reloaded\n\s+store.url: changed\n")
                await running.says("(?s)(does not accept its new URL.*){2}")
                assert await turn("/", "while-it-is-refused")
                permit([server.port], "new", "p2")
                await running.says("(?s)(the store of turns accepts its new URL.*){2}")
                delete([server.port], "old")
                await until(lambda: users(server.port) == {"new"})
                for worker in site.workers:
                    worker.go_on.set()
            assert {task.result() for task in begun} == {"begun ended"}
            first = await asyncio.gather(*(turn("/", f"after-{number}") for number in range(8)))
            again = await asyncio.gather(*(turn("/", f"after-{number}") for number in range(8)))
            assert first == again
            mounted.replace(store="redis://127.0.0.1:1")
            await running.says(r"store.url: changed \(waits for: upgrade or restart\)")
            assert await turn("/", "after-0") == first[0]
            assert not any(password in running.said for password in ("p1@", "p2@"))


async def test_a_url_that_no_process_could_use_is_refused(site: Site) -> None:
    """Files of TLS are read with it."""
    file = site.write()
    text = file.read_text() + '[store]\nurl = "rediss://{user}@127.0.0.1:1{options}"\n'
    file.write_text(text.format(user="old:p1", options=""))
    before = load_config(file)
    file.write_text(text.format(user="new:p2", options="?ssl_ca_certs=/nowhere"))
    memory = SharedMemory.create(1)
    with closing(memory), pytest.raises(ValueError, match="TLS files") as refused:
        await accepted(file, before, Layout(memory))
    assert "p2" not in str(refused.value)
