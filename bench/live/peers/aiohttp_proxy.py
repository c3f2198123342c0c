"""`python -m bench.live.peers.aiohttp_proxy LOG PORT UPSTREAM...`: the aiohttp pair itself.

The low-level server API (no application, no router) and one tuned ClientSession, on uvloop.
Least connections and a log line, but no affinity, no health checks, no metrics, and of retries
only those that aiohttp makes by default.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path
from typing import TextIO

import aiohttp
import uvloop
from aiohttp import web

# RFC 9110 §7.6.1, and Host and framing, which either side makes itself.
_NOT_FORWARDED = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class Proxy:
    """Picks the upstream with the fewest requests in flight and relays to it."""

    def __init__(self, upstreams: list[int], session: aiohttp.ClientSession, log: TextIO) -> None:
        self._in_flight = dict.fromkeys(upstreams, 0)
        self._session = session
        self._log = log
        self._turn = itertools.count()

    def _pick(self) -> int:
        ports = list(self._in_flight)
        shift = next(self._turn) % len(ports)  # so that equals take turns
        return min(ports[shift:] + ports[:shift], key=self._in_flight.__getitem__)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        started = time.monotonic()
        port = self._pick()
        self._in_flight[port] += 1
        status = 0
        try:
            response = await self._relay(request, port)
            status = response.status
            return response
        finally:
            self._in_flight[port] -= 1
            elapsed = (time.monotonic() - started) * 1e3
            self._log.write(
                f"{request.remote} {time.time():.3f} {port} {elapsed:.1f} {status}"
                f' "{request.method} {request.raw_path}"\n'
            )

    async def _relay(self, request: web.BaseRequest, port: int) -> web.StreamResponse:
        headers = [
            (name, value)
            for name, value in request.headers.items()
            if name.lower() not in _NOT_FORWARDED
        ]
        headers.append(("X-Forwarded-For", request.remote or ""))
        headers.append(("Host", request.headers.get("Host", "")))
        body = await request.read() if request.body_exists else None
        upstream = self._session.request(
            request.method,
            f"http://127.0.0.1:{port}{request.raw_path}",
            headers=headers,
            data=body,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        async with upstream as answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in _NOT_FORWARDED:
                    response.headers.add(name, value)
            if answer.content_length is not None:
                response.content_length = answer.content_length
            else:
                response.enable_chunked_encoding()
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


async def serve(log: TextIO, port: int, upstreams: list[int]) -> None:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=75.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
        auto_decompress=False,
    ) as session:
        proxy = Proxy(upstreams, session, log)
        server = web.Server(proxy.handle, handler_cancellation=True, access_log=None)
        loop = asyncio.get_running_loop()
        await loop.create_server(server, "127.0.0.1", port, backlog=4096)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with Path(sys.argv[1]).open("w", buffering=64 * 1024) as access_log:
        uvloop.run(serve(access_log, int(sys.argv[2]), [int(each) for each in sys.argv[3:]]))
