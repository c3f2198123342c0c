"""A client that believes nothing: it reads responses strictly, and tells how far a cut one came."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from bench.chaos.waiting import PATIENCE

if TYPE_CHECKING:
    from typing import Self

    from bench.chaos.asks import Ask

_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?(.*)")
_STATUS = re.compile(r"HTTP/1\.1 (\d\d\d) .*")
_READ = 256 * 1024


class Cut(Exception):
    """The connection ended before the response did."""

    def __init__(self, head: Head | None, body: bytes, *, by_reset: bool) -> None:
        how = "reset" if by_reset else "closed"
        super().__init__(f"{how} {'in the body' if head else 'before a whole head'}")
        self.head = head  # None: not even that came
        self.body = body  # as much as came of it
        self.by_reset = by_reset


class NotHttp(Exception):
    """The bytes received are not an HTTP response."""


class Head(NamedTuple):
    status: int
    fields: dict[str, str]  # by lower-case name


class Response(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes


class Caller:
    """One connection to the balancer. `name` is what `bench.chaos.holders` calls it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.name = _name(writer.get_extra_info("socket"))

    @classmethod
    async def connect(
        cls,
        address: tuple[str, int] | str,
        *,
        sock: socket.socket | None = None,
        receive_buffer: int | None = None,
    ) -> Caller:
        """`address`: a path for a Unix socket. `sock`: one that is not connected yet.
        `receive_buffer`: of the kernel and of ours."""
        if sock is None:
            sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or _READ)
        return cls(reader, writer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.abort()

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def send(self, data: bytes) -> None:
        """Raises Cut if the balancer has gone."""
        self._writer.write(data)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._writer.drain()
        except OSError:
            raise Cut(None, b"", by_reset=True) from None

    async def ask(self, ask: Ask) -> Response:
        await self.send(ask.wire())
        return await self.read_response(ask.method)

    def stop_reading(self) -> None:
        """Stop reading: bytes stay in the kernel."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def read_on(self) -> None:
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    def close(self) -> None:
        """FIN."""
        self._writer.close()

    def abort(self) -> None:
        """RST."""
        sock = self._writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def read_response(self, method: str = "GET") -> Response:
        """The next one, whole. Raises Cut or NotHttp."""
        head = await self.read_head()
        body = b""
        if not (method == "HEAD" or head.status in (204, 304)):
            body = await self._read_body(head)
        return Response(head.status, head.fields, body)

    async def read_head(self) -> Head:
        try:
            async with asyncio.timeout(PATIENCE):
                raw = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Cut(None, b"", by_reset=isinstance(error, OSError)) from None
        return _parse_head(raw)

    async def read_chunk(self) -> bytes:
        """The data of one chunk; b"" for the last one. Raises Cut without what came of it."""
        async with asyncio.timeout(PATIENCE):
            try:
                line = await self._reader.readuntil(b"\r\n")
                size = int(line, 16)
                data = await self._reader.readexactly(size + 2)
            except (asyncio.IncompleteReadError, OSError) as error:
                raise Cut(None, b"", by_reset=isinstance(error, OSError)) from None
        if data[-2:] != b"\r\n":
            raise NotHttp(f"a chunk of {size} bytes that ends in {data[-2:]!r}")
        return data[:-2]

    async def read_some(self, most: int = _READ) -> bytes:
        """Whatever comes; b"" for a clean end."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._reader.read(most)
        except OSError:
            raise Cut(None, b"", by_reset=True) from None

    async def _read_body(self, head: Head) -> bytes:
        length, coding = head.fields.get("content-length"), head.fields.get("transfer-encoding")
        if length is not None and coding is None:
            return await self._read_length(head, int(length))
        if coding != "chunked" or length is not None:
            raise NotHttp(f"framed by Content-Length {length}, Transfer-Encoding {coding}")
        body = bytearray()
        try:
            while data := await self.read_chunk():
                body += data
        except Cut as cut:
            raise Cut(head, bytes(body), by_reset=cut.by_reset) from None
        return bytes(body)

    async def _read_length(self, head: Head, length: int) -> bytes:
        body = bytearray()
        while len(body) < length:
            try:
                async with asyncio.timeout(PATIENCE):
                    data = await self._reader.read(length - len(body))
            except OSError:
                raise Cut(head, bytes(body), by_reset=True) from None
            if not data:
                raise Cut(head, bytes(body), by_reset=False)
            body += data
        return bytes(body)


def _name(sock: socket.socket) -> str:
    """Of the client's end: its port, or the inode of a Unix socket, which has no name."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{os.fstat(sock.fileno()).st_ino}"
    return f"port:{sock.getsockname()[1]}"


def _parse_head(raw: bytes) -> Head:
    """Strict: what the balancer sends is never allowed to be sloppy."""
    status, *lines = raw[:-4].decode("latin-1").split("\r\n")
    matched = _STATUS.fullmatch(status)
    if matched is None:
        raise NotHttp(f"a status line {status!r}")
    fields: dict[str, str] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise NotHttp(f"a header field {line!r}")
        name = match[1].lower()
        if name in fields:
            raise NotHttp(f"two fields {name}")
        fields[name] = match[2]
    return Head(int(matched[1]), fields)
