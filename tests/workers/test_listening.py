"""The listening sockets of all workers, on real ports and files."""

from __future__ import annotations

import gc
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Config, UnixAddress
from hermes_lb.workers.listening import Listening
from tests.support.needs import needs_ipv6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[..., Listening]

LOOPBACK = "127.0.0.1"


def config(**binds: str | list[str]) -> Config:
    """A configuration of frontends by name, with their addresses."""
    return Config.model_validate(
        {
            "frontends": [
                {"name": name, "bind": bind, "default_backend": "agents"}
                for name, bind in binds.items()
            ],
            "backends": {"agents": {"servers": [{"name": "a", "address": "10.0.0.1:80"}]}},
            "admin": {"enabled": False},
        }
    )


@pytest.fixture
def listening() -> Iterator[Make]:
    """Make a `Listening`; at the end it is closed, and must leave no descriptor open."""
    gc.collect()  # so that sockets of other tests are not closed during this one
    before = len(os.listdir("/proc/self/fd"))
    made: list[Listening] = []

    def make(*args: Any) -> Listening:
        made.append(Listening(*args))
        return made[-1]

    yield make
    for one in made:
        one.close_all()
    assert len(os.listdir("/proc/self/fd")) == before


def a_port() -> int:
    """A free one."""
    with socket.create_server((LOOPBACK, 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((LOOPBACK, port)) == 0


def accepts(sock: socket.socket) -> bool:
    """-> whether a client was in the backlog."""
    try:
        connection, _ = sock.accept()
    except BlockingIOError:
        return False
    connection.close()
    return True


def passed(path: str = "", *, port: int = 0) -> socket.socket:
    """A socket opened by systemd."""
    if path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        sock.listen()
        return sock
    return socket.create_server((LOOPBACK, port))


# TCP.


@pytest.mark.parametrize("slots", [1, 3])
def test_each_slot_has_a_socket_at_the_same_port(listening: Make, slots: int):
    group = listening(slots)
    assert group.open(config(public="127.0.0.1:0")) == [("public", "127.0.0.1:0")]
    sockets = [sock for slot in range(slots) for _, sock in group.of_slot(slot)]
    assert len({sock.getsockname() for sock in sockets}) == 1
    assert len({sock.fileno() for sock in sockets}) == slots
    assert not any(sock.getblocking() for sock in sockets)


def test_the_kernel_spreads_connections_over_the_slots(listening: Make):
    group = listening(4)
    group.open(config(public="127.0.0.1:0"))
    sockets = group.groups["public", "127.0.0.1:0"]
    for _ in range(200):
        assert is_open(sockets[0].getsockname()[1])
    accepted = [0] * 4
    for slot, sock in enumerate(sockets):
        while accepts(sock):
            accepted[slot] += 1
    assert sum(accepted) == 200
    assert all(accepted)


def test_two_frontends_at_any_port_are_at_two(listening: Make):
    group = listening(2)
    group.open(config(one="127.0.0.1:0", two="127.0.0.1:0"))
    ports = {sockets[0].getsockname()[1] for sockets in group.groups.values()}
    assert len(ports) == 2


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("shares", [False, True])
def test_a_port_that_another_program_has_is_found_out(listening: Make, slots: int, shares: bool):
    group = listening(slots)
    with socket.socket() as other:
        if shares:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((LOOPBACK, 0))
        other.listen()
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(OSError, match="in use") as caught:
            group.open(config(public=bind))
    assert caught.value.strerror is not None
    assert caught.value.strerror.startswith(f"can't listen on {bind} (frontend public): ")
    assert not group.groups


@pytest.mark.parametrize("slots", [1, 3])
def test_if_one_address_can_not_be_had_nothing_is_changed(
    listening: Make, slots: int, tmp_path: Path
):
    group = listening(slots)
    kept = f"127.0.0.1:{a_port()}"
    group.open(config(kept=kept))
    before = dict(group.groups)
    files = len(os.listdir("/proc/self/fd"))
    port, path = a_port(), tmp_path / "lb.sock"
    with socket.create_server((LOOPBACK, 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        binds = [f"127.0.0.1:{port}", f"unix:{path}", taken]
        with pytest.raises(OSError, match="in use"):
            group.open(config(kept=kept, new=binds))
    assert group.groups == before
    assert len(os.listdir("/proc/self/fd")) == files
    assert not is_open(port)
    assert not path.exists()


def test_only_what_is_new_is_opened(listening: Make):
    group = listening(2)
    first, second = f"127.0.0.1:{a_port()}", f"127.0.0.1:{a_port()}"
    group.open(config(public=first))
    before = group.groups["public", first]
    assert group.open(config(public=[first, second])) == [("public", second)]
    assert group.groups["public", first] is before
    assert [key for key, _ in group.of_slot(1, [("public", second)])] == [("public", second)]


def test_what_is_unused_is_closed_and_the_rest_stays(listening: Make):
    group = listening(2)
    ports = [a_port(), a_port()]
    one, two = (f"127.0.0.1:{port}" for port in ports)
    group.open(config(public=[one, two]))
    unused = group.unused(config(public=two))
    assert unused == [("public", one)]
    group.close(unused)
    assert [is_open(port) for port in ports] == [False, True]


@pytest.mark.parametrize("slots", [1, 2])
def test_an_address_may_go_to_another_frontend(listening: Make, slots: int, tmp_path: Path):
    group = listening(slots)
    port, path = a_port(), tmp_path / "lb.sock"
    binds = [f"127.0.0.1:{port}", f"unix:{path}"]
    group.open(config(before=binds))
    after = config(after=binds)
    assert group.open(after) == [("after", bind) for bind in binds]
    assert is_open(port)  # in the backlog
    group.close(group.unused(after))
    assert sorted(group.groups) == [("after", bind) for bind in binds]
    assert sum(accepts(sock) for sock in group.groups["after", binds[0]]) == 1
    assert path.exists()
    group.close_all()
    assert not path.exists()
    assert not is_open(port)


# Unix sockets.


def test_all_slots_accept_from_one_socket_in_the_file_system(listening: Make, tmp_path: Path):
    group = listening(3)
    bind = f"unix:{tmp_path / 'lb.sock'}"
    group.open(config(public=bind))
    sockets = group.groups["public", bind]
    for slot in range(3):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "lb.sock"))
            assert accepts(sockets[slot])
    assert group.all() == [(("public", bind), sockets, str(tmp_path / "lb.sock"))]


def test_the_file_goes_with_its_socket(listening: Make, tmp_path: Path):
    group = listening(2)
    path = tmp_path / "lb.sock"
    group.open(config(public=f"unix:{path}"))
    assert path.exists()
    group.close_all()
    assert not path.exists()


def test_the_file_stays_for_who_listens_there_still_or_again(listening: Make, tmp_path: Path):
    group = listening(1)
    path = tmp_path / "lb.sock"
    configured = config(public=f"unix:{path}")
    group.open(configured)
    [socks] = group.groups.values()
    with socks[0].dup():  # a worker's, not closed yet
        group.close_all()
        assert path.exists()
    group.remove_files()
    assert not path.exists()
    group.open(configured)
    group.remove_files()
    assert path.exists()
    [socks] = group.groups.values()
    assert not accepts(socks[0]), "the check must not connect"


def test_a_file_that_a_dead_process_left_is_in_nobodys_way(listening: Make, tmp_path: Path):
    path = tmp_path / "lb.sock"
    passed(str(path)).close()
    assert path.exists()
    group = listening(2)
    group.open(config(public=f"unix:{path}"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_sockets_that_another_generation_has_opened_are_taken_over(listening: Make, tmp_path: Path):
    group, following = listening(2), listening(2)
    path = tmp_path / "lb.sock"
    configured = config(public=["127.0.0.1:0", f"unix:{path}"])
    group.open(configured)
    for key, sockets, file in group.all():
        address = UnixAddress(file) if file else None
        following.take_over(key, [sock.dup() for sock in sockets], address)
    assert following.open(configured) == []
    assert following.all()[1][2] == str(path)
    assert following.closed == []


def test_the_next_generation_removes_what_this_one_could_not(listening: Make, tmp_path: Path):
    group, following = listening(1), listening(1)
    path = tmp_path / "lb.sock"
    group.open(config(public=f"unix:{path}"))
    [socks] = group.groups.values()
    with socks[0].dup():
        group.close_all()
    following.take_over_closed(group.closed)
    following.remove_files()
    assert not path.exists()


# From systemd.


@pytest.mark.parametrize("slots", [1, 3])
def test_a_passed_socket_is_known_by_the_frontends_name(listening: Make, slots: int):
    given = passed()
    where = given.getsockname()
    group = listening(slots, {"public": [given]})
    group.open(config(public="127.0.0.1:80"))
    sockets = group.groups["public", "127.0.0.1:80"]
    assert [sock.getsockname() for sock in sockets] == [where] * slots
    assert not any(sock.getblocking() for sock in sockets)


def test_a_passed_socket_is_known_by_its_address(listening: Make, tmp_path: Path):
    path = str(tmp_path / "lb.sock")
    given = [passed(path), passed(), passed()]
    ports = [sock.getsockname()[1] for sock in given[1:]]
    group = listening(2, {"agents.socket": given})
    binds = [f"127.0.0.1:{ports[1]}", f"unix:{path}"]
    group.open(config(public=binds[0], other=[binds[1], f"127.0.0.1:{ports[0]}"]))
    assert group.groups["public", binds[0]][0] is given[2]
    assert group.groups["other", binds[1]][0] is given[0]
    assert group.groups["other", f"127.0.0.1:{ports[0]}"][0] is given[1]


@needs_ipv6
def test_a_passed_socket_is_known_however_its_address_is_written(listening: Make):
    given = socket.create_server(("::1", 0), family=socket.AF_INET6)
    port = given.getsockname()[1]
    binds = [f"[0:0:0::0001]:{port}", f"127.0.0.1:{a_port()}"]
    group = listening(2, {"public": [given]})
    group.open(config(public=binds))
    assert group.groups["public", binds[0]][0] is given


def test_a_name_alone_does_not_say_which_of_two_binds_it_is(listening: Make):
    given = passed()
    second, first = f"127.0.0.1:{given.getsockname()[1]}", f"127.0.0.1:{a_port()}"
    group = listening(2, {"public": [given]})
    group.open(config(public=[first, second]))
    assert group.groups["public", second][0] is given
    assert f"127.0.0.1:{group.groups['public', first][0].getsockname()[1]}" == first


def test_who_was_passed_nothing_listens_by_itself(listening: Make):
    given = passed()
    group = listening(2, {"somebody": [given]})
    group.open(config(public="127.0.0.1:0"))
    assert group.groups["public", "127.0.0.1:0"][0].getsockname() != given.getsockname()
    given.close()


def test_a_file_that_systemd_still_listens_at_stays(listening: Make, tmp_path: Path):
    path = tmp_path / "lb.sock"
    systemds = passed(str(path))
    group = listening(1, {"public": [systemds.dup()]})
    group.open(config(public=f"unix:{path}"))
    group.close_all()
    assert path.exists()
    systemds.close()
