"""`python -m bench.session_keys`: what a stick rule costs, by where the key is.

Microseconds, the fastest of several rounds: in a request (`KeyRules.find`), and in a response (a
reader, from the head to the key). The last rows are the worst bodies of 64 KiB.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter_ns
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from hermes_lb.affinity.keys import KeyOptions, KeyRules
from hermes_lb.http import ResponseParser
from hermes_lb.http.json_keys import MOST_READ

if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS = 200

_HEADER = KeyRules([KeyOptions(on="header:X-Session", learn=True)])
_JSON = KeyRules(
    [
        KeyOptions(
            on=["json:/previous_response_id", "path:/v1/responses/{id}"],
            learn=True,
            response=["json:/id", "event:/response/id"],
        )
    ]
)
_HEAD = (
    b"POST /v1/responses HTTP/1.1\r\nHost: agents\r\nContent-Type: application/json\r\n"
    b"Accept: application/json\r\nUser-Agent: bench\r\nX-Session: s-1\r\nContent-Length: 1\r\n\r\n"
)


def main() -> int:
    table = Table("where the key is", "µs", box=box.SIMPLE)
    for name, act in cases().items():
        table.add_row(name, f"{measure(act):.1f}")
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    return 0


def cases() -> dict[str, Callable[[], object]]:
    answer = json.dumps({"id": "resp_1", "output": _messages(1000)}).encode()
    event = b'event: response.created\ndata: {"response": {"id": "resp_1", "output": []}}\n\n'
    arrays = b"[" + b"[]," * (MOST_READ // 3 - 1) + b"[]]"
    objects = b"[" + b"{}," * (MOST_READ // 3 - 1) + b"{}]"
    return {
        "request: a header": lambda: _HEADER.find(_HEAD, ""),
        "request: JSON of 1 KiB": finding(_request(1000)),
        "request: JSON of 16 KiB": finding(_request(16_000)),
        "request: JSON of 64 KiB": finding(_request(64_000)),
        "response: a header": reading(_HEADER, b"application/json", answer),
        "response: JSON of 1 KiB": reading(_JSON, b"application/json", answer),
        "response: the first event of a stream": reading(_JSON, b"text/event-stream", event),
        "response: of another type": reading(_JSON, b"image/png", answer),
        "request: 64 KiB of arrays": finding(_HEAD + arrays[-MOST_READ:]),
        "request: 64 KiB of objects": finding(_HEAD + objects[-MOST_READ:]),
    }


def _messages(size: int) -> list[dict[str, str]]:
    text = "What does the report of the second quarter say? " * 4
    return [{"role": "user", "content": text}] * max(1, size // 230)


def _request(size: int) -> bytes:
    body = {"model": "m", "input": _messages(size), "previous_response_id": "resp_1"}
    return _HEAD + json.dumps(body).encode()


def finding(request: bytes) -> Callable[[], object]:
    return lambda: _JSON.find(request, "")


def reading(rules: KeyRules, media_type: bytes, body: bytes) -> Callable[[], object]:
    head = ResponseParser(100).parse(
        b"HTTP/1.1 200 OK\r\nDate: now\r\nServer: bench\r\nContent-Type: %b\r\n\r\n" % media_type
    )

    def read() -> object:
        keys = rules.learnt(None, head)
        reader = rules.reader(head, is_chunked=False)
        return keys if reader is None else reader.feed(body) or reader.end()

    return read


def measure(act: Callable[[], object]) -> float:
    """Microseconds a call."""
    fastest = sys.maxsize
    for _ in range(_ROUNDS):
        start = perf_counter_ns()
        for _ in range(10):
            act()
        fastest = min(fastest, perf_counter_ns() - start)
    return fastest / 10_000


if __name__ == "__main__":
    sys.exit(main())
