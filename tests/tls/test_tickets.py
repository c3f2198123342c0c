"""Resumption of sessions: the keys of tickets, and their derivation."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import ssl
from contextlib import suppress
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from hermes_lb.testing import eventually
from hermes_lb.tls import ticket_keys
from hermes_lb.tls.certificates import Certificates
from hermes_lb.tls.ticket_keys import TicketSecret, set_ticket_keys
from tests.support.balancer_process import run
from tests.support.certificates import site, trusting
from tests.support.tls import resuming_client, serving, tls_client, with_tls

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage
    from tests.support.tls import TlsClient


class Calendar:
    """The test sets the day, and code that waits for the next one looks again at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.day = 20_000
        monkeypatch.setattr(ticket_keys, "_today", lambda: self.day)
        monkeypatch.setattr("hermes_lb.listen.frontend.until_tomorrow", lambda: 0.01)


@pytest.fixture
def calendar(monkeypatch: pytest.MonkeyPatch) -> Calendar:
    return Calendar(monkeypatch)


def test_processes_with_one_secret_have_the_same_keys_on_each_day(calendar: Calendar) -> None:
    first = TicketSecret.new()
    second = TicketSecret.restore(first.state)
    seen = set()
    for calendar.day in (20_000, 20_001, 20_005):
        assert first.day == second.day == calendar.day
        assert first.keys(b"a", 80) == second.keys(b"a", 80)
        seen.add(first.keys(b"a", 80))
    assert len(seen) == 3


def test_what_is_logged_of_a_secret_is_of_today(calendar: Calendar) -> None:
    secret = TicketSecret.new()
    before = secret.state
    calendar.day += 1
    assert secret.state != before
    assert TicketSecret.restore(secret.state).keys(b"a", 80) == secret.keys(b"a", 80)
    assert secret.state.split(":")[1] not in repr(secret)


def test_a_clock_that_is_set_back_changes_no_keys(calendar: Calendar) -> None:
    secret = TicketSecret.new()
    keys = secret.keys(b"a", 80)
    calendar.day -= 3
    assert (secret.day, secret.keys(b"a", 80)) == (20_000, keys)


def test_each_purpose_has_keys_of_its_own() -> None:
    secret, other = TicketSecret.new(), TicketSecret.new()
    assert len({secret.keys(b"a", 80), secret.keys(b"b", 80), other.keys(b"a", 80)}) == 3
    assert len(secret.keys(b"a", 48)) == 48


def test_openssl_takes_the_keys() -> None:
    asked = []

    def keys(length: int) -> bytes:
        asked.append(length)
        return os.urandom(length)

    assert set_ticket_keys(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), keys)
    assert asked == [80]  # OpenSSL 1.1.1 and later: a name of 16, and two keys of 32


def test_a_python_that_is_not_known_keeps_the_keys_of_openssl(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ticket_keys.sys.implementation, "name", "another")
    assert ticket_keys._find_control() is None
    monkeypatch.setattr(ticket_keys, "_control", None)
    assert not set_ticket_keys(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), os.urandom)


async def begun(stage: Stage, lb: LoadBalancer, context: ssl.SSLContext) -> TlsClient:
    """A client with a ticket."""
    client = await tls_client(stage, lb, context=context)
    await client.ask()
    return client


def read_anew(lb: LoadBalancer) -> None:
    [frontend] = lb._plane.frontends
    old = frontend.certificates
    frontend.reload_certificates()
    assert frontend.certificates is not old


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def context(request: pytest.FixtureRequest) -> ssl.SSLContext:
    context = trusting()
    context.maximum_version = request.param
    return context


async def test_a_session_of_yesterday_is_not_resumed(
    stage: Stage, certificate: str, context: ssl.SSLContext, calendar: Calendar
) -> None:
    lb = await serving(stage, certificate, reload_interval=0)
    first = await begun(stage, lb, context)
    calendar.day += 1
    read_anew(lb)
    assert not (await resuming_client(stage, lb, context, first)).tls.session_reused
    second = await begun(stage, lb, context)
    assert (await resuming_client(stage, lb, context, second)).tls.session_reused


async def another_day(calendar: Calendar, *balancers: LoadBalancer) -> None:
    """The day ends, and all of them have seen it."""

    def shown() -> list[Certificates | None]:
        return [lb._plane.frontends[0].certificates for lb in balancers]

    before = shown()
    calendar.day += 1
    await eventually(lambda: not any(map(is_, shown(), before)))


async def test_a_day_ends_without_a_look_at_the_files(
    stage: Stage, tmp_path: Path, context: ssl.SSLContext, calendar: Calendar
) -> None:
    path = site(tmp_path, "a.test")
    lb = await serving(stage, path, reload_interval=0)
    first = await begun(stage, lb, context)
    Path(path).write_text("half of a file")  # noqa: ASYNC240
    await another_day(calendar, lb)
    second = await resuming_client(stage, lb, context, first)
    assert not second.tls.session_reused
    assert second.tls.getpeercert(True) == first.tls.getpeercert(True)
    third = await begun(stage, lb, context)
    assert (await resuming_client(stage, lb, context, third)).tls.session_reused


