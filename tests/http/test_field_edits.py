"""Which fields a route may change, and how lines lose some."""

from __future__ import annotations

import pytest

from hermes_lb.http.field_edits import (
    NEVER_IN_REQUEST,
    NEVER_IN_RESPONSE,
    Removal,
    lines_of,
    refuse_field,
)

LINES = b"X-A: 1\r\nx-a: 2\r\nX_A: 3\r\nX-AB: 4\r\nY: X-A: 5\r\n"


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["X-A"], b"X-AB: 4\r\nY: X-A: 5\r\n"),
        (["x-a"], b"X-AB: 4\r\nY: X-A: 5\r\n"),
        (["X_A"], b"X-AB: 4\r\nY: X-A: 5\r\n"),
        (["X-A*"], b"Y: X-A: 5\r\n"),
        (["Y", "X-AB"], b"X-A: 1\r\nx-a: 2\r\nX_A: 3\r\n"),
        (["X"], LINES),
        (["X.A"], LINES),
    ],
)
def test_a_field_is_removed_however_a_server_may_read_its_name(
    names: list[str], left: bytes
) -> None:
    assert Removal(names).apply(LINES) == left


def test_a_field_without_a_value_is_left_out() -> None:
    assert lines_of([(b"A", b"1"), (b"B", b""), (b"C", b"2")]) == b"A: 1\r\nC: 2\r\n"


@pytest.mark.parametrize("action", ["set", "add", "remove"])
@pytest.mark.parametrize("in_request", [True, False])
def test_framing_and_our_own_fields_are_not_a_routes(action: str, in_request: bool) -> None:
    names = NEVER_IN_REQUEST if in_request else NEVER_IN_RESPONSE
    assert {"content-length", "transfer-encoding", "connection", "x-hermes-fence"} <= names
    for name in names:
        for written in (name, name.title(), name.replace("-", "_")):
            with pytest.raises(ValueError, match="the balancer's own"):
                refuse_field(written, action, in_request=in_request)


@pytest.mark.parametrize(
    ("name", "action", "in_request", "may"),
    [
        ("Cookie", "remove", True, True),
        ("Cookie", "set", True, False),
        ("Cookie", "add", True, False),
        ("Set-Cookie", "add", False, True),
        ("Set-Cookie", "set", False, False),
        ("Set-Cookie", "remove", False, False),
        ("Authorization", "set", True, True),
        ("X-Forwarded-Prefix", "set", True, True),
        ("X-Internal-*", "remove", True, True),
        ("X-*", "remove", True, False),  # X-Request-ID
        ("C*", "remove", False, False),  # Content-Length
        ("*", "remove", False, False),
        ("Set-*", "remove", False, False),
    ],
)
def test_cookies_and_beginnings_of_names(
    name: str, action: str, in_request: bool, may: bool
) -> None:
    if may:
        refuse_field(name, action, in_request=in_request)
    else:
        with pytest.raises(ValueError, match="can not be changed"):
            refuse_field(name, action, in_request=in_request)
