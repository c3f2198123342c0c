"""Four independent readers of a stream of requests.

h11 and llhttp are strict; aiohttp's parser in Python and `http.server` are those of many workers.
llhttp is fed byte by byte, and so tells where each request ends.
"""

from __future__ import annotations

import http.client
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, cast

import h11
import httptools
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParserPy

from tests.differential.readings import INCOMPLETE, File, Request, Requests, normal
from tests.support.referees import Incomplete, h11_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import StreamReader

_NO_LIMIT = 1 << 20


def by_h11(stream: bytes) -> Requests:
    messages: list[Request] = []
    rest = stream
    while rest:
        try:
            # One empty line is forgiven (RFC 9112 section 2.2), though not by h11.
            head, body, rest = h11_request(rest.removeprefix(b"\r\n"))
        except Incomplete:
            return Requests(messages, INCOMPLETE)
        except h11.RemoteProtocolError as problem:
            return Requests(messages, str(problem))
        fields = normal(list(head.headers))
        end = len(stream) - len(rest)
        messages.append(Request(head.method, head.target, head.http_version, fields, body, end))
    return Requests(messages, "")


class LlhttpRequests:
    """llhttp's reading of a stream of requests, as it comes."""

    def __init__(self) -> None:
        self.messages: list[Request] = []
        self.problem = ""
        self.methods: list[bytes] = []  # of all heads that are complete
        self.expectations: list[bool] = []  # of the same: has it a body that waits for a 100?
        self.awaits_continue = False
        self._is_between = True  # no request has begun
        self._position = 0
        self._renew()

    def feed(self, data: bytes) -> None:
        """Bytes of the stream; `end` is right if they come one by one."""
        self._position += len(data)
        while data and not self.problem:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as pause:
                # No origin here upgrades: the next bytes are a request as before.
                data = data[pause.args[0] :]
                self._check_body()
                self._renew()
            except httptools.HttpParserError as problem:
                self.problem = str(problem)

    def result(self) -> Requests:
        return Requests(self.messages, self.problem or ("" if self._is_between else INCOMPLETE))

    def _check_body(self) -> None:
        """httptools tells llhttp to skip the body of a request that asks for an upgrade."""
        request = self.messages[-1]
        if any(request.all(b"transfer-encoding") + request.all(b"content-length")):
            self.problem = "httptools does not read the body of an upgrade"
            del self.messages[-1]

    def _renew(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        # Whether a request closes is not for llhttp to say: to it Proxy-Connection does.
        self._parser.set_dangerous_leniencies(lenient_keep_alive=True)

    def on_message_begin(self) -> None:
        self._is_between = False
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._body = b""
        self._is_in_head = True

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # else it is a trailer
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self.methods.append(self._parser.get_method())
        fields = {name.lower(): value for name, value in self._fields}
        self.awaits_continue = b"expect" in fields
        has_body = b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0"
        self.expectations.append(self.awaits_continue and has_body)

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        self._is_between = True
        self.awaits_continue = False
        self.messages.append(
            Request(
                self._parser.get_method(),
                self._target,
                self._parser.get_http_version().encode(),
                normal(self._fields),
                self._body,
                self._position,
            )
        )


def by_llhttp(stream: bytes) -> Requests:
    reader = LlhttpRequests()
    for i in range(len(stream)):
        reader.feed(stream[i : i + 1])
    return reader.result()


class _Protocol:
    """What aiohttp's stream readers need of a connection."""

    _reading_paused = False

    def pause_reading(self) -> None:
        """Nothing is held back here."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """The same."""


def aiohttp_parser(kind: Any, **settings: Any) -> Any:
    """One of aiohttp's parsers in Python, without its limits, and without an event loop."""
    return kind(
        cast("Any", _Protocol()),
        cast("Any", object()),
        _NO_LIMIT,
        max_line_size=_NO_LIMIT,
        max_field_size=_NO_LIMIT,
        max_headers=_NO_LIMIT,
        auto_decompress=False,
        **settings,
    )


def by_aiohttp(stream: bytes) -> Requests:
    """It tells of no request's end, but of what is left behind the last one."""
    parser = aiohttp_parser(HttpRequestParserPy)
    found: list[tuple[Any, StreamReader]] = []
    problem = ""
    try:
        # Line by line: a line that it refuses must not take the requests before it along.
        for line in stream.splitlines(keepends=True):
            rest = line
            while rest:
                more, is_upgraded, rest = parser.feed_data(rest)
                found += more
                if is_upgraded:  # no origin here upgrades: the next bytes are a request as before
                    parser = aiohttp_parser(HttpRequestParserPy)
    except (HttpProcessingError, ValueError) as error:
        problem = f"{type(error).__name__} {error}"
    if parser._lines or parser._tail:
        problem = problem or INCOMPLETE
    messages: list[Request] = []
    for head, payload in found:
        if payload.exception() or not payload.is_eof():
            return Requests(messages, problem or INCOMPLETE)
        target = head.path.encode("utf-8", "surrogateescape")
        fields = normal(list(head.raw_headers))
        version, body = b"%d.%d" % head.version, payload.read_nowait()
        messages.append(Request(head.method.encode(), target, version, fields, body, None))
    return Requests(messages, problem)


class _Handler(BaseHTTPRequestHandler):
    """`http.server`, with a body read as its users read it."""

    protocol_version = "HTTP/1.1"

    def __init__(self, stream: bytes) -> None:
        # Not that of the base class, which wants a socket and serves it.
        self.rfile = self._file = File(stream)
        self.wfile = File()
        self.problem = ""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.problem = f"{code} {message}"

    def handle_expect_100(self) -> bool:
        return True

    def read(self) -> Request | None:
        """The next request; None: there is none, or a `problem`."""
        self.raw_requestline = self._file.readline()
        if self._file.has_run_out:
            self.problem = INCOMPLETE
            return None
        if not self.parse_request():
            self.problem = self.problem or "no request line"
            return None
        body = self._read_body()
        if self._file.has_run_out:
            self.problem = INCOMPLETE
            return None
        # `path` has been changed: `//` at its beginning has become `/`.
        target = self.requestline.split()[1].encode("latin-1")
        fields = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in self.headers.items()]
        version = self.request_version.removeprefix("HTTP/").encode()
        end = self._file.tell()
        return Request(self.command.encode(), target, version, normal(fields), body, end)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            decoder = http.client.HTTPResponse(cast("Any", self._file))
            decoder.chunked = True
            decoder.chunk_left = None
            return decoder.read()
        return self._file.read(int(self.headers.get("Content-Length", 0)))


def by_stdlib(stream: bytes) -> Requests:
    messages: list[Request] = []
    handler = _Handler(stream)
    while handler.rfile.tell() < len(stream):
        try:
            message = handler.read()
        except http.client.IncompleteRead:
            return Requests(messages, INCOMPLETE)
        except ValueError as problem:
            return Requests(messages, str(problem))
        if message is None:
            return Requests(messages, handler.problem)
        messages.append(message)
    return Requests(messages, "")


# Parsers of possible servers; all of them have to read our bytes alike.
REFEREES: dict[str, Callable[[bytes], Requests]] = {
    "h11": by_h11,
    "llhttp": by_llhttp,
    "aiohttp": by_aiohttp,
    "http.server": by_stdlib,
}

# What a client may have meant, by careful readers.
CAREFUL = {name: REFEREES[name] for name in ("h11", "llhttp", "aiohttp")}
