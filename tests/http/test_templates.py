"""Texts with variables: what they are parsed into, and which are refused."""

from __future__ import annotations

import pytest

from hermes_lb.http.templates import RESPONSE_VARIABLES, Variable, parse


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("plain text", [b"plain text"]),
        ("{client}", [Variable("client")]),
        ("a{client}b{host}", [b"a", Variable("client"), b"b", Variable("host")]),
        ("{client}{client}", [Variable("client")] * 2),
        ("{{client}}", [b"{client}"]),
        ("{{{client}}}", [b"{", Variable("client"), b"}"]),
        ("100 %b %s \\", [b"100 %b %s \\"]),
    ],
)
def test_a_text_is_its_constants_and_its_variables(text: str, parts: list[object]) -> None:
    assert parse(text) == parts


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{clint}", "did you mean {client}?"),
        ("{}", "there is no variable"),
        ("{ client }", "did you mean {client}?"),
        ("{server}", "{server} is known in a response only"),
        ("{client", '"{" that belongs to no variable is written "{{"'),
        ("client}", '"}" that belongs to no variable is written "}}"'),
        ("a\r\nX: b", "a line end would begin another field"),
        ("a\nb", "a line end"),
        ("a\0b", "a line end"),
        ("caf\u00e9", "visible ASCII"),
        ("\x7f", "visible ASCII"),
    ],
)
def test_what_could_inject_or_is_unknown_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("{", r"\{").replace("?", r"\?")):
        parse(text)


def test_a_response_knows_more() -> None:
    assert parse("{server}", RESPONSE_VARIABLES) == [Variable("server")]
