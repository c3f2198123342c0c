"""What a route may ask of a request: its forms, its mistakes with their lines, its changes."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Condition, ConfigError, Match, load_config
from hermes_lb.config.allowed import allowed, keys_of, node_at
from hermes_lb.config.changes import describe_changes

if TYPE_CHECKING:
    from pathlib import Path

MATCH = ("frontends", 0, "routes", 0, "match")
METHODS = (
    'allowed is "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE" or "QUERY"'
)
FORMS = 'write a text, an array of texts, { prefix = "..." } or { present = true }'
TOKEN = "write 1 to 64 letters, digits or any of !#$%&'*+.^_`|~-"


def file_of(*lines: str) -> str:
    """Of a frontend with one route; the first of `lines` is the sixth."""
    head = ["[[frontends]]", 'name = "f"', 'bind = "*:1"', "[[frontends.routes]]", 'backend = "b"']
    tail = ["[backends.b]", 'servers = [{ name = "a", address = "h:1" }]']
    return "\n".join([*head, *lines, *tail])


def loaded(*lines: str) -> Any:
    return load_config(tomllib.loads(file_of(*lines)))


@pytest.mark.parametrize(
    ("written", "condition"),
    [
        ('"x"', Condition(exact=["x"])),
        ('["x", "y"]', Condition(exact=["x", "y"])),
        ('{ exact = ["x"] }', Condition(exact=["x"])),
        ('{ prefix = "x" }', Condition(prefix="x")),
        ("{ present = true }", Condition(present=True)),
        ("{ present = false }", Condition(present=False)),
        ('""', Condition(exact=[""])),
    ],
)
def test_the_forms_of_a_condition(written: str, condition: Condition) -> None:
    config = loaded(f"match.header.A = {written}", f"match.query.b = {written}")
    match = config.frontends[0].routes[0].match
    assert match == Match(header={"A": condition}, query={"b": condition})
    # As plain values it is the same.
    assert load_config({**config.model_dump(), "process": {}}).frontends == config.frontends


def test_one_method_or_type_needs_no_brackets() -> None:
    config = loaded('match = { method = "POST", content_type = "text/*" }')
    match = config.frontends[0].routes[0].match
    assert match == Match(method=["POST"], content_type=["text/*"])
    assert load_config({**config.model_dump(), "process": {}}).frontends == config.frontends


@pytest.mark.parametrize(
    ("lines", "problems"),
    [
        (['match = { methd = "POST" }'],
         ['6: .match.methd: unknown key; did you mean "method"?']),
        (['method = "POST"'],
         ["6: .method: unknown key here; it belongs into frontends[0].routes[0].match"]),
        (['match = { path = "/" }'],
         ["6: .match.path: unknown key here; it is a key of frontends[0].routes[0], and must "
          "stand before the header of frontends[0].routes[0].match"]),
        (['match = "POST"'],
         ['6: .match: "POST" is not a table; allowed is a table with the keys method, header, '
          "query, content_type"]),
        (['match.method = "post"'],
         [f'6: .match.method: "post" is not allowed; {METHODS}; did you mean "POST"?']),
        (["[frontends.routes.match]", "method = [", '  "POTS", "CONNECT",', "]"],
         [f'7: .match.method[0]: "POTS" is not allowed; {METHODS}; did you mean "POST"?',
          f'7: .match.method[1]: "CONNECT" is not allowed; {METHODS}']),
        (["match.method = []"],
         [f"6: .match.method: it is empty; give an array of at least one, each "
          f"{METHODS.removeprefix('allowed is ')}"]),
        (['match.content_type = "json"'],
         ['6: .match.content_type: "json" is not allowed; write a media type without parameters, '
          'such as "application/json" or "text/*"']),
        (['match.content_type = ["*/*", "text/html;a=b"]'],
         ['6: .match.content_type[0]: "*/*" is not allowed; write a media type without '
          'parameters, such as "application/json" or "text/*"',
          '6: .match.content_type[1]: "text/html;a=b" is not allowed; write a media type without '
          'parameters, such as "application/json" or "text/*"']),
        (["[frontends.routes.match.header]", '"a b" = "x"'],
         [f'7: .match.header."a b": the name "a b" is not allowed; {TOKEN}']),
        (["[frontends.routes.match.query]", 'a = "x"', '"b%" = ["x"]'],
         ['8: .match.query."b%": the name "b%" is not allowed; write the decoded name, 1 to 64 '
          "visible ASCII characters without #, %, &, + and ="]),
        (["[frontends.routes.match.header]", "A = 5", 'B.prefx = "x"', "C = {}", "D = []",
          "E.present = 1", 'F.prefix = ""', 'G = { prefix = "a", present = true }'],
         [f"7: .match.header.A: 5 is not allowed; {FORMS}",
          '8: .match.header.B.prefx: unknown key; did you mean "prefix"?',
          "9: .match.header.C: give one of exact, prefix and present",
          "10: .match.header.D: it is empty; give an array of at least one, each text in quotes",
          "11: .match.header.E.present: 1 is not a boolean; allowed is true or false",
          '12: .match.header.F.prefix: "" is too short; allowed is text in quotes, not empty',
          "13: .match.header.G: give one of exact, prefix and present"]),
        (["[frontends.routes.match]", 'query.a = ""', 'header = { A = "x", a = "y" }'],
         ['8: .match.header: "A" and "a" are the same field']),
        (['match.header.Host = "x"'],
         ['6: .match.header: "Host" is not forwarded as it comes, so routes can\'t compare it; '
          "give host, beside match"]),
        (['match.header.X-Forwarded-Prefix = "x"'],
         ['6: .match.header: "X-Forwarded-Prefix" is not forwarded as it comes, so routes can\'t '
          "compare it"]),
        (['match.header.Content_Length = "1"'],
         ['6: .match.header: "Content_Length" is not forwarded as it comes, so routes can\'t '
          "compare it"]),
        (['match.header.A = ["x", " y"]'], ['6: .match.header: "A" never has the value " y"']),
        (['match.header.A = "\\u00e9"'], ['6: .match.header: "A" never has the value "\u00e9"']),
        (['match.header.A.prefix = " y"'], ['6: .match.header: "A" never begins with " y"']),
    ],
)  # fmt: skip
def test_a_mistake_has_its_line_and_what_is_allowed(
    lines: list[str], problems: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "lb.toml"
    path.write_text(file_of(*lines))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    found = str(caught.value).replace(f"{path}:", "").replace(": frontends[0].routes[0].", ": .")
    assert found.splitlines() == problems


@pytest.mark.parametrize("name", ["Cookie", "via", "X-Request-ID", "TE", "Proxy-X", "Connection"])
def test_only_what_is_forwarded_as_it_comes_is_compared(name: str) -> None:
    with pytest.raises(ConfigError, match="is not forwarded as it comes"):
        loaded(f'match.header.{name} = "x"')


@pytest.mark.parametrize("name", ["Authorization", "Idempotency-Key", "Accept", "traceparent"])
def test_what_is_forwarded_is_compared(name: str) -> None:
    assert loaded(f'match.header.{name} = "x"').frontends[0].header_keys == {name.lower().encode()}


def test_the_type_is_a_field_that_decides() -> None:
    assert loaded('match.content_type = "a/b"').frontends[0].header_keys == {b"content-type"}


def test_the_schema_tells_editors_of_all_forms() -> None:
    assert keys_of(node_at(MATCH)) == ["method", "header", "query", "content_type"]
    for table in ("header", "query"):
        assert allowed(node_at((*MATCH, table, "X"))) == (
            "an array of at least one, each text in quotes or a table with the keys exact, prefix, "
            "present"
        )
        assert keys_of(node_at((*MATCH, table, "X"))) == ["exact", "prefix", "present"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ([], ['match.method = "POST"'], [".match: default -> a table"]),
        (['match = { method = "POST" }'], ['match = { method = ["POST", "PUT"] }'],
         ['.match.method: ["POST"] -> ["POST", "PUT"]']),
        (['match.header = { A = "x", B = "y" }'], ['match.header = { A = "z", C = "y" }'],
         ['.match.header.A.exact: ["x"] -> ["z"]', ".match.header.C: added",
          ".match.header.B: removed"]),
    ],
)  # fmt: skip
def test_a_reload_tells_what_has_changed(old: list[str], new: list[str], said: list[str]) -> None:
    changes = describe_changes(loaded(*old), loaded(*new))
    assert [text.removeprefix("frontends.f.routes[0]") for text in changes] == said
