"""Balancers with turns, in front of origins, and clients that come back.

gateway = await Gateway.before(stage, origin, route={"session": "header:X-Session"})
client = await gateway.client()
await client.send(post(b"{}", key="a"))
"""

from __future__ import annotations

import re
from hashlib import blake2b
from secrets import token_hex
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from hermes_lb.backends.counters import TURN_OUTCOMES
from hermes_lb.proxy.turns.principal import PrincipalFinder, digest
from hermes_lb.turns.ports import Claim
from hermes_lb.turns.states import NAMES
from tests.support.stage import configuration
from tests.support.turn_store import MemoryStore, MemoryTurnStore
from tests.support.waiting import until

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from hermes_lb.turns.ports import OwnedTurn
    from tests.support.http_peer import AtOrigin, Client, Head
    from tests.support.origin import Origin
    from tests.support.stage import Stage

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"
SECRET_TEXT = b"a secret that all balancers have"


def request(
    method: str,
    target: str,
    *fields: str,
    body: bytes = b"",
    key: str | None = None,
    last: str | None = None,
    user: str | None = "alice",
) -> bytes:
    """A request of this user, whole. `last`: the Last-Event-ID."""
    lines = [f"{method} {target} HTTP/1.1", "Host: a", *fields]
    if user is not None:
        lines.append(f"Authorization: Bearer {user}")
    if key is not None:
        lines.append(f"Idempotency-Key: {key}")
    if last is not None:
        lines.append(f"Last-Event-ID: {last}")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def post(body: bytes = b"{}", *fields: str, target: str = "/v1/run", **named: Any) -> bytes:
    return request("POST", target, "Content-Type: application/json", *fields, body=body, **named)


def get(target: str, *fields: str, **named: Any) -> bytes:
    return request("GET", target, *fields, **named)


def events(*data: str) -> bytes:
    """As one chunk."""
    block = "".join(f"data: {each}\n\n" for each in data).encode()
    return b"%x\r\n%b\r\n" % (len(block), block)


def turn_of(head: Head) -> str:
    turn = head.get("X-Hermes-Turn")
    assert turn is not None, head.raw
    return turn


def path_of(turn: str) -> str:
    return f"/.hermes/turns/{turn}"


_IDS = re.compile(rb"^id: ?([^\r\n]*)\r?\n", re.MULTILINE)


def without_ids(stream: bytes) -> bytes:
    """The backend's bytes: without our id lines and what comes first for EventSource."""
    return re.sub(rb"^id: h1\.[^\r\n]*(\r\n|\n)", b"", stream.removeprefix(b""), flags=re.MULTILINE)


def ids(stream: bytes) -> list[str]:
    return [found.decode() for found in _IDS.findall(stream)]


class Gateway:
    """One balancer, whose turns are in `shared`, or in the store at `url`, if that is set."""

    url: str | None = None

    def __init__(self, stage: Stage, lb: LoadBalancer, shared: MemoryStore) -> None:
        self._stage = stage
        self.lb = lb
        self.shared = shared

    @classmethod
    async def before(
        cls,
        stage: Stage,
        *origins: Origin | int,
        route: dict[str, Any] | None = None,
        turns: dict[str, Any] | None = None,
        shared: MemoryStore | None = None,
        **options: Any,
    ) -> Gateway:
        """`turns`: of `[frontends.routes.turns]`; `route`: of its route."""
        shared = MemoryStore() if shared is None else shared
        secret = stage.folder / "turns.secret"
        if not secret.exists():
            # Tests that share a server have other principals.
            secret.write_bytes(SECRET_TEXT if cls.url is None else token_hex(16).encode())

        async def open_store(*_: object) -> MemoryTurnStore:
            return MemoryTurnStore(shared)

        one = {"path_prefix": "/v1/", "backend": "agents", "turns": turns or {}, **(route or {})}
        frontend = {"routes": [one], **options.pop("frontend", {})}
        config = configuration(origins, frontend=frontend, **options)
        config["store"] = {"secret_file": str(secret), "url": cls.url}
        if cls.url is not None:
            return cls(stage, await stage.start(config), shared)
        with patch("hermes_lb.plane.open_turn_store", open_store):
            lb = await stage.start(config)
        return cls(stage, lb, shared)

    async def client(self) -> Client:
        return await self._stage.client(self.lb)

    async def ask(self, data: bytes) -> Any:
        """One request on a connection of its own -> the response."""
        client = await self.client()
        await client.send(data)
        answer = await client.read_response()
        client.close()
        return answer

    def outcomes(self) -> dict[str, int]:
        pool = self.lb.pools["agents"]
        rows = [pool.unserved.turn_outcomes, *(s.counters.turn_outcomes for s in pool.servers)]
        counted = zip(TURN_OUTCOMES, map(sum, zip(*rows, strict=True)), strict=True)
        return {outcome: count for outcome, count in counted if count}

    async def in_state(self, turn: str, name: str) -> None:
        """Wait for this state of a turn."""
        gateway = self.lb._context.turns
        assert gateway is not None

        async def is_so() -> bool:
            found = await gateway.store.find_of_any(turn)
            return found is not None and NAMES[found.state] == name

        await until(is_so)


async def begin_stream(
    gateway: Gateway, origin: Origin, data: bytes
) -> tuple[Client, AtOrigin, Head]:
    """A client whose request has reached the origin, which has begun an event stream."""
    client = await gateway.client()
    await client.send(data)
    at_origin, _ = await origin.accept_request()
    await at_origin.send(STREAM_HEAD)
    return client, at_origin, await client.read_head()


def principal_of(secret: bytes) -> str:
    """Alice's."""
    finder = PrincipalFinder("agents", ["header:Authorization"])
    head = b"GET / HTTP/1.1\r\nAuthorization: Bearer alice\r\n\r\n"
    peer: Any = None
    return finder.find(secret, head, peer, "")


class Elsewhere:
    """A turn of alice's that another balancer executes. `owned` is driven by the test."""

    def __init__(self, shared: MemoryStore) -> None:
        self._shared = shared
        self.balancer = MemoryTurnStore(shared)
        self.secret = blake2b(SECRET_TEXT, digest_size=32, person=b"hermes-turns").digest()
        self.principal = principal_of(self.secret)

    async def begin(self, key: str = "k", **changes: Any) -> OwnedTurn:
        digest_of_key = digest(self.secret, b"key", self.principal.encode(), key.encode())
        claim = Claim(
            principal=self.principal,
            nonce=token_hex(16),
            key=digest_of_key if key else "",
            session="",
            fingerprint="",
            waits=True,
            keep=1000.0,
            keep_events=1000.0,
            settle=0.0,
            repeats_lost=False,
            journal_size=1024,
        )
        begun = await self.balancer.begin(claim._replace(**changes))
        assert begun.owned is not None
        return begun.owned

    def event(self, owned: OwnedTurn, number: int) -> bytes:
        return f"id: h1.{owned.id}.{number}\ndata: {number}\n\n".encode()

    async def with_events(self, owned: OwnedTurn, count: int = 2) -> None:
        """It runs, and has a head and this many events."""
        await owned.started("agent1")
        await owned.headed(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", is_stream=True
        )
        for number in range(1, count + 1):
            owned.journal.append(self.event(owned, number), 1)
