"""The bytes that clients send and upstreams answer, the same for every proxy."""

from __future__ import annotations

import json

# Paths below it get a response head with a value of its own.
VARIED_PATH = "/varied"

SDK_PATH = "/v1/chat/completions"
SDK_BODY_BYTES = 512
SDK_HEAD_BYTES = 670

SMALL_BODY = json.dumps({"id": "resp_0123456789abcdef", "object": "pong", "ok": True})
# What an API server adds to its answers beside framing and date.
SMALL_HEADERS = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    "X-Request-Id": "req_4f9d0a7c2b8e41d6a3f5",
    "X-Content-Type-Options": "nosniff",
}
# Tells which of the three upstreams answered.
UPSTREAM_HEADER = "X-Upstream"


def _sdk_body() -> bytes:
    frame = {
        "model": "hermes-4",
        "stream": True,
        "messages": [{"role": "user", "content": ""}],
    }
    padding = SDK_BODY_BYTES - len(json.dumps(frame))
    frame["messages"] = [{"role": "user", "content": ("tell me more " * 50)[:padding]}]
    return json.dumps(frame).encode()


SDK_BODY = _sdk_body()


def sdk_headers(host: str, user: int = 0) -> dict[str, str]:
    """The 16 headers of an OpenAI Python SDK request, as many as wrk adds (two) included.

    `user`: whose credential it has; all are of one length.
    """
    headers = {
        "Host": host,
        "Accept-Encoding": "gzip, deflate",
        "Connection": "keep-alive",
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": "OpenAI/Python 1.109.1",
        "X-Stainless-Lang": "python",
        "X-Stainless-Package-Version": "1.109.1",
        "X-Stainless-OS": "Linux",
        "X-Stainless-Arch": "x64",
        "X-Stainless-Runtime": "CPython",
        "X-Stainless-Runtime-Version": "3.11.2",
        "Authorization": f"Bearer sk-proj-{user:04}",
        "X-Stainless-Async": "false",
        "x-stainless-retry-count": "0",
        "Content-Length": str(SDK_BODY_BYTES),
    }
    missing = SDK_HEAD_BYTES - len(_head("POST", SDK_PATH, headers))
    headers["Authorization"] += ("0123456789abcdefghijklmnopqrstuvwxyz" * 10)[:missing]
    return headers


def get_request(port: int) -> bytes:
    """A whole small GET, as wrk sends it."""
    return _head("GET", "/", {"Host": f"127.0.0.1:{port}"})


def sdk_request(port: int, path: str = SDK_PATH, user: int = 0, key: str = "") -> bytes:
    """A whole SDK POST to `path`, as bytes. `key`: its Idempotency-Key."""
    headers = sdk_headers(f"127.0.0.1:{port}", user)
    if key:
        headers["Idempotency-Key"] = key
    return _head("POST", path, headers) + SDK_BODY


def websocket_request(port: int) -> bytes:
    """The opening handshake of RFC 6455 §4.1, with the key of its example."""
    headers = {
        "Host": f"127.0.0.1:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    return _head("GET", "/ws", headers)


WEBSOCKET_ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # the answer to that key, from the same RFC
_WEBSOCKET_PAYLOAD = b'{"type":"input_audio","n":0}'
# A client's frame is masked (RFC 6455 §5.3); with a key of zeros the payload stays readable, so
# that an echo costs the load generator nothing.
CLIENT_FRAME = bytes((0x81, 0x80 | len(_WEBSOCKET_PAYLOAD))) + bytes(4) + _WEBSOCKET_PAYLOAD
SERVER_FRAME = bytes((0x81, len(_WEBSOCKET_PAYLOAD))) + _WEBSOCKET_PAYLOAD

# One per token, and in no head and no chunk size: clients count tokens by counting this byte,
# however a proxy cuts or joins the chunks.
TOKEN_MARK = b"{"


def token_chunk(number: int, extra: int = 0, *, has_id: bool = True) -> bytes:
    """Token `number` of a stream: a server-sent event of some 100 bytes, in a chunk of its own.

    `extra` travels along as a number (the first-token case sends times, in ns).
    """
    event = b'event: token\ndata: {"index":%d,"extra":%d,"content":" plausible words"}\n\n'
    body = event % (number, extra)
    if has_id:
        body = b"id: %d\n%b" % (number, body)
    return b"%x\r\n%b\r\n" % (len(body), body)


LAST_CHUNK = b"0\r\n\r\n"


def _head(method: str, path: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
