"""Every relative link in the Markdown files leads to a file, and every anchor to a heading."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/**/*.md")])

_HTML_ANCHOR = re.compile(r"""<[^>]*\s(?:id|name)=["']([^"']+)["']""")
_HTML_LINK = re.compile(r"""<[^>]*\s(?:href|src)=["']([^"']+)["']""")
# GitHub keeps letters, digits, marks, "_" and "-" of a heading; blanks become "-".
_NOT_IN_SLUG = re.compile(r"[^\w\- ]")


class Link(NamedTuple):
    line: int
    target: str


class Page(NamedTuple):
    links: list[Link]
    anchors: set[str]


@cache
def read(path: Path) -> Page:
    """`path`: of a Markdown file (CommonMark with GitHub's tables)."""
    links: list[Link] = []
    anchors: set[str] = set()
    line = 1
    headings: dict[str, int] = {}
    tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text("utf-8"))
    for token, before in zip(tokens, [None, *tokens], strict=False):
        line = token.map[0] + 1 if token.map else line
        if before is not None and before.type == "heading_open":
            slug = slug_of(token)
            number = headings.get(slug, 0)
            headings[slug] = number + 1
            anchors.add(f"{slug}-{number}" if number else slug)
        for one in parts(token):
            if one.type in {"html_block", "html_inline"}:
                anchors.update(_HTML_ANCHOR.findall(one.content))
                links.extend(Link(line, target) for target in _HTML_LINK.findall(one.content))
            elif target := one.attrs.get("href") or one.attrs.get("src"):
                links.append(Link(line, str(target)))
    return Page(links, anchors)


def parts(token: Token) -> Iterator[Token]:
    yield token
    yield from token.children or ()


def slug_of(heading: Token) -> str:
    """The anchor that GitHub gives to a heading: its text, without markup and punctuation."""
    text = "".join(
        part.content for part in heading.children or () if part.type in {"text", "code_inline"}
    )
    return _NOT_IN_SLUG.sub("", text.strip().lower()).replace(" ", "-")


def problems(page: Path, root: Path = ROOT) -> list[str]:
    """`line: target: what is wrong with it`, for each dead link of a page below `root`."""
    found = []
    for line, target in read(page).links:
        url = urlsplit(target)
        if url.scheme or url.netloc:
            continue  # elsewhere
        path = (page.parent / unquote(url.path)).resolve() if url.path else page
        if not path.is_relative_to(root):
            found.append(f"{line}: {target}: it leads out of the repository")
        elif not path.exists():
            found.append(f"{line}: {target}: there is no such file")
        elif url.fragment and path.suffix == ".md" and unquote(url.fragment) not in anchors(path):
            found.append(f"{line}: {target}: there is no such heading")
    return found


def anchors(path: Path) -> set[str]:
    return read(path).anchors


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page: Path) -> None:
    assert problems(page) == []


def test_pages_are_found() -> None:
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "docs/architecture.md", "bench/chaos/README.md"} <= names
    assert sum(len(read(page).links) for page in PAGES) > 100


PAGE = """# The `Plan`: what's 1, *first*

## Twice
## Twice
## An_under-line (and more), [linked](other.md)

<a id="by-hand"></a>

```md
[not a link](nowhere.md)
```
`[nor this](nowhere.md)`
"""


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("[a](other.md)", ""),
        ("[a](./folder/)", ""),
        ("[a](other.md#a-heading)", ""),
        ("[a](#the-plan-whats-1-first)", ""),
        ("[a](#twice)", ""),
        ("[a](#twice-1)", ""),
        ("[a](#an_under-line-and-more-linked)", ""),
        ("[a](#by-hand)", ""),
        ("[a](https://example.com/nothing#there)", ""),
        ("[a](mailto:somebody@example.com)", ""),
        ("[a][ref]\n\n[ref]: other.md", ""),
        ("[a](nothing.md)", "there is no such file"),
        ("[a](folder/other.md)", "there is no such file"),
        ("![a](nothing.svg)", "there is no such file"),
        ('<img src="nothing.svg">', "there is no such file"),
        ("[a][ref]\n\n[ref]: nothing.md", "there is no such file"),
        ("| a |\n|---|\n| [a](nothing.md) |", "there is no such file"),
        ("[a](../../outside.md)", "it leads out of the repository"),
        ("[a](other.md#another-heading)", "there is no such heading"),
        ("[a](#twice-2)", "there is no such heading"),
        ("[a](#The-Plan)", "there is no such heading"),
    ],
)
def test_a_dead_link_is_seen(tmp_path: Path, link: str, problem: str) -> None:
    docs = tmp_path / "docs"
    (docs / "folder").mkdir(parents=True)
    (docs / "other.md").write_text("# A heading\n")
    page = docs / "page.md"
    page.write_text(PAGE + "\n" + link + "\n")
    found = problems(page, tmp_path)
    assert [line.partition(": ")[2].rpartition(": ")[2] for line in found] == [problem] * bool(
        problem
    )
