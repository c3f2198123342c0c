"""Real servers in the topologies of production: Sentinels with replicas, a Cluster, AOF.

Without pytest, since the chaos harness uses it as well. It blocks; start it from the main
thread (see RedisServer).
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import redis

from agent_worker.redis_server import RedisServer
from tests.support.programs import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HOST = "127.0.0.1"
SLOTS = 16384
_START_S = 30.0
_POLL_S = 0.02

#: Replicas synchronise at once (the default collects several for 5 s).
_REPLICATION = {"repl-diskless-sync-delay": "0"}
#: As docs/sessions.md recommends: a master without synchronised replicas refuses writes.
GUARDED = {"min-replicas-to-write": "1", "min-replicas-max-lag": "2"}


def ask(port: int, *words: str | int) -> Any:
    """One command to the server on `port`, on a connection of its own; returns the raw reply."""
    with redis.Redis(
        host=HOST, port=port, decode_responses=True, socket_timeout=5, protocol=2
    ) as client:
        client.response_callbacks.clear()
        return client.execute_command(*words)


def facts(reply: str | list[str]) -> dict[str, str]:
    """The reply of an INFO ("name:value" lines), or of names and values in turn."""
    if isinstance(reply, list):
        return dict(zip(reply[::2], reply[1::2], strict=True))
    return dict(line.split(":", 1) for line in reply.splitlines() if ":" in line)


def wait_for(condition: Callable[[], Any], what: str, *, timeout_s: float = _START_S) -> None:
    """Block until `condition` is true; a server that does not answer makes it false."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(_POLL_S)


