"""Other prefixes for paths; and the path that a server may take one for."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hermes_lb.http.paths import PathRewrite, as_servers_read, is_unusual

STRIP = PathRewrite("/api", "", "")
STRIP_SLASH = PathRewrite("/api/", "", "")
REPLACE = PathRewrite("/api/", "/v2", "")
REPLACE_WHOLE = PathRewrite("/old", "/new/", "")
ADD = PathRewrite("", "", "/tenant/")
STRIP_AND_ADD = PathRewrite("/api", "", "/v2")


@pytest.mark.parametrize(
    ("rewrite", "target", "expected"),
    [
        (STRIP, b"/api/x", b"/x"),
        (STRIP, b"/api/", b"/"),
        (STRIP, b"/api", b"/"),
        (STRIP, b"/api?a=/api", b"/?a=/api"),
        (STRIP, b"/api/x?", b"/x?"),
        (STRIP, b"/api/api/x", b"/api/x"),
        (STRIP, b"/apix", b"/x"),
        (STRIP, b"*", b"*"),
        (STRIP, b"/api//evil.example/x", b"/evil.example/x"),
        (STRIP, b"/api///x//y", b"/x//y"),
        (STRIP, b"/api/\\evil.example", b"/evil.example"),
        (STRIP_SLASH, b"/api/x", b"/x"),
        (STRIP_SLASH, b"/api/", b"/"),
        (STRIP_SLASH, b"/api//x", b"/x"),
        (REPLACE, b"/api/x", b"/v2/x"),
        (REPLACE, b"/api/", b"/v2/"),
        (REPLACE, b"/api//x", b"/v2/x"),
        (REPLACE_WHOLE, b"/old", b"/new/"),
        (REPLACE_WHOLE, b"/old/x?y", b"/new/x?y"),
        (ADD, b"/x", b"/tenant/x"),
        (ADD, b"/", b"/tenant/"),
        (ADD, b"//x", b"/tenant//x"),
        (STRIP_AND_ADD, b"/api/x", b"/v2/x"),
        (STRIP_AND_ADD, b"/api", b"/v2/"),
    ],
)
def test_a_prefix_is_replaced_once(rewrite: PathRewrite, target: bytes, expected: bytes) -> None:
    assert rewrite.apply(target) == expected


@given(
    st.text("/\\a?", max_size=6),
    st.sampled_from([STRIP, STRIP_SLASH, REPLACE, ADD, STRIP_AND_ADD]),
)
@example("//a", STRIP)
@example("/\\a", STRIP_SLASH)
def test_a_result_is_a_path_and_never_names_a_host(rest: str, rewrite: PathRewrite) -> None:
    result = rewrite.apply(b"/api" + rest.encode())
    assert result[:1] == b"/"
    assert result[1:2] not in (b"/", b"\\")


@pytest.mark.parametrize(
    ("path", "read"),
    [
        (b"/", b"/"),
        (b"/a/b", b"/a/b"),
        (b"/a/b/", b"/a/b/"),
        (b"/a/../b", b"/b"),
        (b"/a/..", b"/"),
        (b"/a/./b", b"/a/b"),
        (b"/../../b", b"/b"),
        (b"//b", b"/b"),
        (b"/a//b", b"/a/b"),
        (b"/%2e%2e/b", b"/b"),
        (b"/a/%2E./b", b"/b"),
        (b"/a%2fb", b"/a/b"),
        (b"/a/..%2fb", b"/b"),
        (b"/%61dmin", b"/admin"),
        (b"/%252e%252e/b", b"/b"),
        (b"/a\\..\\b", b"/b"),
        (b"/a/%5c../b", b"/b"),
        (b"/a/..;x=1/b", b"/b"),
        (b"/a;x/b", b"/a/b"),
        (b"/;/b", b"/b"),
        (b"/a...", b"/a..."),
        (b"/.well-known", b"/.well-known"),
    ],
)
def test_what_a_server_may_read(path: bytes, read: bytes) -> None:
    assert as_servers_read(path) == read
    assert read == path or is_unusual(path)


@given(st.text("/.%25e;a\\", max_size=10))
def test_a_plain_path_is_read_by_all_servers_as_it_is(text: str) -> None:
    path = b"/" + text.encode()
    if not is_unusual(path):
        assert as_servers_read(path) == path
