"""Several worker processes behind one address: shared counts, replacement, reload, upgrade."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import pytest

from hermes_lb.tasks import Tasks
from tests.support.balancer_process import Running, run, until_it_listens
from tests.support.waiting import PATIENCE, eventually, turns
from tests.workers.forced_states import meddling
from tests.workers.processes import Worker, becomes, ends_cleanly, let_go, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.workers.processes import Site


async def test_all_processes_serve(site: Site) -> None:
    async with site.serving() as (running, api):
        assert len(running.workers) == 2
        await site.get_many(running.url, 60)

        await becomes(partial(site.responses, api), 60)
        assert len(await site.processes(api)) == 2
        await ends_cleanly(running)
    assert "Traceback" not in running.said


@pytest.mark.slow
async def test_leastconn_counts_the_streams_of_all_processes(site: Site) -> None:
    async with site.serving(backend='balance = "leastconn"') as (running, _):
        tasks, waiting = Tasks(), []
        for count in range(1, 21):  # one after the other, wherever the kernel puts them
            waiting.append(tasks.spawn(site.get(f"{running.url}/wait"), name="wait"))
            await eventually(lambda n=count: site.workers[0].running + site.workers[1].running == n)
        assert [worker.running for worker in site.workers] == [10, 10]
        let_go(site.workers)
        await asyncio.gather(*waiting)


@pytest.mark.slow
async def test_a_server_never_has_more_than_it_may_from_all_processes(site: Site) -> None:
    file = site.write(server="max_connections = 1")
    async with serving(file) as (running, _):
        await site.get_many(running.url, 300)
    assert [worker.most for worker in site.workers] == [1, 1]
    assert site.workers[0].served + site.workers[1].served == 300


@pytest.mark.slow
async def test_a_session_that_one_process_has_learnt_is_known_to_all(site: Site) -> None:
    backend = '[[backends.agents.stick]]\non = "header:Mcp-Session-Id"\nlearn = true\n'
    async with site.serving(backend=backend) as (running, _):
        for _ in range(30):
            async with site.client.get(f"{running.url}/session") as response:
                session = response.headers["Mcp-Session-Id"]
            for _ in range(3):
                fields = {"Mcp-Session-Id": session}
                async with site.client.get(running.url, headers=fields) as response:
                    assert await response.text() == session.partition("-")[0]


@pytest.mark.slow
async def test_a_killed_process_is_replaced_and_its_counts_are_kept(site: Site) -> None:
    async with site.serving() as (running, api):
        await site.get_many(running.url, 40)
        await becomes(partial(site.responses, api), 40)
        before = running.workers
        os.kill(before[0], signal.SIGKILL)
        await running.says("has ended by signal 9; another one starts")
        await site.get_many(running.url, 40)
        await becomes(partial(site.responses, api), 80)
        assert len(running.workers) == 2
        assert before[0] not in running.workers


@pytest.mark.slow
async def test_an_old_process_that_dies_while_it_finishes_is_reported(site: Site) -> None:
    async with site.serving() as (running, _):
        before, streaming = running.workers, f"{running.url}/stream"
        async with site.client.get(streaming) as response:
            assert await response.content.read(6) == b"begun "
            running.signal(signal.SIGUSR2)
            await running.says("upgraded")
            await eventually(lambda: len(set(running.workers) & set(before)) == 1)
            [finishing] = set(running.workers) & set(before)
            os.kill(finishing, signal.SIGKILL)
            await running.says(f"{finishing} has ended by signal 9: what it was finishing is cut")
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()


@pytest.mark.slow
async def test_who_waits_in_the_backlog_of_a_dead_process_is_served_by_the_next(site: Site) -> None:
    async with site.serving() as (running, _):
        stopped = running.workers
        for pid in stopped:  # no worker accepts
            os.kill(pid, signal.SIGSTOP)
        crowd = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(30)]
        for one in crowd:
            one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
        for one in crowd:
            answer = await asyncio.to_thread(read_all, one)
            assert answer.startswith(b"HTTP/1.1 200"), answer


def read_all(sock: socket.socket) -> bytes:
    with sock:
        sock.settimeout(PATIENCE)
        received = b""
        while data := sock.recv(65536):
            received += data
        return received


@pytest.mark.slow
async def test_streams_outlive_the_supervisor(site: Site) -> None:
    async with (
        site.serving() as (running, _),
        site.stream(running.url),
    ):
        running.signal(signal.SIGKILL)
        await eventually(lambda: running.process.returncode is not None)


@pytest.mark.slow
async def test_an_upgrade_replaces_all_processes_and_cuts_no_stream(site: Site) -> None:
    async with site.serving() as (running, _):
        before = running.workers
        async with site.stream(running.url):
            running.signal(signal.SIGUSR2)
            failures, tasks = [], Tasks()
            upgraded = tasks.spawn(running.says("upgraded"), name="upgraded")
            served = 0
            while not upgraded.done():
                try:
                    await site.get(running.url)
                    served += 1
                except (aiohttp.ClientError, AssertionError) as error:
                    failures.append(error)
            await upgraded
            assert not failures
            assert served > 10
            await eventually(lambda: len(set(running.workers) - set(before)) == 2)
            await eventually(lambda: len(set(running.workers) & set(before)) == 1)  # the stream's
        await eventually(lambda: not set(running.workers) & set(before))
        await ends_cleanly(running)
    assert "Traceback" not in running.said


# A worker's answer that it listens is held back while the file {held} exists.
HOLDS_ITS_ANSWER = """
import socket
_send_fds = socket.send_fds
def send_fds(sock, buffers, fds):
    if b'"urls"' in bytes(buffers[0]) and os.path.exists({held!r}):
        raise BlockingIOError
    return _send_fds(sock, buffers, fds)
