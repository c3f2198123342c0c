"""Four independent readers of a stream of responses: what is the first final one?

h11 and llhttp are strict; aiohttp's parser in Python (which is lax here, by its authors' choice)
and `http.client` are those of many clients.

`ending` is how the connection ended behind the bytes: `FIN`, `RESET`, or `OPEN` if it did not.
"""

from __future__ import annotations

import http.client
import re
from typing import TYPE_CHECKING, Any, cast

import h11
import httptools
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParserPy

from tests.differential.readings import INCOMPLETE, Answer, File, Response, normal
from tests.differential.request_referees import aiohttp_parser
from tests.support.referees import Incomplete, h11_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import StreamReader

OPEN, FIN, RESET = "open", "fin", "reset"


def by_h11(stream: bytes, method: bytes, ending: str) -> Answer:
    informational: tuple[int, ...] = ()
    rest = stream
    while True:
        try:
            head, body, rest = h11_response(method, rest, closed=ending == FIN)
        except Incomplete:
            return Answer(None, INCOMPLETE)
        except h11.RemoteProtocolError as problem:
            is_cut = re.search("closed connection|ConnectionClosed", str(problem))
            return Answer(None, INCOMPLETE if is_cut else str(problem))
        if isinstance(head, h11.Response):
            end = len(stream) - len(rest)
            fields = normal(list(head.headers))
            return Answer(Response(head.status_code, fields, body, end, informational))
        informational += without_100(head.status_code)


def without_100(status: int) -> tuple[int, ...]:
    """http.client hides each 100 from its caller, so the others have to as well."""
    return () if status == 100 else (status,)


class _LlhttpResponse:
    """llhttp's reading of the first final response, byte by byte."""

    def __init__(self, method: bytes) -> None:
        self._has_body = method != b"HEAD"
        self._parser = httptools.HttpResponseParser(self)
        self.informational: tuple[int, ...] = ()
        self.is_whole = False
        self.on_message_begin()

    def on_message_begin(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.is_in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.is_in_head:  # else it is a trailer
            self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.is_in_head = False
        if self._parser.get_status_code() >= 200 and not self._has_body:
            self.is_whole = True  # llhttp has no setting for a response to HEAD

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self.is_whole = True
        else:
            self.informational += without_100(status)

    @property
    def ends_with_connection(self) -> bool:
        names = {name.lower() for name, _ in self.fields}
        return not self.is_in_head and not names & {b"content-length", b"transfer-encoding"}

    def read(self, stream: bytes, ending: str) -> Answer:
        position = 0
        try:
            while position < len(stream) and not self.is_whole:
                position += 1
                self._parser.feed_data(stream[position - 1 : position])
        except httptools.HttpParserUpgrade:
            return Answer(None, "101")
        except httptools.HttpParserError as problem:
            return Answer(None, str(problem))
        if not self.is_whole and not (ending == FIN and self.ends_with_connection):
            return Answer(None, INCOMPLETE)
        status = self._parser.get_status_code()
        fields = normal(self.fields)
        return Answer(Response(status, fields, self.body, position, self.informational))


def by_llhttp(stream: bytes, method: bytes, ending: str) -> Answer:
    return _LlhttpResponse(method).read(stream, ending)


def by_aiohttp(stream: bytes, method: bytes, ending: str) -> Answer:
    """It tells where the response ends only if it is where the stream does."""
    parser = aiohttp_parser(
        HttpResponseParserPy,
        method=method.decode(),
        response_with_body=method != b"HEAD",
        read_until_eof=True,
    )
    found: list[tuple[Any, StreamReader]] = []
    problem = ""
    try:
        for line in stream.splitlines(keepends=True):
            more, is_upgraded, _ = parser.feed_data(line)
            found += more
            if is_upgraded:
                return Answer(None, "101")
        if ending == FIN:
            parser.feed_eof()
    except (HttpProcessingError, ValueError) as error:
        is_cut = "Not enough data" in str(error)
        problem = INCOMPLETE if is_cut else f"{type(error).__name__} {error}"
    informational: tuple[int, ...] = ()
    for head, payload in found:
        if head.code < 200:
            informational += without_100(head.code)
        elif payload.exception() or not payload.is_eof():
            break
        else:
            is_last = head is found[-1][0] and not (problem or parser._lines or parser._tail)
            end = len(stream) if is_last else None
            fields = normal(list(head.raw_headers))
            return Answer(Response(head.code, fields, payload.read_nowait(), end, informational))
    return Answer(None, problem or INCOMPLETE)


def by_stdlib(stream: bytes, method: bytes, ending: str) -> Answer:
    file = File(stream)
    informational: tuple[int, ...] = ()
    try:
        while True:
            response = http.client.HTTPResponse(cast("Any", file), method=method.decode())
            response.begin()
            if response.status >= 200:
                break
            informational += without_100(response.status)
        if response.chunked and response.status in (204, 304):
            return Answer(None, "http.client reads a body where there is none")
        is_to_end = response.length is None and not response.chunked and method != b"HEAD"
        body = response.read()
    except (http.client.IncompleteRead, http.client.RemoteDisconnected):
        return Answer(None, INCOMPLETE)
    except (http.client.HTTPException, ValueError) as problem:
        return Answer(None, INCOMPLETE if file.has_run_out else repr(problem))
    if file.has_run_out or (is_to_end and ending != FIN):
        return Answer(None, INCOMPLETE)
    fields = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in response.headers.items()]
    return Answer(Response(response.status, normal(fields), body, file.tell(), informational))


# Parsers of possible clients; all of them have to read our bytes alike.
REFEREES: dict[str, Callable[[bytes, bytes, str], Answer]] = {
    "h11": by_h11,
    "llhttp": by_llhttp,
    "aiohttp": by_aiohttp,
    "http.client": by_stdlib,
}
