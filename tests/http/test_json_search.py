"""The search in a JSON text finds what `json` finds, and takes a bounded time."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from hermes_lb.http.json_search import MOST_STEPS, STEPS_AT_ONCE, MemberSearch, Repeated


def search(text: bytes, *path: str) -> Any:
    found = MemberSearch(text, path or ("s",))
    for _ in range(MOST_STEPS // STEPS_AT_ONCE + 1):
        if found.advance():
            return found.value
    raise AssertionError("it has no end")


def is_json(text: bytes) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(text.decode("utf-8-sig", errors="replace"), parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def is_read(text: bytes) -> bool:
    try:
        search(text)
    except Repeated:
        return True
    except ValueError:
        return False
    return True


PIECES = [
    *"{}[],:",
    *('"s"', '"a"', '"\\u0073"', '"\\"', '"\\\\"', '"x\\n"', '"' + "x" * 40 + '"', '"', "\\"),
    *("0", "-1", "1.5e+3", "01", "1.", ".5", "1e", "-", "+1", "true", "null", "nul", "NaN"),
    *(" ", "\n", "\t", "\x00", "\ufeff", "ä", '"ä"', '{"s":1}', '[1,2]', '"s":', '"a":1,'),
]  # fmt: skip


def random_value(rng: Random, depth: int) -> Any:
    kind = rng.randrange(7 if depth else 5)
    if kind == 5:
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(70))]
    if kind == 6:
        names = ["s", "a", "b", "x" * rng.randrange(60), "ä", 'q"\\']
        return {rng.choice(names): random_value(rng, depth - 1) for _ in range(rng.randrange(6))}
    values = [
        None,
        True,
        rng.randrange(-(10**30), 10**30),
        rng.random(),
        'ä"\\\n' * rng.randrange(20),
    ]
    return values[kind]


@pytest.mark.parametrize("seed", range(4))
def test_it_reads_what_json_reads(seed: int) -> None:
    rng = Random(seed)
    for _ in range(2000):
        text = "".join(rng.choices(PIECES, k=rng.randrange(1, 9))).encode()
        assert is_read(text) == is_json(text), text


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_what_json_finds(seed: int) -> None:
    rng = Random(seed)
    for _ in range(100):
        wanted = rng.choice([None, "one", 7, "\U0001f600", "\ud83d", 1.5, True])
        within = {"a": random_value(rng, 2), "näme": wanted, "b": random_value(rng, 2)}
        value = {"x": random_value(rng, 3), "s": within, "y": random_value(rng, 3)}
        is_ascii = wanted == "\ud83d" or rng.random() < 0.5
        text = json.dumps(value, ensure_ascii=is_ascii, indent=rng.choice([None, 1])).encode()
        assert search(text, "s", "näme") == wanted
        assert search(text, "s", "none") is None
        position = rng.randrange(len(text))
        cut = text[:position] + text[position + 1 :]
        assert is_read(cut) == is_json(cut), cut


def test_the_same_member_twice() -> None:
    with pytest.raises(Repeated):
        search(b'{"s":1,"\\u0073":2}')
    with pytest.raises(Repeated):
        search(b'{"a":{"s":1},"a":{}}', "a", "s")
    # Elsewhere it means nothing.
    assert search(b'{"x":{"s":1,"s":2},"s":3,"y":[{"s":4}]}') == 3
    assert search(b'{"s":[{"s":1}]}') == []


@pytest.mark.parametrize(
    "text",
    [
        b'{"s":1,"x":[%b]}' % (b"[]," * 500_000),
        b'{"s":1,"x":[%b]}' % (b"{}," * 500_000),
        b"{%b}" % (b'"a":1,' * 500_000),
        b'{"x":%b' % (b"[" * 500_000),
        b'{"x":%b' % (b'{"a":' * 500_000),
        b'{"s":%b}' % (b"1" * 500_000),
        b'{"s":"%b"}' % (b"x" * 500_000),
        b'{"s":1} %b' % (b" " * 500_000 + b"}"),
    ],
)
def test_texts_that_are_made_to_take_long(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"too|no"):
        search(text)


@pytest.mark.parametrize("part", [b"1,", b"1.5e300,", b'"abc",', b'"%b",' % (b"\\n" * 100)])
def test_long_texts(part: bytes) -> None:
    assert search(b'{"s":1,"x":[%b0],"y":"%b"}' % (part * 20_000, b"z" * 1_000_000)) == 1