socket.send_fds = send_fds
"""


@pytest.mark.slow
async def test_who_has_just_started_when_an_upgrade_comes_finishes_what_it_serves(
    site: Site,
) -> None:
    held = site.folder / "held"
    before = meddling(site.folder, HOLDS_ITS_ANSWER.format(held=str(held)))
    async with site.serving(before) as (running, _):
        held.touch()
        first = running.workers
        for pid in first:
            os.kill(pid, signal.SIGKILL)
            await running.says(f"{pid} has ended by signal 9")
        async with site.stream(running.url):
            running.signal(signal.SIGUSR2)
            await running.says("executing the new code")
            held.unlink()
            await running.says("upgraded")
        await ends_cleanly(running)
    assert "Traceback" not in running.said


# A worker gets one SIGTERM just before it listens, if the file {asked} exists.
IS_TOLD_WHILE_IT_STARTS = """
if "hermes_lb.workers --loop" in argv:
    import asyncio
    from hermes_lb.plane import DataPlane
    _listen = DataPlane.listen
    async def listen(plane, sockets):
        if os.path.exists({asked!r}):
            os.unlink({asked!r})
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.1)
        await _listen(plane, sockets)
    DataPlane.listen = listen
"""


@pytest.mark.slow
async def test_a_process_that_is_asked_to_end_while_it_starts_is_replaced(site: Site) -> None:
    asked = site.folder / "asked"
    before = meddling(site.folder, IS_TOLD_WHILE_IT_STARTS.format(asked=str(asked)))
    async with site.serving(before) as (running, _):
        first = running.workers
        asked.touch()
        os.kill(first[0], signal.SIGKILL)
        told = int((await running.says(r"process (\d+) received SIGTERM; another one starts"))[1])
        assert told not in first
        await eventually(lambda: len(running.workers) == 2 and told not in running.workers)
        await site.get_many(running.url, 20)
        await ends_cleanly(running)
    assert "can't start" not in running.said


@pytest.mark.slow
async def test_two_upgrades_at_a_time_are_one(site: Site) -> None:
    async with site.serving() as (running, _):
        before = running.workers
        running.signal(signal.SIGUSR2)
        await eventually(lambda: len(running.workers) == 3)  # with the configuration check
        running.signal(signal.SIGUSR2)
        await running.says("no upgrade: an upgrade has begun already")
        await running.says("upgraded")
        # An unreaped process would stay as a zombie.
        await eventually(lambda: len(running.workers) == 2)
        assert not set(running.workers) & set(before)


@pytest.mark.slow
async def test_an_upgrade_with_a_file_that_is_spoilt_just_after_its_check_is_refused_in_words(
    site: Site,
) -> None:
    file = site.folder / "lb.toml"
    spoils = f"lambda: open({str(file)!r}, 'w').write('spoilt')"
    before = meddling(
        site.folder, f"import atexit\nif '--check' in argv: atexit.register({spoils})"
    )
    async with site.serving(before) as (running, api):
        async with site.client.post(f"{api}/upgrade", json={}) as response:
            assert response.status == 409
            assert f"{file}:1" in await response.text()
        assert await site.get(running.url)
        await ends_cleanly(running)
    assert "Traceback" not in running.said


@pytest.mark.slow
async def test_an_upgrade_forgets_no_reload_that_failed(site: Site) -> None:
    file = site.write()
    async with serving(file) as (running, api):
        good = file.read_text()
        file.write_text("nonsense")
        running.signal(signal.SIGHUP)
        await running.says("is not reloaded")
        file.write_text(good)
        running.signal(signal.SIGUSR2)
        await running.says("upgraded")
        async with site.client.get(f"{api}/status") as response:
            assert (await response.json())["failed_reloads"] == 1


# Reports a listening socket that is made blocking, even for a moment: another process that is about
# to accept from it would hang.
SAYS_WHAT_BLOCKS = """
import socket
_of_python = socket.socket.settimeout
def settimeout(sock, seconds):
    if seconds != 0.0 and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        os.write(2, f"{sock.getsockname()} blocks\\n".encode())
    _of_python(sock, seconds)
