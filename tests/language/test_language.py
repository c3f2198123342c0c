"""The word list finds what it should, in prose only; the tree has no word that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.language.check import (
    Allowed,
    findings,
    findings_in,
    is_below,
    read_unclean,
    read_words,
)
from tests.language.passages import ROOT, files, passages

WORDS, EXCEPTIONS = read_words()


def names(path: str, text: str) -> list[str]:
    return [each.word.name for each in findings_in(Path(path), text, WORDS)]


@pytest.mark.slow
@pytest.mark.timeout(240)  # eight seconds of work, of one of several processes
def test_the_tree_is_clean_but_for_the_paths_of_unclean() -> None:
    unclean = read_unclean()
    assert [str(each) for each in findings() if not is_below(each.path, unclean)] == []


def test_every_kind_of_file_is_found() -> None:
    found = {str(path) for path in files()}
    assert {
        "hermes_lb/errors.py", "tests/language/check.py", "README.md", "docs/glossary.md",
        "bench/chaos/README.md", "Makefile", "configs/reference.toml", "configs/alerts.yml",
        "configs/hermes-lb.service", "agent_worker/sessions/lua/_common.lua",
    } <= found  # fmt: skip


PLANTED = [
    ("whoever", "Wake whoever waits."),
    ("nobody", "Nobody is served."),
    ("nobody", "Unless somebody asks."),
    ("who", "Close it. Who waits is refused."),
    ("who-object", "The place is taken by who comes first."),
    ("whom", "The server for whom it waits."),
    ("what-is", "What is queued goes first."),
    ("told", "The client is told so."),
    ("is-none", "An answer without addresses is none."),
    ("anew", "Open the file anew."),
    ("so-many", "After so many failures."),
    ("put-out", "Events are put down."),
    ("work-off", "Events are worked\noff together."),
    ("in-vain", "It waits in vain."),
    ("from-now-on", "Another limit from now on."),
    ("stranger", "Names come from strangers."),
    ("archaic", "A file that is spoilt."),
    ("loop-turn", "At the end of the turn of the loop."),
    ("end-of-turn", "Written at the end of the turn."),
    ("own-answer", "An answer of our own."),
    ("seat", "A worker in each seat."),
    ("bell", "It rings the bell."),
    ("sign-of-life", "The last sign of life."),
    ("gate", "While the gate is open."),
    ("outlet", "An `Outlet` writes events."),
    ("succession", "The `succession` of a turn."),
    ("wind-up", "Calls `wind_up`."),
    ("estate", "Inherits the estate."),
    ("flags", "Sets `has_moved`."),
    ("limiters", "See `RequestRates`."),
    ("balancing", "A `Plan` for the fields."),
    ("old-replies", "404: nothing is served here"),
]


@pytest.mark.parametrize(("word", "text"), PLANTED)
def test_a_planted_sentence_is_found(word: str, text: str) -> None:
    assert word in names("hermes_lb/a.py", f'"""{text}"""\n')
    assert word in names("hermes_lb/a.py", "\n".join(f"# {line}" for line in text.splitlines()))
    assert names("hermes_lb/a.py", "x = 1\n") == []


def test_every_word_has_a_planted_sentence() -> None:
    assert {word.name for word in WORDS} == {word for word, _ in PLANTED}


@pytest.mark.parametrize(
    "text",
    [
        "Who sent the last request?",
        "The first letter says who ended it.",
        "Clients who connect over TLS.",
        "A turn of the agent ends at the end of its stream.",
        "Returns None: there is none.",
        "It is None for the direct connection.",
        "See what is measured below.",
    ],
)
def test_plain_sentences_pass(text: str) -> None:
    assert names("docs/page.md", text) == []


SOURCE = '''"""A module."""
log.warning("nobody came: %s", "x")
raise ValueError(f"{name}: told {what}")  # seats
DATA = "anew"  # in data, not in prose
def nobody(): ...
'''


def test_python_is_read_by_its_syntax() -> None:
    found = [(each.line, each.text) for each in findings_in(Path("hermes_lb/a.py"), SOURCE, WORDS)]
    assert sorted(found) == [(2, "nobody"), (3, "seats"), (3, "told")]


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("hermes_lb/a.py", 'option(help="Sets it anew.")', ["anew"]),
        ("bench/a.py", 'must(ok, "nobody waits for it")', ["nobody"]),
        ("hermes_lb/a.py", 'key = "anew told"', []),  # two words: names
        ("tests/a.py", 'must(ok, "nobody waits for it")', []),  # data
        ("hermes_lb/a.py", 'raise ValueError("it is told to us")', ["told"]),  # once
    ],
)
def test_sentences_are_read_wherever_they_are_given(
    path: str, text: str, expected: list[str]
) -> None:
    assert names(path, text) == expected


@pytest.mark.parametrize(
    ("path", "text", "lines"),
    [
        ("docs/a.md", "# Told\n```text\nnobody\n```\ntext `anew`\n", [1, 5]),
        ("configs/a.toml", 'key = "nobody # told"  # anew\n', [1]),
        ("configs/a.toml", "a = 1  # It is\nb = 2  # told so\n", [2]),
        ("configs/a.yml", "summary: nobody answers\n", [1]),
        ("Makefile", "#   make demo, told\nnobody:\n", [1]),
        ("agent_worker/a.lua", "local nobody = 1 -- told\n", [1]),
    ],
)
def test_other_files_are_read_by_their_kind(path: str, text: str, lines: list[int]) -> None:
    assert [each.line for each in findings_in(Path(path), text, WORDS)] == lines


def test_a_finding_names_place_word_and_glossary() -> None:
    [found] = findings_in(Path("docs/a.md"), "\n\nIt is told\n", WORDS)
    assert str(found).startswith("docs/a.md:3: 'told': write ")
    assert "docs/glossary.md" in str(found)


def test_a_word_may_be_refused_in_some_folders_only() -> None:
    text = '"""At the end of the turn."""\n'
    assert names("hermes_lb/proxy/a.py", text) == ["end-of-turn"]
    assert names("agent_worker/runtime/a.py", text) == []


def test_an_exception_is_for_its_lines_of_its_file() -> None:
    text = "He is told.\nShe is told.\n"
    one = [Allowed("docs/a.md", "He is", "a quotation")]
    assert [each.line for each in findings_in(Path("docs/a.md"), text, WORDS, one)] == [2]
    assert len(list(findings_in(Path("docs/b.md"), text, WORDS, one))) == 2


def test_every_exception_is_needed() -> None:
    for entry in EXCEPTIONS:
        path = Path(entry.path)
        text = (ROOT / path).read_text("utf-8")
        assert any(entry.text in each for each in text.splitlines()), entry
        others = [other for other in EXCEPTIONS if other is not entry]
        assert len(list(findings_in(path, text, WORDS, others))) > len(
            list(findings_in(path, text, WORDS, EXCEPTIONS))
        ), entry


def test_adjacent_comment_lines_are_one_passage() -> None:
    text = "# one\n# two\n\n# three\nx = 1  # four\n"
    assert [each.text.split() for each in passages(Path("a.py"), text)] == [
        ["one", "two"], ["three", "four"],
    ]  # fmt: skip
