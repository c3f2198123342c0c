"""Many clients and moody servers, in a random order that a seed fixes.

Whatever happens: each response belongs to its request, a POST is executed at most once, and in the
end nothing is in flight.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress

import pytest

from tests.support.http_peer import AtOrigin, Client, Ended, Message
from tests.support.loops import on_both_loops
from tests.support.stage import Stage, in_flight
from tests.support.waiting import eventually, turns

CLIENTS = 12
REQUESTS = 15


class Moody:
    """Answers each request with its own id, if at all."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.executed: Counter[str] = Counter()

    async def __call__(self, connection: AtOrigin, message: Message) -> None:
        rng = self._rng
        self.executed[message.head.target] += 1
        body = message.head.target.encode() + b" " + message.body
        await turns(rng.choice([0, 0, 0, 1, 5]))
        mood = rng.random()
        if mood < 0.05:
            connection.close()
        elif mood < 0.1:
            connection.abort()
        elif mood < 0.15:
            await self._dribble(connection, _length(body)[: rng.randrange(1, len(body))])
            connection.abort()
        elif mood < 0.2:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9, 9\r\n\r\n")
        elif mood < 0.3:
            await self._dribble(connection, b"HTTP/1.1 200 OK\r\n\r\n" + body)
            connection.close()
        elif mood < 0.35:
            await connection.send(_length(body) + b"HTTP/1.1 200 OK\r\n\r\nleft over")
        elif mood < 0.5:
            await self._dribble(connection, b"HTTP/1.1 103 Hints\r\n\r\n" + _chunked(body, rng))
        elif mood < 0.7:
            await self._dribble(connection, _length(body))
        else:
            await connection.send(_length(body))
            if mood > 0.95:
                connection.close()
        if connection.sock.fileno() < 0:
            raise Ended(b"", by_reset=False)

    async def _dribble(self, connection: AtOrigin, data: bytes) -> None:
        await _in_pieces(connection, data, self._rng)


def _length(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def _chunked(body: bytes, rng: random.Random) -> bytes:
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while body:
        size = rng.randrange(1, len(body) + 1)
        wire += b"%x\r\n%b\r\n" % (size, body[:size])
        body = body[size:]
    return wire + b"0\r\n\r\n"


async def _in_pieces(peer: AtOrigin | Client, data: bytes, rng: random.Random) -> None:
    while data:
        size = rng.randrange(1, len(data) + 1)
        await peer.send(data[:size])
        data = data[size:]
        await turns(rng.choice([0, 1, 3]))


def _request(name: str, rng: random.Random) -> tuple[bytes, bytes]:
    """-> the wire, and the body that the server must get."""
    method = rng.choice(["GET", "GET", "POST", "POST", "PUT"])
    target = f"/{method}/{name}"
    head = f"{method} {target} HTTP/1.1\r\nHost: a\r\n".encode()
    if method == "GET":
        return head + b"\r\n", target.encode() + b" "
    body = bytes(rng.choices(b"abc\r\n0", k=rng.choice([0, 1, 10, 3000])))
    answer = target.encode() + b" " + body
    if rng.random() < 0.5:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, answer
    chunks = _chunked(body, rng).partition(b"\r\n\r\n")[2]
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks, answer


async def _talk(stage: Stage, client: Client, number: str, rng: random.Random) -> int:
    """Requests on one connection until it ends -> how many were answered as they should be."""
    right = 0
    sent: list[bytes] = []
    with suppress(Ended, OSError):
        for n in range(REQUESTS):
            if rng.random() < 0.03:
                client.abort() if rng.random() < 0.5 else client.close()
                return right
            wire, answer = _request(f"{number}-{n}", rng)
            sent.append(answer)
            await (_in_pieces(client, wire, rng) if rng.random() < 0.5 else client.send(wire))
            if rng.random() < 0.4:
                continue  # the next one is pipelined behind it
            while sent:
                right += await _answered(stage, client, sent.pop(0))
        while sent:
            right += await _answered(stage, client, sent.pop(0))
    client.close()
    return right


async def _answered(stage: Stage, client: Client, expected: bytes) -> int:
    answer = await client.read_response()
    while answer.status == 103:
        answer = await client.read_response()
    if answer.status == 200:
        if answer.body != expected:
            stage.problems.append(f"instead of {expected!r}: {answer.body!r}")
        return 1
    if answer.status not in (502, 503):
        stage.problems.append(f"instead of {expected!r}: {answer}")
    return 0


@on_both_loops
@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))]
)
async def test_nobody_gets_anothers_bytes_and_no_post_runs_twice(stage: Stage, seed: int) -> None:
    rng = random.Random(seed)
    moody = Moody(rng)
    origins = [await stage.serving(moody) for _ in range(3)]
    limited = seed % 2
    lb = await stage.balancer(
        *origins,
        stage.nobody(),
        server={"max_connections": 2 if limited else 0, "max_fails": 0},
        backend={
            "balance": rng.choice(["round_robin", "leastconn"]),
            "affinity": {"cookie": "S"} if seed >= 3 else None,
        },
        timeouts={"connect": 1},
    )

    async def visits(number: int) -> int:
        right = 0
        for visit in range(4):
            client = await stage.client(lb)
            right += await _talk(stage, client, f"{number}-{visit}", rng)
        return right

    talking = [stage.tasks.spawn(visits(n), name="client") for n in range(CLIENTS)]
    right = sum(await asyncio.gather(*talking))
    assert right > 100  # most of it does work
    await eventually(lambda: in_flight(lb) == [0, 0, 0, 0])
    twice = [t for t, count in moody.executed.items() if count > 1 and t.startswith("/POST")]
    assert twice == []
    assert any(count > 1 for count in moody.executed.values())  # GETs and PUTs were repeated
