"""The calls to a Kubernetes API server that discovery needs: list and watch, over aiohttp.

Everything is bounded, since the answers come from another machine: a page of a list, a line of a
watch, and the time of each. The token is read from its file for each request, since the kubelet
replaces it before it expires; a request that is refused with 401 is repeated once, by a token that
was read later.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from hermes_lb.discovery.sources.base import DiscoveryFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

PAGE = 16
"""Slices of a page: 16 of 100 endpoints are 0.5 MB, which take 5 ms to parse."""

MOST_BYTES = 16 * 1024 * 1024
"""Of a page, and of a line of a watch. An object has 1.5 MB at most (etcd's limit)."""

MOST_PAGES = 2_000

# Seconds. A watch ends by itself after `timeoutSeconds`, so one whose server has vanished without a
# FIN is found after that time and a little more.
_CONNECT_TAKES = 10.0
_PAGE_TAKES = 60.0
_GRACE = 15.0

_LEAST_RETRY_AFTER, _MOST_RETRY_AFTER = 1.0, 300.0
# Events that are read in one iteration of the loop.
_SHARE = 16
# A text in which JSON is worth a thread: the loop goes on while it is decoded and read.
_LARGE = 256 * 1024
# Seconds by which two clocks may differ without being the reason for a refusal.
_SAME_TIME = 60.0


class Expired(Exception):
    """410: the resource version is too old, a list is due."""


class KubernetesApi:
    """`url` of the server, file names of the token and of its authority; None: without."""

    def __init__(self, url: str, token_file: str | None, ca_file: str | None) -> None:
        self._url = url.rstrip("/")
        self._token_file = token_file
        self._ca_file = ca_file
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<KubernetesApi at {self._url}>"

    async def close(self) -> None:
        """Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def pages(self, path: str, params: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
        """The pages of a list. Raises DiscoveryFailed, or Expired."""
        more = ""
        for _ in range(MOST_PAGES):
            asked = {**params, "limit": str(PAGE), **({"continue": more} if more else {})}
            page = await self._page(path, asked)
            yield page
            metadata = page.get("metadata")
            more = str((metadata or {}).get("continue") or "") if isinstance(metadata, dict) else ""
            if not more:
                return
        raise DiscoveryFailed(f"the API server's list does not end after {MOST_PAGES} pages")

    async def _page(self, path: str, params: Mapping[str, str]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_PAGE_TAKES), self._get(path, params) as response:
                text = bytearray()
                async for data in response.content.iter_any():
                    text += data
                    if len(text) > MOST_BYTES:
                        raise DiscoveryFailed(_too_large("a page"))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise DiscoveryFailed(self._unreachable(error)) from None
        return await _parsed(bytes(text))

    async def watch(
        self, path: str, params: Mapping[str, str], seconds: int
    ) -> AsyncIterator[dict[str, Any]]:
        """The events until the server ends the watch, which it does after `seconds`.

        Raises DiscoveryFailed, or Expired.
        """
        asked = {
            **params, "watch": "true", "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }  # fmt: skip
        try:
            async with asyncio.timeout(seconds + _GRACE), self._get(path, asked) as response:
                line, count = bytearray(), 0
                async for data in response.content.iter_any():
                    *ends, rest = data.split(b"\n")
                    for end in ends:
                        line += end
                        if line:
                            yield await _parsed(bytes(line))
                            count += 1
                            if not count % _SHARE:  # what is there already is not waited for
                                await asyncio.sleep(0)
                        line = bytearray()
                    line += rest
                    if len(line) > MOST_BYTES:
                        raise DiscoveryFailed(_too_large("a line of a watch"))
                    await asyncio.sleep(0)
        except aiohttp.ClientPayloadError:
            return  # cut off: as an end
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise DiscoveryFailed(self._unreachable(error)) from None

    def _get(self, path: str, params: Mapping[str, str]) -> _Get:
        return _Get(self, path, params)

    async def send(self, path: str, params: Mapping[str, str]) -> aiohttp.ClientResponse:
        """The response with the status 200. Raises what `refused` makes of others."""
        for attempt in (1, 2):
            token = await asyncio.to_thread(self._token)
            headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
            if token:
                headers["Authorization"] = f"Bearer {token}"
            response = await self._connected().get(
                self._url + path, params=params, headers=headers, allow_redirects=False
            )
            if response.status == 200:
                return response
            with_body = await _beginning(response)
            response.close()
            is_first = response.status == 401 and attempt == 1
            if is_first and await asyncio.to_thread(self._token) != token:
                continue  # it was replaced meanwhile
            raise self._refused(response, with_body, token)
        raise AssertionError

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._tls(), limit=4)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TAKES)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )  # fmt: skip
        return self._session

    def _tls(self) -> ssl.SSLContext | bool:
        if not self._url.startswith("https:"):
            return True
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:
            raise DiscoveryFailed(f"can't use {self._ca_file}: {error.strerror}") from None

    def _token(self) -> str:
        if self._token_file is None:
            return ""
        try:
            token = Path(self._token_file).read_text(encoding="ascii").strip()
        except OSError as error:
            raise DiscoveryFailed(f"can't read {self._token_file}: {error.strerror}") from None
        except ValueError:
            raise DiscoveryFailed(f"{self._token_file} has no token") from None
        if not token or not token.isprintable() or " " in token:
            raise DiscoveryFailed(f"{self._token_file} has no token")
        return token

    def _unreachable(self, error: Exception) -> str:
        reason = getattr(error, "certificate_error", None) or error
        if isinstance(reason, ssl.SSLCertVerificationError):
            why = reason.verify_message
            clocks = ": check the clocks" if "not yet valid" in why or "expired" in why else ""
            return f"the API server's certificate is refused: {why}{clocks}"
        if isinstance(error, TimeoutError):
            return f"the API server at {self._url} does not answer in time"
        text = " ".join(str(error).split())[:200] or type(error).__name__
        return f"the API server at {self._url} can't be reached: {text}"

    def _refused(
        self, response: aiohttp.ClientResponse, body: bytes, token: str
    ) -> DiscoveryFailed | Expired:
        status = response.status
        if status == 410:
            return Expired()
        said = _message(body)
        if status == 401:
            skew = _skew(response)
            return DiscoveryFailed(f"the API server refuses the token (401){_doubts(token, skew)}")
        if status == 403:
            text = "the service account may not list and watch endpointslices (403); see the RBAC"
            return DiscoveryFailed(f"{text} manifest in docs/discovery.md: {said}")
        after = response.headers.get("Retry-After", "")
        wait = float(after) if after.isascii() and after.isdecimal() and len(after) < 6 else None
        if wait is not None:
            wait = min(max(wait, _LEAST_RETRY_AFTER), _MOST_RETRY_AFTER)
        if status == 429:
            return DiscoveryFailed("the API server asks for fewer requests (429)", wait)
        return DiscoveryFailed(f"the API server answers {status}: {said}", wait)


class _Get:
    """`async with`: a response with the status 200, closed at the end."""

    def __init__(self, api: KubernetesApi, path: str, params: Mapping[str, str]) -> None:
        self._api, self._path, self._params = api, path, params

    async def __aenter__(self) -> aiohttp.ClientResponse:
        self._response = await self._api.send(self._path, self._params)
        return self._response

    async def __aexit__(self, *_: object) -> None:
        self._response.close()


async def _parsed(text: bytes) -> dict[str, Any]:
    """A JSON object. Raises DiscoveryFailed."""
    try:
        if len(text) > _LARGE:
            found = await asyncio.to_thread(json.loads, text)
        else:
            found = json.loads(text)
    except (ValueError, RecursionError):
        raise DiscoveryFailed("the API server's answer is no JSON") from None
    if not isinstance(found, dict):
        raise DiscoveryFailed("the API server's answer is no object")
    return found


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """Of the body of a refusal."""
    try:
        async with asyncio.timeout(_CONNECT_TAKES):
            return await response.content.read(4096)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return b""


def _message(body: bytes) -> str:
    """Of a `Status`; printable, one line."""
    try:
        found = json.loads(body)
        text = str(found["message"]) if isinstance(found, dict) and "message" in found else ""
    except (ValueError, RecursionError):
        text = ""
    text = " ".join(text.split())[:200]
    return (text if text.isprintable() else ascii(text)) or "no reason given"


def _too_large(what: str) -> str:
    return f"{what} of the API server has more than {MOST_BYTES >> 20} MiB"


def _skew(response: aiohttp.ClientResponse) -> float:
    """Seconds by which the server's clock is ahead of this one's; 0.0 if it does not say."""
    try:
        return parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time()
    except (KeyError, ValueError, TypeError, OverflowError):
        return 0.0


def _doubts(token: str, skew: float) -> str:
    """Why it may be refused, by its own claims (RFC 7519 section 4.1) and the clocks."""
    if abs(skew) > _SAME_TIME:
        return f": the clocks differ by {abs(skew):.0f} s"
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        expires = float(claims["exp"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    over = time.time() - expires
    return f": it expired {over:.0f} s ago and was not replaced" if over > 0 else ""