async def test_a_frontend_that_begins_to_speak_tls_follows_the_days_too(
    stage: Stage, certificate: str, calendar: Calendar
) -> None:
    lb = await stage.balancer(await stage.serving())
    configured = lb.config.model_dump()
    configured["frontends"][0] |= with_tls(certificate, reload_interval=0)
    await lb.reconfigure(configured)
    await another_day(calendar, lb)


async def test_a_process_that_starts_days_later_has_the_keys_of_those_that_run(
    stage: Stage, certificate: str, context: ssl.SSLContext, calendar: Calendar
) -> None:
    one = await serving(stage, certificate, reload_interval=0)
    at_start = one._plane.tickets.state
    await another_day(calendar, one)
    await another_day(calendar, one)
    other = await serving(stage, certificate, reload_interval=0)
    other._plane.frontends[0]._tickets = TicketSecret.restore(at_start)
    other._plane.frontends[0].certificates = None
    other._plane.frontends[0].reload_certificates()
    first = await begun(stage, one, context)
    assert (await resuming_client(stage, other, context, first)).tls.session_reused
    await another_day(calendar, one, other)
    second = await begun(stage, other, context)
    assert (await resuming_client(stage, one, context, second)).tls.session_reused


async def test_keys_that_cannot_be_changed_stay_and_it_is_tried_again(
    stage: Stage, certificate: str, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    lb = await serving(stage, certificate, reload_interval=0)
    [frontend] = lb._plane.frontends
    monkeypatch.setattr("hermes_lb.listen.frontend._LOOKS_AT_CLOCK", 0.01)

    def fail(_: Certificates) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Certificates, "of_today", fail)
        old = frontend.certificates
        calendar.day += 1
        await eventually(lambda: len(stage.problems) > 1)
        assert frontend.certificates is old
    await eventually(lambda: frontend.certificates is not old)
    assert set(stage.problems) == {
        "hermes_lb logs: the keys of TLS tickets stay as they were: Too many open files"
    }
    stage.problems.clear()


async def test_a_session_of_other_files_is_not_resumed(
    stage: Stage, tmp_path: Path, context: ssl.SSLContext
) -> None:
    lb = await serving(stage, site(tmp_path, "a.test"), reload_interval=0)
    first = await begun(stage, lb, context)
    site(tmp_path, "a.test")
    read_anew(lb)
    assert not (await resuming_client(stage, lb, context, first)).tls.session_reused


async def test_two_balancers_with_one_secret_resume_each_other(
    stage: Stage, certificate: str, context: ssl.SSLContext
) -> None:
    one, other = await serving(stage, certificate), await serving(stage, certificate)
    first = await begun(stage, one, context)
    assert not (await resuming_client(stage, other, context, first)).tls.session_reused
    [frontend] = other._plane.frontends
    frontend._tickets = one._plane.tickets
    frontend.certificates = None
    frontend.reload_certificates()
    assert (await resuming_client(stage, other, context, first)).tls.session_reused


class Visitor:
    """A client with blocking sockets: a connection per request, and the ticket of the last one."""

    def __init__(self, port: int, version: ssl.TLSVersion) -> None:
        self._port = port
        self._context = trusting()
        self._context.maximum_version = version
        self._session: ssl.SSLSession | None = None

    def resumes(self) -> bool:
        with (
            socket.create_connection(("127.0.0.1", self._port), timeout=30) as sock,
            self._context.wrap_socket(sock, server_hostname="a.test", session=self._session) as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
            while tls.recv(65536):
                pass
            self._session = tls.session
            return tls.session_reused is True


async def _no_content(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError):  # a check of health says nothing
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    writer.close()


@pytest.mark.slow
async def test_all_processes_resume_a_session_and_so_do_those_that_follow_them(
    tmp_path: Path, certificate: str
) -> None:
    """Spread by the kernel: that 16 connections meet only one of two processes is 1 of 32,768."""
    server = await asyncio.start_server(_no_content, "127.0.0.1", 0)
    file = tmp_path / "lb.toml"
    file.write_text(
        "[process]\nworkers = 2\nmax_connections = 100\n[admin]\nenabled = false\n"
        '[[frontends]]\nname = "public"\nbind = { address = "127.0.0.1:0", tls = true }\n'
        f'default_backend = "agents"\ntls = {{ certificate = "{certificate}" }}\n'
        '[[backends.agents.servers]]\nname = "agent1"\n'
        f'address = "127.0.0.1:{server.sockets[0].getsockname()[1]}"\n'
    )
    async with server, run(file) as running:
        port = int((await running.says(r"listening on https://\S+:(\d+)"))[1])
        versions = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
        visitors = [Visitor(port, version) for version in versions]

        async def reused(visitor: Visitor, times: int) -> list[bool]:
            return [await asyncio.to_thread(visitor.resumes) for _ in range(times)]

        for visitor in visitors:
            assert await reused(visitor, 16) == [False] + 15 * [True]
        running.signal(signal.SIGUSR2)
        await running.says("upgraded")
        for visitor in visitors:
            assert await reused(visitor, 8) == 8 * [True]