class Deployment:
    """Servers with a directory of their own; leaving the block stops and removes everything."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        #: By port, including killed ones, for `restart`.
        self.servers: dict[int, RedisServer] = {}
        self._options: dict[int, Mapping[str, str]] = {}

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.close)
            self._set_up()
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        for server in self.servers.values():
            if server.is_running:
                # A frozen one does not react to SIGTERM.
                os.kill(server.pid, signal.SIGCONT)
                server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self, port: int) -> None:
        """Like a crash: SIGKILL."""
        self.servers[port].kill()

    def freeze(self, port: int) -> None:
        """Like a hanging machine: its connections stay open, and it does not answer."""
        os.kill(self.servers[port].pid, signal.SIGSTOP)

    def thaw(self, port: int) -> None:
        os.kill(self.servers[port].pid, signal.SIGCONT)

    def restart(self, port: int) -> None:
        """Restart a killed server, on its port and with its directory."""
        self.servers[port] = RedisServer.start(port, options=self._options[port])

    def start(self, options: Mapping[str, str]) -> RedisServer:
        # Each in a directory of its own, since file names are the same.
        own = {"dir": tempfile.mkdtemp(dir=self.folder), **options}
        server = RedisServer.start(options=own)
        self.servers[server.port], self._options[server.port] = server, own
        return server

    def _set_up(self) -> None:
        raise NotImplementedError


class Durable(Deployment):
    """One server that keeps every acknowledged write (AOF, `appendfsync always`)."""

    port: int

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def _set_up(self) -> None:
        self.port = self.start({"appendonly": "yes", "appendfsync": "always"}).port


class Sentinels(Deployment):
    """A master with replicas, and three Sentinels that promote one of them within seconds."""

    MASTER_NAME = "main"

    def __init__(
        self,
        *,
        replicas: int = 2,
        down_after_ms: int = 500,
        options: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._replicas = replicas
        self._server_options = {**_REPLICATION, **(options or {})}
        self._down_after_ms = down_after_ms
        self.sentinel_ports: list[int] = []
        self._sentinels: list[RedisServer] = []
        self._data_ports: list[int] = []

    @property
    def url(self) -> str:
        hosts = ",".join(f"{HOST}:{port}" for port in self.sentinel_ports)
        return f"redis+sentinel://{hosts}/{self.MASTER_NAME}"

    @property
    def master_port(self) -> int:
        """As most Sentinels know it."""
        ports = [self._master_port_by(port) for port in self.sentinel_ports]
        return max(set(ports), key=ports.count)

    @property
    def replica_ports(self) -> list[int]:
        """The running servers that are not the master."""
        master = self.master_port
        alive = [port for port in self._data_ports if self.servers[port].is_running]
        return [port for port in alive if port != master]

    def wait_for_new_master(self, old: int, *, timeout_s: float = _START_S) -> int:
        """Block until all Sentinels name another one, and it accepts writes."""

        def is_promoted() -> bool:
            ports = {self._master_port_by(port) for port in self.sentinel_ports}
            return len(ports) == 1 and old not in ports and ask(*ports, "ROLE")[0] == "master"

        wait_for(is_promoted, "a new master", timeout_s=timeout_s)
        return self.master_port

    def wait_in_step(self) -> None:
        """Block until all running replicas follow the master and all Sentinels know them."""

        def is_in_step() -> bool:
            wanted = len(self.replica_ports)
            linked = ask(self.master_port, "INFO", "replication").count("state=online")
            return linked == wanted and all(
                self._knows(port, wanted) for port in self.sentinel_ports
            )

        wait_for(is_in_step, "replicas in step")

    def kill_sentinels(self) -> None:
        for sentinel in self._sentinels:
            if sentinel.is_running:
                sentinel.kill()

    def close(self) -> None:
        # First: they would react to the end of the servers.
        self.kill_sentinels()
        super().close()

    def _set_up(self) -> None:
        master = self.start(self._server_options).port
        self._data_ports = [master]
        for _ in range(self._replicas):
            options = {**self._server_options, "replicaof": f"{HOST} {master}"}
            self._data_ports.append(self.start(options).port)
        for number in range(3):
            self._start_sentinel(number, master)
        self.wait_in_step()

    def _start_sentinel(self, number: int, master: int) -> None:
        name = self.MASTER_NAME
        folder = self.folder / f"sentinel{number}"
        folder.mkdir()
        file = folder / "sentinel.conf"
        file.write_text(
            f"dir {folder}\n"
            f"sentinel monitor {name} {HOST} {master} 2\n"
            f"sentinel down-after-milliseconds {name} {self._down_after_ms}\n"
            # This is also the pause before a second attempt.
            f"sentinel failover-timeout {name} 3000\n"
            f"sentinel parallel-syncs {name} {self._replicas}\n"
        )
        self._sentinels.append(RedisServer.start(sentinel_file=file))
        self.sentinel_ports.append(self._sentinels[-1].port)

    def _master_port_by(self, sentinel_port: int) -> int:
        return int(ask(sentinel_port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.MASTER_NAME)[1])

    def _knows(self, sentinel_port: int, replicas: int) -> bool:
        master = facts(ask(sentinel_port, "SENTINEL", "MASTER", self.MASTER_NAME))
        return (
            int(master["num-other-sentinels"]) == 2
            and int(master["num-slaves"]) >= replicas
            and master["flags"] == "master"
        )


class Cluster(Deployment):
    """Three masters, each with `replicas` of its own."""

    MASTERS = 3

    def __init__(self, *, replicas: int = 1, node_timeout_ms: int = 1000) -> None:
        super().__init__()
        self._replicas = replicas
        self._node_timeout_ms = node_timeout_ms

    @property
    def ports(self) -> list[int]:
        return list(self.servers)

    @property
    def url(self) -> str:
        hosts = ",".join(f"{HOST}:{port}" for port in self.ports[: self.MASTERS])
        return f"redis+cluster://{hosts}"

    def master_of(self, key: str) -> int:
        """The port of the master that holds `key`, as the running nodes know it."""
        slot = int(self._ask_any("CLUSTER", "KEYSLOT", key))
        for first, last, (_, port, *_), *_ in self._slots():
            if first <= slot <= last:
                return int(port)
        raise LookupError(f"no node serves the slot {slot}")

    def master_ports(self) -> list[int]:
        return [int(port) for _, _, (_, port, *_), *_ in self._slots()]

    def wait_for_new_master(self, key: str, old: int, *, timeout_s: float = _START_S) -> int:
        """Block until another node than `old` serves `key` and the state of the Cluster is ok."""
        wait_for(
            lambda: self.master_of(key) != old and self._is_ok(), "promotion", timeout_s=timeout_s
        )
        return self.master_of(key)

    def wait_until_whole(self) -> None:
        """Block until every running node reports that replicated masters serve all slots."""
        wait_for(self._is_whole, "a whole Cluster")

    def move_slot(self, slot: int, source: int, target: int) -> None:
        """Begin to migrate an (empty) slot, and leave it in IMPORTING and MIGRATING."""
        ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(source))
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(target))

    def finish_move(self, slot: int, target: int) -> None:
        """Assign the slot to the target, on it and on all other masters."""
        for port in [target, *self.master_ports()]:
            ask(port, "CLUSTER", "SETSLOT", slot, "NODE", self._id(target))

    def _set_up(self) -> None:
        for _ in range(self.MASTERS * (1 + self._replicas)):
            self._start_node()
        masters = self.ports[: self.MASTERS]
        for number, port in enumerate(masters):
            first = SLOTS * number // self.MASTERS
            last = SLOTS * (number + 1) // self.MASTERS - 1
            ask(port, "CLUSTER", "ADDSLOTSRANGE", first, last)
            # Distinct from the start, or the nodes would have to resolve a conflict.
            ask(port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port in self.ports[1:]:
            meet = ("CLUSTER", "MEET", HOST, masters[0], self._bus_port(masters[0]))
            ask(port, *meet)
        everybody = len(self.ports)
        wait_for(
            lambda: all(self._known_to(port) == everybody for port in self.ports),
            "a Cluster whose nodes know each other",
        )
        for number, port in enumerate(self.ports[self.MASTERS :]):
            ask(port, "CLUSTER", "REPLICATE", self._id(masters[number % self.MASTERS]))
        self.wait_until_whole()

    def _start_node(self) -> None:
        self.start(
            {
                **_REPLICATION,
                "cluster-enabled": "yes",
                "cluster-node-timeout": str(self._node_timeout_ms),
                # The default, port + 10000, may be invalid or in use.
                "cluster-port": str(free_port()),
                # A replica may be promoted after a long partition.
                "cluster-replica-validity-factor": "0",
            }
        )

    def _bus_port(self, port: int) -> str:
        return self._options[port]["cluster-port"]

    def _id(self, port: int) -> str:
        return str(ask(port, "CLUSTER", "MYID"))

    def _known_to(self, port: int) -> int:
        return int(facts(ask(port, "CLUSTER", "INFO"))["cluster_known_nodes"])

    def _alive(self) -> list[int]:
        return [port for port in self.ports if self.servers[port].is_running]

    def _ask_any(self, *words: str | int) -> Any:
        return ask(self._alive()[0], *words)

    def _slots(self) -> list[Any]:
        slots: list[Any] = self._ask_any("CLUSTER", "SLOTS")
        return slots

    def _is_ok(self) -> bool:
        return all(
            facts(ask(port, "CLUSTER", "INFO"))["cluster_state"] == "ok" for port in self._alive()
        )

    def _is_whole(self) -> bool:
        ranges = self._slots()
        covered = sum(last - first + 1 for first, last, *_ in ranges)
        replicated = all(len(nodes) >= 1 + self._replicas for _, _, *nodes in ranges)
        return covered == SLOTS and replicated and self._is_ok() and self._is_linked()

    def _is_linked(self) -> bool:
        roles = [ask(port, "ROLE") for port in self._alive()]
        return all(role[0] == "master" or role[3] == "connected" for role in roles)
