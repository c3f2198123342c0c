"""Which process of a balancer has which connection: asked of the kernel, and not of the balancer.

A client's connection is called by its client's end: the port, or the inode of a Unix socket.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LISTEN = "0A"  # TCP_LISTEN, as /proc/net/tcp has it

# sock_diag(7): a dump of all Unix sockets, with their peers.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_DONE, _ERROR = 3, 2  # NLMSG_DONE, NLMSG_ERROR
_HEAD = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBHIII8s")  # unix_diag_req
_FOUND = struct.Struct("=BBBBI8s")  # unix_diag_msg
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_SHOW_PEER, _PEER = 4, 2  # UDIAG_SHOW_PEER, UNIX_DIAG_PEER


def connections_of(pid: int) -> set[str]:
    """The names of the connections that the process has accepted, as `Caller.name` has them.

    Also of those that it has opened itself. It has to be stopped: these are several looks.
    """
    inodes = _sockets_of(pid)
    connected = (row for row in _tcp(pid) if row[3] != _LISTEN and row[9] in inodes)
    ports = {f"port:{_port(row[2])}" for row in connected}
    return ports | {f"unix:{peer}" for ours, peer in _unix_pairs() if str(ours) in inodes}


def listens(pid: int) -> bool:
    """Whether the process has a TCP socket that listens."""
    inodes = _sockets_of(pid)
    return any(row[3] == _LISTEN and row[9] in inodes for row in _tcp(pid))


def state_of(pid: int) -> str:
    """`R`, `S`, `T` (stopped), `Z` and so on (proc_pid_stat(5)); "" if it is no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _sockets_of(pid: int) -> set[str]:
    """The inodes."""
    found = set()
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(entry)
            except OSError:  # it has been closed meanwhile
                continue
            if target.startswith("socket:["):
                found.add(target[len("socket:[") : -1])
    except OSError:  # it has ended
        pass
    return found


def _tcp(pid: int) -> list[list[str]]:
    try:
        lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()
    except OSError:
        return []
    return [line.split() for line in lines[1:]]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def _unix_pairs() -> Iterator[tuple[int, int]]:
    """(inode, the inode of its peer) of all Unix sockets that are connected."""
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_PEER, b"\xff" * 8)
    head = _HEAD.pack(_HEAD.size + len(request), _SOCK_DIAG_BY_FAMILY, _DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as sock:
        sock.sendto(head + request, (0, 0))
        while True:
            data = sock.recv(65536)
            while data:
                length, kind, *_ = _HEAD.unpack_from(data)
                if kind in (_DONE, _ERROR):
                    return
                yield from _pair(data[_HEAD.size : length])
                data = data[length:]


def _pair(message: bytes) -> Iterator[tuple[int, int]]:
    *_, inode, _ = _FOUND.unpack_from(message)
    place = _FOUND.size
    while place < len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, place)
        if kind == _PEER:
            yield inode, int.from_bytes(message[place + _ATTRIBUTE.size :][:4], "little")
        place += -(-length // 4) * 4
