"""A server that answers an upload from its head and closes with the rest unread: a reset.

granian, gunicorn and hypercorn do it with 401, 413 and 429. The next write fails, and the answer is
in the receive buffer still: it is read, as in nginx and HAProxy, and no failure of the server.
"""

from __future__ import annotations

import os
import select
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.support.certificates import server_context
from tests.support.http_peer import (
    ENDLESS_POST,
    AtOrigin,
    Client,
    Ended,
    Message,
    request,
    response,
)
from tests.support.loops import on_both_loops
from tests.support.stage import Stage, in_flight, server_of
from tests.support.tls import TlsAtOrigin, accept_tls
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from hermes_lb.proxy.http1.client import ClientConnection
    from tests.support.origin import Origin

pytestmark = [on_both_loops, pytest.mark.http1_only("bytes are given to the connection itself")]

REFUSAL = response(b"too large", "Connection: close", status=413)
# More than the event loops put off to the end of the iteration.
PIECE = b"x" * 100_000


class Upload:
    """An upload whose first bytes are at the origin, and whose next ones are about to come."""

    def __init__(self, lb: LoadBalancer, client: Client, at_origin: AtOrigin) -> None:
        self.lb = lb
        self.client = client
        self.at_origin = at_origin
        (end,) = lb._plane.context.live.clients
        self._end: ClientConnection = end

    def closed_behind(self, answer: bytes) -> None:
        """The origin closes, and before the loop can read, more of the upload comes."""
        at_origin = self.at_origin
        if isinstance(at_origin, TlsAtOrigin):
            at_origin.tls.write(answer)
            answer = at_origin.outgoing.read()
        assert at_origin.sock.send(answer) == len(answer)
        assert select.select([self.at_origin.sock], [], [], 0)[0]  # something is unread
        self.at_origin.close()
        self._end.data_received(PIECE)


async def begun(lb: LoadBalancer, client: Client, at_origin: AtOrigin) -> Upload:
    """Something more of it has reached the origin's kernel."""
    await client.send(b"unread")
    await eventually(lambda: select.select([at_origin.sock], [], [], 0)[0])
    return Upload(lb, client, at_origin)


async def uploading(stage: Stage) -> tuple[Upload, Origin]:
    lb, client, origin = await stage.line()
    await client.send(ENDLESS_POST + b"begin")
    at_origin = await origin.accept()
    await at_origin.read_until(b"\r\n\r\nbegin")
    return await begun(lb, client, at_origin), origin


async def serves(stage: Stage, upload: Upload, origin: Origin) -> None:
    """The server has not been marked, and the next request is answered."""
    client = await stage.client(upload.lb)
    await client.get("/next")
    at_origin, _ = await origin.accept_request()
    await at_origin.serves(client, b"next")
    assert in_flight(upload.lb) == [0]


async def test_the_answer_before_the_reset_is_relayed(stage: Stage) -> None:
    upload, origin = await uploading(stage)
    upload.closed_behind(REFUSAL)
    answer = await upload.client.read_response()
    assert (answer.status, answer.body) == (413, b"too large")
    assert answer.get("Connection") == upload.client.closes
    assert await upload.client.read_to_end() == b""
    line = await stage.log_line(upload.lb)
    assert (line.status, line.termination, line.retries) == (413, "--", "0")
    assert server_of(upload.lb).fails == 0
    await serves(stage, upload, origin)


async def test_the_answer_of_a_server_at_a_unix_socket_is_relayed(
    stage: Stage, tmp_path: Path
) -> None:
    origin = await stage.origin(path=tmp_path / "agent.sock")
    lb = await stage.balancer(origin)
    client = await stage.client(lb)
    await client.send(ENDLESS_POST + b"begin")
    at_origin = await origin.accept()
    await at_origin.read_until(b"\r\n\r\nbegin")
    upload = await begun(lb, client, at_origin)
    upload.closed_behind(REFUSAL)
    assert (await upload.client.read_response()).status == 413
    assert server_of(lb).fails == 0


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("more", [b"", b"y" * 40_000], ids=["short", "of several records"])
async def test_the_answer_of_a_server_that_speaks_tls_is_relayed(
    stage: Stage, version: str, more: bytes
) -> None:
    lb, client, origin = await stage.line(backend={"tls": {"verify": False}})
    await client.send(ENDLESS_POST + b"begin")
    context = server_context(trustme.CA().issue_cert("127.0.0.1"))
    if version == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    at_origin = await accept_tls(origin, context)
    await at_origin.read_until(b"\r\n\r\nbegin")
    before = len(os.listdir("/proc/self/fd"))
    upload = await begun(lb, client, at_origin)
    upload.closed_behind(response(b"too large" + more, status=413))
    answer = await client.read_response()
    assert (answer.status, answer.body) == (413, b"too large" + more)
    assert await client.read_to_end() == b""
    assert server_of(lb).fails == 0
    await eventually(lambda: not lb._plane.context.live.upstreams)
    # The origin's socket, and of ours the descriptor and its duplicate.
    await eventually(lambda: len(os.listdir("/proc/self/fd")) == before - 3)


