"""TLS to clients: records that bear no data, of which one client could send any number."""

from __future__ import annotations

import asyncio
import socket
import ssl
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.testing import eventually
from hermes_lb.tls.records import Records
from tests.support.http_peer import request
from tests.support.loops import on_both_loops
from tests.support.stage import in_flight
from tests.support.tls import refused, serving, tls_client, with_tls
from tests.support.waiting import turns
from tests.support.websocket import WEBSOCKET, switch
from tests.tls.own_records import Writer12, Writer13, writing_client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin
    from tests.support.origin import Origin
    from tests.support.stage import Stage
    from tests.support.tls import TlsClient

MOST = 32  # in a row
AT_A_TIME = 128  # records that are decrypted in one iteration of the loop
AT_ONCE = 64  # of those that come in one read, before it is seen that they are too many
ANSWER = 27  # bytes of a KeyUpdate of TLS 1.3
TOO_MANY = "TLS: too many records without data"


def refusals(lb: LoadBalancer) -> dict[tuple[int, str], int]:
    [frontend] = lb._plane.frontends
    return frontend.counters.refused


def the_client(lb: LoadBalancer) -> Any:
    """The balancer's side of the only connection."""
    [client] = lb._plane.context.live.clients
    return client


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    return request.param


class Writing(NamedTuple):
    lb: LoadBalancer
    client: TlsClient
    writer: Writer12 | Writer13


@pytest.fixture
async def served(
    stage: Stage, tmp_path: Path, certificate: str, version: ssl.TLSVersion
) -> Writing:
    """A client that writes its own records, before a server that says "ok"."""
    lb = await serving(stage, certificate)
    return Writing(lb, *await writing_client(stage, lb, tmp_path, version))


async def uploading(
    client: TlsClient, writer: Writer12 | Writer13, origin: Origin, length: int
) -> AtOrigin:
    """The head of its POST has reached the origin."""
    await client.wire.send(writer.record(request("POST", "/", f"Content-Length: {length}")))
    at_origin = await origin.accept()
    await at_origin.read_head()
    return at_origin


@on_both_loops
async def test_a_flood_of_them_is_cut_after_a_few(stage: Stage, served: Writing) -> None:
    lb, client, writer = served
    await client.wire.send(b"".join(writer.barren() for _ in range(500)))
    answers = await client.wire.read_until_cut()
    assert len(answers) <= AT_ONCE * 40
    line = await refused(stage, lb)
    assert (line.status, line.termination, line.reason) == (-1, "PR", TOO_MANY)
    assert refusals(lb) == {(0, TOO_MANY): 1}
    other = await tls_client(stage, lb)
    assert (await other.ask()).status == 200


async def test_they_are_counted_over_several_reads(stage: Stage, served: Writing) -> None:
    lb, client, writer = served
    for _ in range(MOST):
        await client.wire.send(writer.barren())
        await client.wire.read_some()  # its answer: it was read alone
    await client.wire.send(writer.barren())
    await client.wire.read_until_cut()
    assert (await refused(stage, lb)).reason == TOO_MANY


