"""The parsing of a ClientHello, of OpenSSL's own and of nonsense."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.tls.client_hello import (
    MOST_IN_HELLO,
    ClientHello,
    Malformed,
    NotTls,
    read_client_hello,
)


def hello(name: str | None = None, *protocols: str) -> bytes:
    """What OpenSSL says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = name is not None
    if protocols:
        context.set_alpn_protocols(list(protocols))
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def in_records(message: bytes, size: int) -> bytes:
    """The same handshake message, in records of `size` bytes."""
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def test_it_tells_the_name_and_the_protocols() -> None:
    assert read_client_hello(hello("WWW.Example.com", "h2", "http/1.1")) == ClientHello(
        "www.example.com", [b"h2", b"http/1.1"]
    )
    assert read_client_hello(hello()) == ClientHello("", None)


def test_it_waits_for_the_end_of_the_hello_and_not_for_more() -> None:
    whole = hello("a.test")
    for end in range(1, len(whole)):
        needed = read_client_hello(whole[:end])
        assert needed == (5 if end < 5 else len(whole))
    assert read_client_hello(whole + b"more") == ClientHello("a.test", None)


@pytest.mark.parametrize("size", [10, 33, 100])
def test_a_hello_may_be_spread_over_records(size: int) -> None:
    whole = in_records(hello("a.test")[5:], size)
    assert read_client_hello(whole) == ClientHello("a.test", None)
    needed = read_client_hello(whole[:1])
    while isinstance(needed, int):
        assert needed <= len(whole)
        needed = read_client_hello(whole[:needed])
    assert needed == ClientHello("a.test", None)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"\x16\x02", b"\x80\x2e", b"PROXY ", b"\0"]
)
def test_other_bytes_are_no_tls(data: bytes) -> None:
    with pytest.raises(NotTls):
        read_client_hello(data)


@pytest.mark.parametrize("name", ["höst", "a\x00b", "\x7f\x80"])
def test_a_name_that_no_host_has_is_none(name: str) -> None:
    data = hello("host.test").replace(b"host.test", name.encode("latin-1").ljust(9, b"x")[:9])
    said = read_client_hello(data)
    assert isinstance(said, ClientHello)
    assert said.server_name.isascii()


@pytest.mark.parametrize(
    "data",
    [
        in_records(b"\x02\0\0\1x", 9),  # a server's hello
        in_records(b"\x01" + b"\xff" * 3, 9),  # 16 MiB are announced
        in_records(b"\x01\0\0\x03abc", 9),
        b"\x16\x03\x01\x00\x00" * 2,  # records without content
        in_records(b"\x01\x00\x3f\xff" + bytes(MOST_IN_HELLO), 1)[:400],
    ],
    ids=["another message", "too large", "too short", "empty records", "tiny records"],
)
def test_what_no_client_would_send_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_client_hello(data)


def test_a_hello_may_have_no_extensions() -> None:
    body = bytes(34) + b"\0" + b"\0\2\xc0\x2b" + b"\1\0"
    assert read_client_hello(in_records(b"\x01" + len(body).to_bytes(3, "big") + body, 99)) == (
        ClientHello()
    )


def extension(kind: int, content: bytes) -> bytes:
    inner = len(content).to_bytes(2, "big") + content
    return kind.to_bytes(2, "big") + len(inner).to_bytes(2, "big") + inner


def hello_with(groups: list[int], shares: list[int]) -> bytes:
    """As OpenSSL's own client would send it with `-groups`."""
    listed = b"".join(group.to_bytes(2, "big") for group in groups)
    keys = b"".join(group.to_bytes(2, "big") + b"\x00\x01k" for group in shares)
    extensions = extension(10, listed) + extension(51, keys)
    body = bytes(34) + b"\0" + b"\0\2\x13\x01" + b"\1\0"
    body += len(extensions).to_bytes(2, "big") + extensions
    return in_records(b"\x01" + len(body).to_bytes(3, "big") + body, 1000)


@pytest.mark.parametrize(
    ("groups", "shares", "is_costly"),
    [
        ([29, 23, 0x100], [29], False),
        ([0x11EC, 29], [0x11EC, 29], False),
        ([0x100, 29], [], False),  # OpenSSL asks for the curve
        ([29, 0x104], [0x104], True),
        ([0x104], [0x104], True),
        ([0x104], [], True),
        ([0x0A0A, 0x104], [], True),  # a value that means nothing (RFC 8701)
        ([26, 0x104], [26], True),  # a curve that OpenSSL has not for TLS 1.3
        ([], [], False),
    ],
)
def test_a_key_exchange_in_a_finite_field_is_costly(
    groups: list[int], shares: list[int], is_costly: bool
) -> None:
    said = read_client_hello(hello_with(groups, shares))
    assert said == ClientHello("", None, is_costly)


@given(st.binary(max_size=300))
def test_garbage_behind_a_good_start_is_read_or_malformed(garbage: bytes) -> None:
    message = b"\x01" + len(garbage).to_bytes(3, "big") + garbage
    with suppress(Malformed):
        assert isinstance(read_client_hello(in_records(message, 200)), ClientHello)


@given(st.data())
def test_a_hello_with_any_byte_changed_is_read_or_not_but_never_fatal(data: st.DataObject) -> None:
    whole = bytearray(_HELLO)
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        said = read_client_hello(whole)
    except NotTls:
        assert whole[:2] != _HELLO[:2]
    except Malformed:
        pass
    else:
        assert isinstance(said, int) or said.server_name.isascii()


_HELLO = hello("a.test", "http/1.1")