socket.socket.settimeout = settimeout
socket.socket.setblocking = lambda sock, flag: settimeout(sock, None if flag else 0.0)
"""


@pytest.mark.slow
async def test_no_process_makes_a_socket_block_that_others_accept_from(site: Site) -> None:
    file = site.write()
    there = f"unix:{site.folder}/lb.sock"
    text = file.read_text().replace(
        'bind = "127.0.0.1:0"\nd', f'bind = ["127.0.0.1:0", "{there}"]\nd'
    )
    file.write_text(text)
    async with serving(file, meddling(site.folder, SAYS_WHAT_BLOCKS)) as (running, _):
        os.kill(running.workers[0], signal.SIGKILL)
        await running.says("another one starts")
        await eventually(lambda: len(running.workers) == 2)
        await site.get_many(running.url, 20)
        running.signal(signal.SIGUSR2)
        await running.says("upgraded")
        await site.get_many(running.url, 20)
        await ends_cleanly(running)
    assert "blocks" not in running.said


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 6])
async def test_an_upgrade_takes_up_another_number_of_processes(site: Site, count: int) -> None:
    file = site.write()
    async with serving(file) as (running, _):
        before = running.workers
        site.write(count=count)
        running.signal(signal.SIGUSR2)
        await running.says("upgraded")
        await eventually(lambda: len(running.workers) == count)
        assert not set(running.workers) & set(before)
        await site.get_many(running.url, 60)


@pytest.mark.slow
async def test_an_upgrade_to_code_that_refuses_the_configuration_is_none(site: Site) -> None:
    file = site.write()
    async with serving(file) as (running, _):
        before = running.workers
        file.write_text("nonsense = 1\n" + file.read_text())
        running.signal(signal.SIGUSR2)
        await running.says("no upgrade: the new code refuses.*nonsense")
        assert running.workers == before
        assert await site.get(running.url)


@pytest.mark.slow
async def test_another_balancer_at_the_same_address_is_refused(site: Site) -> None:
    file = site.write()
    async with run(file) as running:
        await until_it_listens(running)
        text = file.read_text().replace(
            'bind = "127.0.0.1:0"\nd', f'bind = "127.0.0.1:{running.port}"\nd'
        )
        other = site.folder / "other.toml"
        other.write_text(text)
        async with run(other) as second:
            assert await second.ended() == 1
    assert f"can't listen on 127.0.0.1:{running.port}" in second.said
    assert len(second.said.splitlines()) == 1


@pytest.mark.slow
async def test_what_an_operator_sets_holds_in_all_processes(site: Site) -> None:
    async with site.serving() as (running, api):
        url = f"{api}/servers/agents/agent1/state"
        async with site.client.put(url, json={"state": "drain"}) as response:
            assert response.status == 200, await response.text()
        assert set(await site.get_many(running.url, 40)) == {str(site.workers[1].port)}
        async with site.client.put(url, json={"state": "ready"}) as response:
            assert response.status == 200
        assert len(set(await site.get_many(running.url, 40))) == 2


@pytest.mark.slow
async def test_a_failure_that_one_process_sees_counts_in_all(site: Site) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = Worker()
        dead.port = nobody.getsockname()[1]
        file = site.write([dead, *site.workers], server="max_fails = 1")
        async with serving(file) as (running, api):
            await site.get(running.url)
            for _ in range(10):
                await site.get(running.url)

            async def is_available() -> bool:
                is_so: bool = (await site.servers(api))["agent1"]["available"]
                return is_so

            await becomes(is_available, False)
            counters = (await site.servers(api))["agent1"]["counters"]
            assert counters["connect_errors"] <= 2  # one per process, if simultaneous


@pytest.mark.slow
async def test_a_crash_loop_is_damped(site: Site) -> None:
    async with run(site.write()) as running:
        await until_it_listens(running)
        for _ in range(3):
            await eventually(lambda: len(running.workers) == 2)
            victim = max(running.workers)
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            await eventually(lambda pid=victim: pid not in running.workers)
        await running.says(r"another one starts in [\d.]+ s")


@pytest.mark.slow
async def test_an_upgrade_to_an_address_that_is_taken_is_none(site: Site) -> None:
    file = site.write()
    async with serving(file) as (running, _):
        before = running.workers
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            more = f'[[frontends]]\nname = "b"\nbind = "127.0.0.1:{port}"\n'
            file.write_text(file.read_text() + more + 'default_backend = "agents"\n')
            running.signal(signal.SIGUSR2)
            await running.says(f"no upgrade: can't listen on 127.0.0.1:{port}")
        assert running.workers == before
        assert await site.get(running.url)


@pytest.mark.slow
async def test_a_reload_to_a_log_that_cannot_be_opened_is_none(site: Site) -> None:
    file = site.write()
    async with serving(file) as (running, _):
        before = running.workers
        log = f'access = "{site.folder}/missing/log"'
        file.write_text(file.read_text().replace('access = "off"', log))
        running.signal(signal.SIGHUP)
        await running.says("not reloaded.*\n?.*missing/log")
        assert running.workers == before
        assert await site.get(running.url)


@pytest.mark.slow
async def test_a_process_that_is_asked_to_end_is_replaced_at_once(site: Site) -> None:
    async with site.serving() as (running, _):
        before = running.workers
        async with site.stream(running.url):
            for pid in before:
                os.kill(pid, signal.SIGTERM)
            await running.says("received SIGTERM; another one starts")
            await eventually(lambda: len(set(running.workers) - set(before)) == 2)
            await site.get_many(running.url, 40)
        await eventually(lambda: not set(running.workers) & set(before))


async def has_been_asked_for(running: Running) -> None:
    await turns()


async def is_checked(running: Running) -> None:
    """The new code checks the configuration, in a process beside the two workers."""
    await eventually(lambda: len(running.workers) > 2)


async def is_executed(running: Running) -> None:
    await running.says("executing the new code")


async def starts_workers(running: Running) -> None:
    before = set(running.workers)
    await running.says("executing the new code")
    await eventually(lambda: len(set(running.workers) - before) == 2)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [has_been_asked_for, is_checked, is_executed, starts_workers])
async def test_a_term_that_comes_during_an_upgrade_is_not_lost(
    site: Site, moment: Callable[[Running], Awaitable[None]]
) -> None:
    async with site.serving() as (running, _):
        running.signal(signal.SIGUSR2)
        await moment(running)
        await ends_cleanly(running)
    assert "Traceback" not in running.said


@pytest.mark.slow
async def test_who_is_about_to_end_takes_no_orders(site: Site) -> None:
    async with site.serving() as (running, api):
        async with site.stream(running.url):
            running.signal(signal.SIGTERM)
            await running.says("draining")
            for order in ("reload", "upgrade"):
                async with site.client.post(f"{api}/{order}", json={}) as refused:
                    assert refused.status == 409
                    assert "draining" in await refused.text()
        assert await running.ended() == 0


@pytest.mark.slow
async def test_a_process_that_is_stuck_is_killed_and_replaced(site: Site) -> None:
    async with site.serving() as (running, api):

        async def heartbeats() -> list[bool]:
            return [one["loop_lag_worst"] > 0.0 for one in await site.processes(api)]

        await becomes(heartbeats, [True, True])  # before the first one it counts as starting
        victim = running.workers[0]
        os.kill(victim, signal.SIGSTOP)
        try:
            await running.says(f"worker process {victim} is stuck: it is killed")
        finally:
            with suppress(ProcessLookupError):  # a stopped process would outlive the test
                os.kill(victim, signal.SIGKILL)
        await running.says(f"worker process {victim} has ended by signal 9; another one starts")
        await site.get_many(running.url, 40)