async def test_an_upload_over_tls_leaves_no_descriptor_behind(stage: Stage) -> None:
    _, client, origin = await stage.line(backend={"tls": {"verify": False}})
    context = server_context(trustme.CA().issue_cert("127.0.0.1"))
    await client.get()
    at_origin = await accept_tls(origin, context)
    await at_origin.read_request()
    await at_origin.serves(client, b"got")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
        await at_origin.read_head()
        assert len(os.listdir("/proc/self/fd")) == before + 1
        await client.send(b"abc")
        await at_origin.read_until(b"abc")
        await at_origin.serves(client, b"done")
        assert len(os.listdir("/proc/self/fd")) == before
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
    await at_origin.read_head()
    client.close()  # and the server sees it at once
    await at_origin.read_until_cut()


async def test_an_informational_response_before_it_is_relayed_too(stage: Stage) -> None:
    upload, _ = await uploading(stage)
    upload.closed_behind(b"HTTP/1.1 103 Early Hints\r\n\r\n" + REFUSAL)
    assert (await upload.client.read_response()).status == 103
    assert (await upload.client.read_response()).status == 413


async def test_an_answer_of_several_reads_is_relayed(stage: Stage) -> None:
    body = b"y" * 50_000
    upload, _ = await uploading(stage)
    upload.closed_behind(response(body, status=401))
    answer = await upload.client.read_response()
    assert (answer.status, answer.body) == (401, body)


async def test_the_rest_of_an_answer_is_relayed(stage: Stage) -> None:
    """Its head came in time, with a status that lets the upload go on."""
    upload, origin = await uploading(stage)
    answer = response(b"early", "Connection: close")
    await upload.at_origin.send(answer[:-3])
    assert (await upload.client.read_until(b"ea")).endswith(b"ea")
    upload.closed_behind(answer[-3:])
    assert await upload.client.read_to_end() == b"rly"
    assert (await stage.log_line(upload.lb)).termination == "--"
    await serves(stage, upload, origin)


async def test_for_a_client_that_is_slow_no_more_than_one_read_is_held(stage: Stage) -> None:
    """The kernel may have megabytes of the answer: they are not read into our memory."""
    lb, client, origin = await stage.line(client_buffer=4096)
    await client.send(ENDLESS_POST + b"begin")
    at_origin = await origin.accept()
    await at_origin.read_until(b"\r\n\r\nbegin")
    upload = await begun(lb, client, at_origin)
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99000000\r\n\r\n")
    await at_origin.send_until_stuck(b"z" * 65_536, most=90_000_000)
    (end,) = lb._plane.context.live.clients
    assert end.exchange is not None
    passed = end.exchange.bytes_out
    upload.closed_behind(b"")
    line = await stage.log_line(lb)
    assert (line.status, line.termination) == (200, "SD")
    assert line.bytes - passed <= 64 * 1024


async def test_an_answer_that_is_not_whole_is_cut(stage: Stage) -> None:
    upload, _ = await uploading(stage)
    upload.closed_behind(REFUSAL[:-3])
    assert (await upload.client.read_until_cut()).endswith(b"too la")
    line = await stage.log_line(upload.lb)
    assert (line.status, line.termination) == (413, "SD")


async def test_an_answer_that_only_the_reset_ends_is_cut(stage: Stage) -> None:
    """It might have been longer: no client silently gets half an answer."""
    upload, _ = await uploading(stage)
    upload.closed_behind(b"HTTP/1.1 413 Too Large\r\n\r\ntoo large")
    got = await upload.client.read_until_cut()
    assert b"too large" in got
    assert not got.endswith(b"0\r\n\r\n")
    assert (await stage.log_line(upload.lb)).termination == "SD"


@pytest.mark.parametrize(
    ("begun", "reason"),
    [(b"", "without a response"), (REFUSAL[:30], "in the middle of a response head")],
)
async def test_without_an_answer_it_is_the_servers_failure(
    stage: Stage, begun: bytes, reason: str
) -> None:
    """What may not be repeated is answered with 502, and it counts."""
    upload, _ = await uploading(stage)
    upload.closed_behind(begun)
    assert (await upload.client.read_response()).status == 502
    line = await stage.log_line(upload.lb)
    assert (line.status, line.termination, line.retries) == (502, "SH", "0")
    assert reason in line.reason
    assert server_of(upload.lb).fails == 1


async def refuse_from_the_head(connection: AtOrigin, message: Message) -> None:
    """Answer, and close with the body unread, if it has one."""
    if message.get("Content-Length") is None:
        await connection.respond(b"fine")
        return
    await connection.send(REFUSAL)
    raise Ended(b"", by_reset=False)  # which closes it


class Refusing(AtOrigin):
    """It reads heads only."""

    async def read_request(self) -> Message:
        return Message(await self.read_head(), b"")


async def test_uploads_that_are_refused_take_no_server_out(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.origin.AtOrigin", Refusing)
    origin = await stage.serving(refuse_from_the_head)
    lb = await stage.balancer(origin)
    clients = await stage.clients(lb, 14)
    upload = request("POST", "/", body=b"x" * 5_000_000)
    for client in clients:
        stage.tasks.spawn(_send(client, upload), name="upload")
    answers = [await client.read_response() for client in clients]
    assert [answer.status for answer in answers] == [413] * 14
    assert server_of(lb).fails == 0
    for client in await stage.clients(lb, 3):
        assert (await client.ask()).body == b"fine"
    lines = await stage.logged(lb, 17)
    assert {(line.status, line.termination) for line in lines} == {(413, "--"), (200, "--")}
    await turns()


async def _send(client: Client, data: bytes) -> None:
    """Until it is not taken any more."""
    try:
        await client.send(data)
    except (OSError, TimeoutError):
        return
