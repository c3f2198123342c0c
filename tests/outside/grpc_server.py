"""A server of grpcio with every kind of call, and messages that are bytes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVING = b"\x08\x01"


class Calls:
    """`begun`, `cancelled`: a call that waits was. `health`: the answer to a check."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cancelled = threading.Event()
        self.health = SERVING
        self.metadata: dict[str, Any] = {}

    def unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last", "2"), ("x-last-bin", b"\0\xff")))
        return request.upper()

    def remaining(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return str(context.time_remaining()).encode()

    def fails(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Größe, 100 %")

    def waits(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(self.cancelled.set)
        self.begun.set()
        self.cancelled.wait(20)
        return b""

    def streams(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for n in range(int(request)):
            yield b"%d" % n

    def endless(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        while context.is_active():
            yield request

    def collects(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return b",".join(requests)

    def talks(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield request.upper()
        yield b"end"  # the client has closed its half

    def check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if request not in (b"", b"\x0a\x01a"):
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return self.health


def started(calls: Calls, *, address: str = "127.0.0.1:0") -> tuple[grpc.Server, int]:
    """A server, and its port."""
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers = {
        "Unary": unary(calls.unary),
        "Remaining": unary(calls.remaining),
        "Fails": unary(calls.fails),
        "Waits": unary(calls.waits),
        "Streams": stream(calls.streams),
        "Endless": stream(calls.endless),
        "Collects": grpc.stream_unary_rpc_method_handler(calls.collects),
        "Talks": grpc.stream_stream_rpc_method_handler(calls.talks),
    }
    health = {"Check": unary(calls.check)}
    server = grpc.server(ThreadPoolExecutor(16), options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("test.Calls", handlers),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        )
    )
    port = server.add_insecure_port(address)
    server.start()
    return server, port
