"""The lines of keys, compared with a writer that records the line of each key."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.config.lines import LineIndex
from tests.support.examples import examples

if TYPE_CHECKING:
    from random import Random

    import pytest

    from hermes_lb.options.problems import KeyPath


def found(text: str) -> dict[KeyPath, int | None]:
    """The line of every key, table and element of a document."""
    index = LineIndex(text)
    assert index.unfinished is None
    paths = list(all_paths(tomllib.loads(text)))
    assert all(path in index for path in paths)
    return {path: index.line_of(path) for path in paths}


def all_paths(value: object, path: KeyPath = ()) -> list[KeyPath]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    paths = [path] if path else []
    for key, item in items:
        paths += all_paths(item, (*path, key))
    return paths


def test_tables_and_keys() -> None:
    text = "# a comment\n\na = 1\n[t]\n\nb = 2\nc.d = 3\nc.e = 4\n[t.u]\nf = 5"
    assert found(text) == {
        ("a",): 3,
        ("t",): 4,
        ("t", "b"): 6,
        ("t", "c"): 7,
        ("t", "c", "d"): 7,
        ("t", "c", "e"): 8,
        ("t", "u"): 9,
        ("t", "u", "f"): 10,
    }


def test_arrays_of_tables_are_numbered_each_within_its_own_parent() -> None:
    text = "[[f]]\n[[f.r]]\nx = 1\n[[f.r]]\n[[f]]\n[[f.r]]\nx = 2\n[f.t]\ny = 3\n"
    assert found(text) == {
        ("f",): 1,
        ("f", 0): 1,
        ("f", 0, "r"): 2,
        ("f", 0, "r", 0): 2,
        ("f", 0, "r", 0, "x"): 3,
        ("f", 0, "r", 1): 4,
        ("f", 1): 5,
        ("f", 1, "r"): 6,
        ("f", 1, "r", 0): 6,
        ("f", 1, "r", 0, "x"): 7,
        ("f", 1, "t"): 8,
        ("f", 1, "t", "y"): 9,
    }


def test_a_table_has_its_own_header_even_below_that_of_a_sub_table() -> None:
    assert found("[b.a.health]\n\n[b.a]\nx = 1\n[b]")[("b", "a")] == 3
    assert found("[b.a.health]\n\n[b.a]\nx = 1\n[b]")[("b",)] == 5
    assert found("[b.a.health]\n\n[b.c]\n")[("b",)] == 1


def test_a_value_of_several_lines_counts_from_its_first() -> None:
    text = '''a = [ # ]
  "]", """
]""",
  { b = 1 },
] # end ]
c = """
[x]
d = 1
"""
e = 2
'''
    assert found(text) == {
        ("a",): 1,
        ("a", 0): 1,
        ("a", 1): 1,
        ("a", 2): 1,
        ("a", 2, "b"): 1,
        ("c",): 6,
        ("e",): 10,
    }


def test_quoted_keys_and_dos_line_ends() -> None:
    assert found('"a.b" = 1\r\n[x."y z"]\r\n\'[q]\' = [\r\n]\r\n') == {
        ("a.b",): 1,
        ("x",): 2,
        ("x", "y z"): 2,
        ("x", "y z", "[q]"): 3,
    }


def test_a_missing_key_has_the_line_of_the_nearest_table_around_it() -> None:
    index = LineIndex("\n[a]\n[[a.b]]\n")
    assert ("a", "b", 0, "name") not in index
    assert index.line_of(("a", "b", 0, "name")) == 3
    assert index.line_of(("a", "x", "y")) == 2
    assert index.line_of(("z",)) is None
    assert index.line_of(()) is None


def test_the_statement_that_does_not_parse_is_known() -> None:
    assert LineIndex("a = 1\nb = [\n  1,\n[c]\nd = 2\n").unfinished == 2
    assert LineIndex("a = 1\nb = 2").unfinished is None
    assert LineIndex("").unfinished is None


def test_a_long_array_costs_no_more_than_a_few_times_its_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = "\n".join(f'  {{ name = "s{n}", address = "h:{n}" }}, # [{n}' for n in range(2000))
    text = f"x = 1\nservers = [\n{servers}\n]\ny = 2\n"
    parsed = 0
    loads = tomllib.loads

    def counting(part: str) -> dict[str, Any]:
        nonlocal parsed
        parsed += len(part)
        return loads(part)

    monkeypatch.setattr(tomllib, "loads", counting)
    assert LineIndex(text).line_of(("y",)) == 2004
    assert parsed < 3 * len(text)


# --- a writer of TOML that notes its lines ---------------------------------------------------

_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" "), max_size=8
)
_SCALARS = (
    st.integers(-9, 9) | st.booleans() | _TEXT | st.sampled_from(["]", "[x]", "a = 1", "# ]"])
)
_LEAVES = _SCALARS | st.lists(_SCALARS, max_size=3)
_KEYS = st.sampled_from(["a", "b", "c-d", "1"]) | _TEXT
_TABLES = st.dictionaries(
    _KEYS,
    st.recursive(
        _LEAVES,
        lambda inner: (
            st.dictionaries(_KEYS, inner, max_size=3)
            | st.lists(st.dictionaries(_KEYS, inner, max_size=3), min_size=1, max_size=3)
        ),
        max_leaves=12,
    ),
    max_size=5,
)


class Writer:
    """Writes tables as TOML in a style drawn at random; `lines` is where everything stands."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.out: list[str] = []
        self.lines: dict[KeyPath, int] = {}

    def table(self, path: KeyPath, table: dict[str, Any]) -> None:
        below = []
        for key, value in table.items():
            if is_table(value) and self.chance():
                below.append((key, value))
            else:
                self.assignment(path, (key,), value)
        for key, value in below:
            place = (*path, key)
            if isinstance(value, list):
                for number, element in enumerate(value):
                    self.header(f"[[{names(place)}]]", (*place, number))
                    self.table((*place, number), element)
                continue
            if not value or not all(map(is_table, value.values())) or self.chance():
                self.header(f"[{names(place)}]", place)
                self.table(place, value)
            else:
                self.without_header(place, value)

    def without_header(self, place: KeyPath, table: dict[str, Any]) -> None:
        """`[a.b]` alone gives `a` too."""
        for key, value in table.items():
            for number, element in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(value, list):
                    self.header(f"[[{names((*place, key))}]]", (*place, key, number))
                    self.table((*place, key, number), element)
                else:
                    self.header(f"[{names((*place, key))}]", (*place, key))
                    self.table((*place, key), element)

    def header(self, text: str, place: KeyPath) -> None:
        self.noise()
        self.out.append(f"  {text} # ]" if self.chance() else text)
        self.note(place, len(self.out))

    def assignment(self, path: KeyPath, keys: tuple[str, ...], value: Any) -> None:
        if isinstance(value, dict) and value and self.chance():
            for key, item in value.items():
                self.assignment(path, (*keys, key), item)
            return
        self.noise()
        line = len(self.out) + 1
        self.out += f"{names(keys)} = {self.value(value, may_break=True)}".split("\n")
        for part in all_paths(value, (*path, *keys)):
            self.note(part, line)

    def value(self, value: Any, *, may_break: bool) -> str:
        if isinstance(value, dict):
            pairs = (f"{name(k)} = {self.value(v, may_break=False)}" for k, v in value.items())
            return f"{{{', '.join(pairs)}}}"
        if isinstance(value, list):
            between = ", # ]\n\n  " if may_break and self.chance() else ", "
            items = between.join(self.value(item, may_break=may_break) for item in value)
            return f"[\n{items}\n]" if may_break and self.chance() else f"[{items}]"
        if isinstance(value, str) and may_break and self.chance() and not set(value) & set("\"'\\"):
            return f'"""\n{value}"""' if self.chance() else f"'''\n{value}'''"
        return json.dumps(value, ensure_ascii=False)

    def noise(self) -> None:
        if self.chance():
            self.out.append(self.random.choice(["", "  ", "# a = [", "# [x]"]))

    def note(self, place: KeyPath, line: int) -> None:
        for length in range(1, len(place) + 1):
            self.lines.setdefault(place[:length], line)

    def chance(self) -> bool:
        return self.random.random() < 0.5


def is_table(value: object) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def name(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)


def names(path: KeyPath) -> str:
    return ".".join(name(key) for key in path if isinstance(key, str))


@examples(150)
@given(_TABLES, st.randoms(use_true_random=False))
def test_every_key_is_found_on_the_line_where_it_was_written(
    tables: dict[str, Any], random: Random
) -> None:
    writer = Writer(random)
    writer.table((), tables)
    text = "\n".join(writer.out)
    assert tomllib.loads(text) == tables, "the writer itself is wrong"
    assert found(text) == writer.lines
