"""A client of the chat completions API: requests, retries, and streamed answers.

An attempt connects, sends, waits for the first event, and reads until the end of the answer. It is
retried here only until its first piece has been yielded. A later interruption raises EngineCut if
the answer may be requested again, which is up to the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from agent_worker.backoff import jittered
from agent_worker.errors import EngineCut, EngineFailed
from agent_worker.models.base import TextDelta
from agent_worker.models.chat_answer import BadAnswer, ChatAnswer
from agent_worker.models.sse import EventParser, EventTooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from agent_worker.models.base import EngineOptions, ToolCall

log = logging.getLogger(__name__)

# Seconds of the first pause, and of the longest: the client is waiting, and its own retry serves a
# server that asks for more time.
_BACKOFF_S, _MAX_BACKOFF_S = 0.25, 5.0
# Seconds from the end of the answer to that of the response: only then is its connection reusable.
_LINGER_S = 0.2
# Of the body of an error: bytes and seconds to read, characters to log.
_ERROR_READ = 4096
_ERROR_READ_S = 1.0
_MAX_LOGGED = 500

_KEY = re.compile(r"[\x21-\x7e]*")


@dataclass(frozen=True, slots=True)
class ServerTraits:
    """Differences between servers of this API."""

    name: str
    #: Statuses after which the request is retried.
    retry_statuses: frozenset[int]
    #: Whether a request may be resent after the server may have begun to process it.
    may_resend: bool
    #: Whether a comment in the stream is a heartbeat of the model.
    comments_count: bool


@dataclass(eq=False)
class _Failure(Exception):
    """A failed attempt."""

    #: For the log.
    reason: str
    may_retry: bool = False
    #: The answer may be requested again once it has begun.
    is_cut: bool = False
    #: Of a refusal.
    status: int = 0
    retry_after_s: float | None = None


class Refused(EngineFailed):
    """The server considers the request invalid (400, 422)."""


class ChatClient:
    """One server, and the connections to it. Raises ValueError for invalid options."""

    def __init__(self, traits: ServerTraits, options: EngineOptions) -> None:
        self._traits = traits
        self._options = options
        self._url = _checked_url(traits.name, options.base_url) + "/chat/completions"
        if not _KEY.fullmatch(options.api_key):
            raise ValueError(
                f"the API key of engine {traits.name!r} contains a space, a control character or "
                "another that a header cannot contain; check how it was copied"
            )
        if options.tries < 1:
            raise ValueError(f"tries must be 1 or more, not {options.tries}")
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"ChatClient({self._traits.name} at {self._url})"

    async def answer(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[TextDelta | ToolCall, None]:
        """The answer to `messages`: its text in pieces, then its calls.

        `more` are further fields of the request. Raises EngineFailed, EngineCut, Refused.

        Closing the generator closes the connection, so that the server can stop.
        """
        body = self._body(messages, tools, more or {})
        attempt = 0
        while True:
            attempt += 1
            has_begun = False
            try:
                async with contextlib.aclosing(self._try(body, headers or {})) as pieces:
                    async for piece in pieces:
                        has_begun = True
                        yield piece
                return
            except _Failure as failure:
                if has_begun or not failure.may_retry or attempt >= self._options.tries:
                    raise self._given_up(failure, attempt, has_begun=has_begun) from None
                delay_s = self._delay_s(failure, attempt)
                log.info("%s; retry in %.2f s", self._describe(failure, attempt), delay_s)
            except (BadAnswer, EventTooLarge) as error:
                raise self._given_up(error, attempt, has_begun=has_begun) from None
            await asyncio.sleep(delay_s)

    async def text(self, messages: Sequence[dict[str, Any]]) -> str:
        """The text of the answer to `messages`; calls are ignored. Raises EngineFailed."""
        async with contextlib.aclosing(self.answer(messages)) as pieces:
            return "".join([piece.text async for piece in pieces if isinstance(piece, TextDelta)])

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _try(
        self, body: bytes, headers: Mapping[str, str]
    ) -> AsyncGenerator[TextDelta | ToolCall, None]:
        timeout = _ReadTimeout(self._options.first_token_timeout_s)
        answer, parser = ChatAnswer(), EventParser()
        has_spoken = False
        response = await self._post(body, headers, timeout)
        try:
            while not answer.is_ended:
                data = await self._read(response, timeout)
                events = parser.feed(data)
                for event in events:
                    if text := answer.take(event):
                        has_spoken = True
                        yield TextDelta(text)
                if has_spoken:
                    timeout.limit_s = self._options.idle_timeout_s
                if events or self._traits.comments_count:
                    timeout.restart()
            calls = answer.tool_calls()
            _check_end(answer, is_empty=not has_spoken and not calls)
            for call in calls:
                yield call
            await _linger(response)
        finally:
            # Closes the connection as well, unless the response has been read to its end.
            response.release()

    async def _post(
        self, body: bytes, headers: Mapping[str, str], timeout: _ReadTimeout
    ) -> aiohttp.ClientResponse:
        """A response with status 200 and an event stream. Raises _Failure."""
        try:
            async with timeout:
                response = await self._http().post(
                    self._url,
                    data=body,
                    headers={**self._headers(), **headers},
                    # A redirect would send the key and the conversation to another server.
                    allow_redirects=False,
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _Failure(f"cannot connect: {error}", may_retry=True) from None
        except TimeoutError:
            raise self._silent(timeout) from None
        except aiohttp.ClientError as error:
            raise self._lost(error) from None
        if response.status == 200 and response.content_type == "text/event-stream":
            return response
        try:
            raise await self._refusal(response)
        finally:
            response.close()

    async def _read(self, response: aiohttp.ClientResponse, timeout: _ReadTimeout) -> bytes:
        """The next bytes of an unfinished answer. Raises _Failure."""
        try:
            async with timeout:
                data = await response.content.readany()
        except TimeoutError:
            raise self._silent(timeout) from None
        except aiohttp.ClientError as error:
            raise self._lost(error) from None
        if not data:
            raise _Failure("the answer is incomplete", may_retry=self._traits.may_resend)
        return data

    async def _refusal(self, response: aiohttp.ClientResponse) -> _Failure:
        body = b""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(_ERROR_READ_S):
                while len(body) < _ERROR_READ and (data := await response.content.readany()):
                    body += data
        shown = self._shown(body.decode(errors="replace"))
        if response.status == 200:
            return _Failure(f"{response.content_type} instead of an event stream: {shown}")
        return _Failure(
            f"status {response.status}: {shown}",
            status=response.status,
            may_retry=response.status in self._traits.retry_statuses,
            retry_after_s=_seconds(response.headers.get("Retry-After", "")),
        )

    def _silent(self, timeout: _ReadTimeout) -> _Failure:
        return _Failure(f"no data for {timeout.limit_s:g} s", is_cut=self._traits.may_resend)

    def _lost(self, error: aiohttp.ClientError) -> _Failure:
        reason = self._shown(str(error) or type(error).__name__)
        return _Failure(f"the connection was lost: {reason}", may_retry=self._traits.may_resend)

    def _given_up(self, error: Exception, attempt: int, *, has_begun: bool) -> EngineFailed:
        """The client's error, without the server's text, which may disclose internals."""
        log.warning("%s", self._describe(error, attempt))
        match error:
            case _Failure(may_retry=True):
                return EngineCut()
            case _Failure(is_cut=True) if has_begun:
                return EngineCut()
            case _Failure(status=400 | 422):
                return Refused()
            case BadAnswer(is_server_error=True) if has_begun and self._traits.may_resend:
                return EngineCut()
        return EngineFailed()

    def _describe(self, error: Exception, attempt: int) -> str:
        reason = self._shown(str(error) or type(error).__name__)
        return f"{self._url}: attempt {attempt} of {self._options.tries} failed: {reason}"

    def _shown(self, text: str) -> str:
        """`text` for the log: one line, bounded, without the key, which some servers echo."""
        if self._options.api_key:
            text = text.replace(self._options.api_key, "***")
        return " ".join(text.split())[:_MAX_LOGGED]

    def _delay_s(self, failure: _Failure, attempt: int) -> float:
        if failure.retry_after_s is not None:
            return min(failure.retry_after_s, _MAX_BACKOFF_S)
        return jittered(attempt, _BACKOFF_S, _MAX_BACKOFF_S)

    def _body(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]],
        more: Mapping[str, Any],
    ) -> bytes:
        body: dict[str, Any] = {"messages": messages, "stream": True, **more}
        if self._options.model:
            body["model"] = self._options.model
        if tools:
            body["tools"] = tools
        return json.dumps(body, separators=(",", ":")).encode()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if self._options.api_key:
            headers["Authorization"] = f"Bearer {self._options.api_key}"
        return headers

    def _http(self) -> aiohttp.ClientSession:
        """Created at the first request, in the running loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # As many connections as turns. The server may close an idle one in the moment of a
                # request: harmless only if the request may be resent.
                connector=aiohttp.TCPConnector(limit=0, force_close=not self._traits.may_resend),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._options.connect_timeout_s),
                # Cookies must not be shared between users.
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class _ReadTimeout:
    """Bounds the time spent waiting for the server; a context that raises TimeoutError.

    Time outside of the context does not count: a slow client is not the server's fault.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._left_s = limit_s

    def restart(self) -> None:
        self._left_s = self.limit_s

    async def __aenter__(self) -> None:
        self._since = asyncio.get_running_loop().time()
        self._timeout = asyncio.timeout(self._left_s)
        await self._timeout.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        self._left_s -= asyncio.get_running_loop().time() - self._since
        await self._timeout.__aexit__(*raised)


async def _linger(response: aiohttp.ClientResponse) -> None:
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_LINGER_S):
            while await response.content.readany():
                pass


def _check_end(answer: ChatAnswer, *, is_empty: bool) -> None:
    """Check the finish reason. Raises BadAnswer, EngineFailed.

    An answer that was truncated at the token limit ("length") is accepted unless it is empty.
    """
    match answer.finish_reason:
        case "content_filter":
            raise EngineFailed("The model's content filter stopped the answer.")
        case "error":
            raise BadAnswer("the server reports a failure of its model", is_server_error=True)
        case "length" if is_empty:
            raise BadAnswer("an empty answer at the token limit")
        case "length":
            log.info("an answer was truncated at the token limit")


def _checked_url(engine: str, base_url: str) -> str:
    example = "such as http://127.0.0.1:8000/v1"
    if not base_url:
        raise ValueError(f"engine {engine!r} needs the base URL of its server, {example}")
    try:
        url = urllib.parse.urlsplit(base_url)
        is_fit = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_fit = False
    if not is_fit or url.query or url.fragment or not base_url.isprintable():
        raise ValueError(f"{base_url!r} is not a base URL for engine {engine!r}; use one {example}")
    if "@" in url.netloc:
        raise ValueError(
            f"the base URL of engine {engine!r} contains a password; give it as API key"
        )
    return base_url.rstrip("/")


def _seconds(retry_after: str) -> float | None:
    """The seconds of a Retry-After (RFC 9110, 10.2.3); None for its other form, a date."""
    text = retry_after.strip()
    return float(text) if text.isascii() and text.isdigit() else None