async def test_a_client_may_renew_its_keys_forever_between_requests(
    stage: Stage, served: Writing, version: ssl.TLSVersion
) -> None:
    lb, client, writer = served
    for _ in range(5):
        barren = b"".join(writer.barren() for _ in range(MOST // 2))
        asked = writer.record(request("GET", "/"))
        await client.wire.send(barren + asked)
        if version is ssl.TLSVersion.TLSv1_3:  # OpenSSL's client takes no warnings in 1.2
            assert (await client.read_response()).status == 200
        else:
            await client.wire.read_some()
    await stage.logged(lb, 5)
    assert refusals(lb) == {}


async def test_data_in_between_does_not_help_within_one_read(
    stage: Stage, tmp_path: Path, certificate: str
) -> None:
    """Or one read of 256 KiB would cost 0.2 s."""
    origin = await stage.origin()
    lb = await stage.balancer(origin, frontend=with_tls(certificate))
    client, writer = await writing_client(stage, lb, tmp_path)
    at_origin = await uploading(client, writer, origin, 1000)
    records = [b"".join(writer.barren() for _ in range(8)) + writer.record(b"x") for _ in range(50)]
    await client.wire.send(b"".join(records))
    await client.wire.read_until_cut()
    assert len(await at_origin.read_until_cut()) < 10
    line = await stage.log_line(lb)
    assert (line.termination, line.reason) == ("PH", TOO_MANY)
    assert refusals(lb) == {(0, TOO_MANY): 1}
    assert in_flight(lb) == [0]


async def test_a_tunnel_is_cut_at_both_ends(stage: Stage, tmp_path: Path, certificate: str) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, frontend=with_tls(certificate))
    client, writer = await writing_client(stage, lb, tmp_path)
    await client.wire.send(writer.record(request("GET", "/", *WEBSOCKET)))
    at_origin, _ = await origin.accept_request()
    await switch(client, at_origin)
    await client.wire.send(writer.record(b"ping"))
    assert await at_origin.read_exactly(4) == b"ping"
    await client.wire.send(b"".join(writer.barren() for _ in range(2 * MOST)))
    await client.wire.read_until_cut()
    assert await at_origin.read_until_cut() == b""
    line = await stage.log_line(lb)
    assert (line.termination, line.reason) == ("PD", TOO_MANY)
    assert in_flight(lb) == [0]


@on_both_loops
@pytest.mark.parametrize("size", [1, 7, 100])
async def test_records_may_come_in_pieces(stage: Stage, certificate: str, size: int) -> None:
    """Each piece is a read of its own, and is no record."""
    lb = await serving(stage, certificate)
    client = await tls_client(stage, lb)
    for _ in range(2):
        client.tls.write(request("POST", "/", body=b"x" * 100))
        client.tls.write(b"")
        record = client.outgoing.read()
        for at in range(0, len(record), size):
            await client.wire.send(record[at : at + size])
            await turns(3)
        assert (await client.read_response()).status == 200


@on_both_loops
async def test_many_records_in_one_read_are_decrypted_in_parts(
    stage: Stage, tmp_path: Path, certificate: str, version: ssl.TLSVersion
) -> None:
    """256 KiB may be 11,000 of them, which would stop the loop for 30 ms."""
    origin = await stage.origin()
    lb = await stage.balancer(origin, frontend=with_tls(certificate))
    client, writer = await writing_client(stage, lb, tmp_path, version)
    data = bytes(i % 251 for i in range(5 * AT_A_TIME))
    at_origin = await uploading(client, writer, origin, len(data))
    connection = the_client(lb)
    layer = connection.transport
    layer.data_received(b"".join(writer.record(data[i : i + 1]) for i in range(len(data))))
    for parts in range(1, 6):
        assert connection.exchange.bytes_in <= parts * AT_A_TIME
        assert layer.is_reading() is (layer.behind == 0)
        await asyncio.sleep(0)
    assert await at_origin.read_exactly(len(data)) == data
    await eventually(layer.is_reading)
    await at_origin.serves(client, b"done")


async def test_a_reader_that_catches_up_does_not_end_another_pause(
    stage: Stage, certificate: str
) -> None:
    lb = await serving(stage, certificate)
    client = await tls_client(stage, lb)
    assert (await client.ask()).status == 200
    layer = the_client(lb).transport
    layer.pause_reading()
    layer.pause_writing()
    layer.resume_writing()
    assert not layer.is_reading()
    layer.resume_reading()
    assert layer.is_reading()


# Clients that do not read the answers.


async def a_deaf_client(
    stage: Stage, lb: LoadBalancer, folder: Path
) -> tuple[TlsClient, Writer13, asyncio.Transport]:
    """It has room for few of them; and the balancer's transport to it."""
    client, writer = await writing_client(stage, lb, folder, room=16 * 1024)
    assert isinstance(writer, Writer13)
    transport = the_client(lb).transport
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
    return client, writer, transport


async def send_until_not_read(
    client: TlsClient,
    writer: Writer13,
    transport: asyncio.Transport,
    data: bytes,
    is_seen: Callable[[], Awaitable[object]],
) -> int:
    """Before each byte of `data` as many KeyUpdates as may be -> how many bytes of it were read.

    `is_seen`: the byte has been, so what comes next is a read of its own.
    """
    for sent in range(len(data)):
        if not transport.is_reading():
            return sent
        barren = b"".join(writer.barren() for _ in range(MOST - 1))
        await client.wire.send(barren + writer.record(data[sent : sent + 1]))
        await is_seen()
    raise AssertionError("it was read from all the time")


@on_both_loops
async def test_who_does_not_read_the_answers_is_not_read_from(
    stage: Stage, tmp_path: Path, certificate: str
) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, frontend=with_tls(certificate))
    client, writer, transport = await a_deaf_client(stage, lb, tmp_path)
    body = b"x" * 500
    at_origin = await uploading(client, writer, origin, len(body))
    sent = await send_until_not_read(
        client, writer, transport, body, lambda: at_origin.read_exactly(1)
    )
    assert transport.get_write_buffer_size() <= 64 * 1024 + AT_ONCE * ANSWER
    await client.wire.send(b"".join(writer.record(b"x") for _ in body[sent:]))
    await turns(20)
    assert not at_origin.unread
    # A client that begins to read is read from again.
    reading = stage.tasks.spawn(client.read_response(), name="a client that reads")
    await at_origin.read_exactly(len(body) - sent)
    await at_origin.respond(b"done")
    assert (await reading).body == b"done"
    assert transport.is_reading()


async def test_nor_is_one_that_asks_for_nothing_yet(
    stage: Stage, tmp_path: Path, certificate: str
) -> None:
    lb = await serving(stage, certificate)
    client, writer, transport = await a_deaf_client(stage, lb, tmp_path)
    connection, came = the_client(lb), 0

    async def is_seen() -> None:
        nonlocal came
        came += 1
        await eventually(lambda: len(connection._held) == came)

    await send_until_not_read(client, writer, transport, b"GET /" + b"x" * 500, is_seen)
    assert transport.get_write_buffer_size() <= 64 * 1024 + AT_ONCE * ANSWER


# Where records begin.


@given(
    st.lists(st.one_of(st.integers(0, 60), st.integers(0, 16_640)), max_size=200),
    st.lists(st.integers(1, 2_000), min_size=1),
    st.integers(0, 4),
)
def test_each_record_is_found_however_it_comes(
    lengths: list[int], sizes: list[int], missing: int
) -> None:
    stream = b"".join(b"\x17\x03\x03" + n.to_bytes(2, "big") + bytes(n) for n in lengths)
    stream += b"\x17\x03\x03\x01"[:missing]  # of one more header
    records, given_out, found = Records(), b"", 0
    for size in cycle(sizes):
        came = stream[len(given_out) : len(given_out) + size]
        if not came:
            break
        parts = records.split(came)
        assert b"".join(part for part, _ in parts) == came
        assert all(part and begun <= MOST for part, begun in parts)
        given_out += came
        found += sum(begun for _, begun in parts)
    assert found == len(lengths)


def test_what_comes_at_once_is_given_out_by_a_few() -> None:
    record = b"\x17\x03\x03\x00\x16" + bytes(22)
    assert Records().split(record) == ((record, 1),)
    assert Records().split(70 * record) == [
        (MOST * record, MOST), (MOST * record, MOST), (6 * record, 6)
    ]  # fmt: skip
