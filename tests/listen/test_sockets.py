"""Where frontends listen: files, IPv6, ready-made sockets, and listeners that come and go."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import closing
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Address, Bind, UnixAddress
from hermes_lb.listen.listener import Listener
from hermes_lb.listen.sockets import handed_over, listening_socket, remove_stale
from tests.support.http_peer import Client
from tests.support.loops import on_both_loops
from tests.support.needs import needs_ipv6

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage


def at(path: Path) -> Bind:
    return Bind.model_validate(f"unix:{path}")


async def unix_client(stage: Stage, path: Path) -> Client:
    sock = socket.socket(socket.AF_UNIX)
    client = Client(sock)
    stage._clients.append(client)
    client.sock.connect(str(path))
    return client


def frontend(lb: LoadBalancer) -> Any:
    [only] = lb._plane.frontends
    return only


# In the file system.


@on_both_loops
async def test_clients_come_by_a_socket_in_the_file_system(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "lb.sock"
    origin = await stage.serving()
    lb = await stage.balancer(origin, frontend={"bind": [f"unix:{path}"]})
    assert lb.urls == [f"unix:{path}"]
    client = await unix_client(stage, path)
    for _ in range(2):
        assert (await client.ask("/", "X-Forwarded-For: 203.0.113.7")).status == 200
    assert {message.get("X-Forwarded-For") for message in origin.requests} == {"unix"}
    assert {line.line.split(" ")[0] for line in await stage.logged(lb, 2)} == {"unix:1"}
    await lb.stop()
    with pytest.raises(FileNotFoundError):
        await unix_client(stage, path)


async def test_who_comes_that_way_may_be_trusted(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "lb.sock"
    origin = await stage.serving()
    lb = await stage.balancer(
        origin, frontend={"bind": f"unix:{path}", "trusted_proxies": ["unix:"]}
    )
    client = await unix_client(stage, path)
    await client.get("/", "X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https")
    assert (await client.read_response()).status == 200
    [message] = origin.requests
    assert message.get("X-Forwarded-For") == "203.0.113.7, unix"
    assert message.get("X-Real-IP") == "203.0.113.7"
    assert message.get("X-Forwarded-Proto") == "https"
    assert (await stage.log_line(lb)).address == "203.0.113.7"


async def test_limits_of_a_client_hold_for_all_of_a_socket_file(
    stage: Stage, tmp_path: Path
) -> None:
    path = tmp_path / "lb.sock"
    lb = await stage.balancer(
        await stage.serving(),
        frontend={"bind": f"unix:{path}"},
        limits={"connections_per_client": 1, "request_rate": 1000},
        backend={"balance": "ip_hash"},
    )
    first, second = await unix_client(stage, path), await unix_client(stage, path)
    assert (await first.ask()).status == 200
    assert (await second.read_response()).status == 429
    assert len(await stage.logged(lb, 2)) == 2


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o666), ("0660", 0o660), ("600", 0o600)])
def test_a_socket_file_has_the_permissions_that_were_asked_for(
    tmp_path: Path, mode: str | None, expected: int
) -> None:
    path = tmp_path / "lb.sock"
    bind = Bind(address=UnixAddress(str(path)), mode=mode)
    with closing(listening_socket(bind, "public")):
        assert stat.S_IMODE(path.stat().st_mode) == expected


def test_a_file_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "lb.sock"
    listening_socket(at(path), "public").close()
    assert path.exists()
    with closing(listening_socket(at(path), "public")), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lb.sock"
    with closing(listening_socket(at(path), "other")):
        with pytest.raises(OSError, match="Address already in use") as caught:
            listening_socket(at(path), "public")
        assert caught.value.strerror.startswith(f"can't listen on unix:{path} (frontend public): ")
        remove_stale(UnixAddress(str(path)))
        assert path.exists()
    remove_stale(UnixAddress(str(path)))
    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("precious")
    with pytest.raises(OSError, match="there is a file that is no socket"):
        listening_socket(at(path), "public")
    remove_stale(UnixAddress(str(path)))
    assert path.read_text() == "precious"


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"can't listen on unix:.*: No such file or directory"):
        listening_socket(at(tmp_path / "none" / "lb.sock"), "public")


# IPv6.


@needs_ipv6
@on_both_loops
async def test_clients_come_by_ipv6(stage: Stage) -> None:
    origin = await stage.serving()
    lb = await stage.balancer(origin, frontend={"bind": ["[::1]:0", "127.0.0.1:0"]})
    assert lb.urls[0].startswith("http://[::1]:")
    sock = socket.socket(socket.AF_INET6)
    sock.connect(("::1", int(lb.urls[0].rsplit(":", 1)[1])))
    client = Client(sock)
    stage._clients.append(client)
    assert (await client.ask()).status == 200
    assert origin.requests[0].get("X-Forwarded-For") == "::1"
    line = await stage.log_line(lb)
    assert line.line.startswith("::1:")  # as HAProxy writes it
    assert line.address == "::1"


@needs_ipv6
async def test_both_families_may_have_one_port(stage: Stage) -> None:
    origin = await stage.serving()
    lb = await stage.balancer(origin, frontend={"bind": "0.0.0.0:0"})
    port = int(lb.url.rsplit(":", 1)[1])
    await frontend(lb).add(Bind(address=Address("::", port)))
    assert lb.urls == [f"http://127.0.0.1:{port}", f"http://[::1]:{port}"]


def link_local() -> str | None:
    """An address of this machine that needs a zone."""
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        digits, *_, interface = line.split()
        if digits.startswith("fe80"):
            return f"{IPv6Address(int(digits, 16))}%{interface}"
    return None


@needs_ipv6
def test_an_address_may_have_a_zone() -> None:
    if (address := link_local()) is None:
        pytest.skip("this machine has no link-local address")
    bind = Bind.model_validate(f"[{address}]:0")
    assert str(bind) == f"[{address}]:0"
    with closing(listening_socket(bind, "public")) as sock:
        assert sock.getsockname()[3] == socket.if_nametoindex(address.partition("%")[2])


# Ready-made sockets, and listeners that come and go.


@on_both_loops
async def test_a_listener_takes_ready_made_sockets(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "lb.sock"
    mine = listening_socket(at(path), "public")
    lb = await stage.balancer(await stage.serving())
    await frontend(lb).add(at(path), [mine.dup()])
    client = await unix_client(stage, path)
    assert (await client.ask()).status == 200
    await frontend(lb).remove(at(path))
    late = await unix_client(stage, path)  # my copy still listens
    assert path.exists()
    assert (await client.ask()).status == 200
    late.close()
    mine.close()


@on_both_loops
async def test_a_listener_can_be_added_and_removed_while_others_serve(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving())
    bind = Bind.model_validate("localhost:0")
    await frontend(lb).add(bind)
    first, second = lb.urls
    before, there = await stage.client(first), await stage.client(second)
    assert (await there.ask()).status == 200
    await frontend(lb).remove(bind)
    assert lb.urls == [first]
    with pytest.raises(ConnectionRefusedError):
        await stage.client(second)
    for client in (before, there):
        assert (await client.ask()).status == 200


async def test_an_address_that_cannot_be_had_adds_nothing(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving())
    taken = Bind.model_validate(lb.url.removeprefix("http://"))
    with pytest.raises(OSError, match="Address already in use"):
        await frontend(lb).add(taken)
    assert len(lb.urls) == 1


async def test_a_listener_that_is_added_to_a_full_house_waits(stage: Stage) -> None:
    lb, inside, origin = await stage.line(process={"max_connections": 1})
    await inside.get()
    at_origin, _ = await origin.accept_request()
    bind = Bind.model_validate("127.0.0.1:0")
    await frontend(lb).add(bind)
    waiting = await stage.client(lb.urls[1])
    await waiting.get()
    assert await waiting.gets_nothing()
    inside.close()
    assert await at_origin.read_until_cut() == b""
    at_origin, _ = await origin.accept_request()
    await at_origin.respond()
    assert (await waiting.read_response()).status == 200


def test_several_sockets_may_share_a_port() -> None:
    first = listening_socket(Bind.model_validate("127.0.0.1:0"), "public", reuse_port=True)
    same = Bind(address=Address("127.0.0.1", first.getsockname()[1]))
    with (
        closing(first),
        closing(listening_socket(same, "public", reuse_port=True)),
        pytest.raises(OSError, match="Address already in use"),
    ):
        listening_socket(same, "public")


async def test_a_listener_says_where_it_is(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving())
    [listener] = frontend(lb).listeners
    assert isinstance(listener, Listener)
    assert repr(listener) == f"<Listener {lb.url}>"


def test_the_duplicates_of_a_socket_that_was_handed_over_do_not_block() -> None:
    with socket.create_server(("127.0.0.1", 0)) as another_processes:
        another_processes.setblocking(False)
        sock = handed_over(os.dup(another_processes.fileno()))
        with sock, sock.dup() as duplicate:
            assert duplicate.getsockname() == another_processes.getsockname()
            assert not os.get_blocking(another_processes.fileno())
