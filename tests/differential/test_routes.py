"""Routes beside nginx and HAProxy: the same request, and what the server and the client get.

One origin for all three; each row is a route in three languages. Where a row has no rule for one of
them, its users write it in another way.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from hermes_lb import LoadBalancer
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

needs_both = pytest.mark.skipif(
    not (shutil.which("nginx") and shutil.which("haproxy")), reason="nginx or haproxy is missing"
)

NGINX = """
daemon off; master_process off; pid nginx.pid; error_log error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp;
    uwsgi_temp_path temp; scgi_temp_path temp;
    upstream origin {{ server unix:{folder}/origin.sock; }}
    server {{
        listen unix:{folder}/nginx.sock;
        server_name_in_redirect off; absolute_redirect off;
        proxy_set_header Host $http_host;
        {rules}
    }}
}}
"""
HAPROXY = """
global
    maxconn 64
defaults
    mode http
    timeout connect 10s
    timeout client 20s
    timeout server 20s
frontend front
    bind unix@{folder}/haproxy.sock
    {rules}
    default_backend back
backend back
    server origin unix@{folder}/origin.sock
"""


class Row(NamedTuple):
    """A route, requests to it, and the fields that are compared: for the server, for the client."""

    route: dict[str, Any]
    nginx: str
    haproxy: str
    requests: list[tuple[str, tuple[str, ...]]]
    fields: tuple[str, ...] = ()
    back: tuple[str, ...] = ()


def asked(*targets: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(target, ()) for target in targets]


BELOW = asked("/api/", "/api/x", "/api/x?y=/api/", "/api/a%20b", "/api/api/x/", "/api/a/b.c")
ROWS = {
    "strip_prefix": Row(
        {"strip_prefix": "/api"},
        "location /api/ { proxy_pass http://origin/; }",
        r"http-request replace-path /api/(.*) /\1 if { path_beg /api/ }",
        BELOW,
    ),
    "replace_prefix": Row(
        {"replace_prefix": "/v2/"},
        "location /api/ { proxy_pass http://origin/v2/; }",
        r"http-request replace-path /api/(.*) /v2/\1 if { path_beg /api/ }",
        BELOW,
    ),
    "add_prefix": Row(
        {"add_prefix": "/t"},
        "location /api/ { proxy_pass http://origin/t/api/; }",
        "http-request set-path /t%[path] if { path_beg /api/ }",
        BELOW,
    ),
    "set": Row(
        {"request_headers": {"set": {"X-A": "ours", "X-P": "{scheme}"}}},
        "location /api/ { proxy_set_header Host $http_host; proxy_set_header X-A ours;"
        " proxy_set_header X-P $scheme; proxy_pass http://origin; }",
        "http-request set-header X-A ours\n    http-request set-header X-P http",
        [("/api/x", ()), ("/api/x", ("X-A: theirs",)), ("/api/x", ("x-a: 1", "X-A: 2"))],
        ("X-A", "X-P"),
    ),
    "remove": Row(
        {"request_headers": {"remove": ["X-A"]}},
        'location /api/ { proxy_set_header Host $http_host; proxy_set_header X-A "";'
        " proxy_pass http://origin; }",
        "http-request del-header X-A",
        [("/api/x", ()), ("/api/x", ("X-A: 1", "X-AB: 2")), ("/api/x", ("x-a: 1", "X-a: 2"))],
        ("X-A", "X-AB"),
    ),
    "response": Row(
        {"response_headers": {"remove": ["X-Old"], "add": {"X-New": "1"}}},
        "location /api/ { proxy_hide_header X-Old; add_header X-New 1 always;"
        " proxy_pass http://origin; }",
        "http-after-response del-header X-Old\n    http-after-response add-header X-New 1",
        BELOW,
        back=("X-Old", "X-New", "X-Kept"),
    ),
    "return": Row(
        {"return": 410},
        "location /api/ { return 410; }",
        "http-request return status 410 if { path_beg /api/ }",
        BELOW,
    ),
    "redirect": Row(
        {"return": {"status": 308, "location": "https://{host}{target}"}},
        "location /api/ { return 308 https://$host$request_uri; }",
        "http-request redirect code 308 location https://%[req.hdr(host)]%[url]"
        " if { path_beg /api/ }",
        asked("/api/x", "/api/x?y=1"),
        back=("Location",),
    ),
    "deny": Row(
        {"deny": ["unix:", "127.0.0.0/8"]},
        "location /api/ { deny all; proxy_pass http://origin; }",
        "http-request deny if { path_beg /api/ }",
        asked("/api/x"),
    ),
}


class Seen(NamedTuple):
    """`target` and `fields`: at the server, if it was asked. `back`: at the client."""

    status: int
    target: str
    fields: dict[str, list[str]]
    back: dict[str, list[str]]


def fields_of(head: str, names: tuple[str, ...]) -> dict[str, list[str]]:
    pairs = [line.partition(":")[::2] for line in head.split("\r\n")[1:]]
    return {
        name: [value.strip() for key, value in pairs if key.lower() == name.lower()]
        for name in names
    }


class Peers:
    """The three, before one origin that keeps the heads of its requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.heads: list[str] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
                writer.write(
                    b"HTTP/1.1 200 OK\r\nX-Old: 1\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok"
                )
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    async def ask(self, peer: str, target: str, more: tuple[str, ...], row: Row) -> Seen:
        reader, writer = await asyncio.open_unix_connection(str(self.folder / f"{peer}.sock"))
        self.heads.clear()
        lines = [f"GET {target} HTTP/1.1", "Host: a.example", "Connection: close", *more, "", ""]
        writer.write("\r\n".join(lines).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        writer.close()
        at_server = self.heads[0] if self.heads else "- -"
        return Seen(
            int(head.split(" ")[1]), at_server.split(" ")[1],
            fields_of(at_server, row.fields), fields_of(head, row.back),
        )  # fmt: skip

    async def is_open(self, peer: str) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(self.folder / f"{peer}.sock"))
        except OSError:
            return False
        writer.close()
        return True


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[None]:
    devnull = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=devnull, stderr=devnull)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def peers(row: Row) -> AsyncIterator[Peers]:
    # Not tmp_path: the path of a Unix socket has about 100 bytes at most.
    with tempfile.TemporaryDirectory(prefix="routes-") as name:
        folder = Path(name)
        (folder / "nginx.conf").write_text(NGINX.format(folder=name, rules=row.nginx))
        (folder / "haproxy.cfg").write_text(HAPROXY.format(folder=name, rules=row.haproxy))
        found = Peers(folder)
        server = await asyncio.start_unix_server(found.answer, str(folder / "origin.sock"))
        route = {"path_prefix": "/api/", **row.route}
        config = {
            "admin": {"enabled": False},
            "log": {"access": "off"},
            "frontends": [
                {
                    "name": "f",
                    "bind": f"unix:{name}/ours.sock",
                    "default_backend": "b",
                    "routes": [route if "return" in route else {**route, "backend": "b"}],
                }
            ],
            "backends": {"b": {"servers": [{"name": "s", "address": f"unix:{name}/origin.sock"}]}},
        }
        log = str(folder / "error.log")
        conf = str(folder / "nginx.conf")
        async with (
            server,
            LoadBalancer(config),
            running("nginx", "-e", log, "-p", name, "-c", conf),
            running("haproxy", "-f", str(folder / "haproxy.cfg")),
        ):
            for peer in ("nginx", "haproxy"):
                await until(lambda peer=peer: found.is_open(peer))
            yield found


@pytest.mark.slow  # two processes for each row
@needs_both
@pytest.mark.parametrize("name", ROWS)
async def test_a_route_does_what_theirs_does(name: str) -> None:
    row = ROWS[name]
    async with peers(row) as three:
        for target, more in row.requests:
            seen = {
                peer: await three.ask(peer, target, more, row)
                for peer in ("ours", "nginx", "haproxy")
            }
            assert seen["ours"] == seen["haproxy"], (target, more)
            assert seen["ours"] == seen["nginx"], (target, more)
