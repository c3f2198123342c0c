"""A key whose name comes more than once: the first counts, whatever stands around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.http.keys import key_finder


def first_named_k(pairs: list[str]) -> bytes:
    """As nginx's `$arg_k`: of the pairs with a "=" the first of this name."""
    named = (pair.partition("=") for pair in pairs)
    return next((value for name, equals, value in named if equals and name == "k"), "").encode()


@pytest.mark.parametrize(
    ("query", "key"),
    [
        # What nginx 1.22 (`$arg_k`) and HAProxy 2.6 (`url_param(k)`) said.
        ("k=1&k=2", b"1"),
        ("a=0&k=1&k=2", b"1"),
        ("k=1&a=?&k=9", b"1"),
        ("k=&k=2", b""),
        ("k&k=2", b"2"),
        # Here they differ: to HAProxy "?" and ";" part parameters, too.
        ("a?k=2", b""),
        ("a;k=2", b""),
    ],
)
def test_the_first_parameter_of_the_name_counts(query: str, key: bytes) -> None:
    head = f"GET /?{query} HTTP/1.1\r\nReferer: /?k=no\r\n\r\nGET /?k=no ".encode()
    assert key_finder("query:k")(head) == key


@pytest.mark.parametrize(
    ("cookies", "key"),
    [
        # What nginx 1.22 (`$cookie_k`) said.
        (["k=1; k=2"], b"1"),
        (["a=0; k=1; k=2"], b"1"),
        (["k=1", "k=2"], b"1"),
        (["a=0", "k=2"], b"2"),
        (["k=; k=2"], b""),
        (["k; k=2"], b"2"),
    ],
)
def test_the_first_cookie_of_the_name_counts(cookies: list[str], key: bytes) -> None:
    fields = "".join(f"Cookie: {line}\r\n" for line in cookies)
    assert key_finder("cookie:k")(f"GET / HTTP/1.1\r\n{fields}\r\n".encode()) == key


def test_the_first_field_of_the_name_counts() -> None:
    head = b"GET / HTTP/1.1\r\nX: 1\r\nx: 2\r\n\r\n"
    assert key_finder("header:X")(head) == b"1"


@given(st.text("ak=&?;1", max_size=24))
def test_a_parameter_is_found_as_by_splitting_the_query(query: str) -> None:
    head = f"GET /k=no&k=no?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert key_finder("query:k")(head) == first_named_k(query.split("&"))


@given(st.lists(st.text("ak=;& 1", max_size=16), max_size=3))
def test_a_cookie_is_found_as_by_splitting_the_fields(lines: list[str]) -> None:
    fields = "".join(f"Cookie:{line}\r\nX: k=no\r\n" for line in lines)
    pairs = [pair.strip() for line in lines for pair in line.split(";")]
    key = key_finder("cookie:k")(f"GET / HTTP/1.1\r\n{fields}\r\n".encode())
    assert key == first_named_k(pairs).strip()
