"""Pages in the place of the balancer's own error texts: read once, when the file is loaded.

So a process that starts later has the pages of the others, whatever the disk has by then.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from pydantic import BeforeValidator, Field

from hermes_lb.options.patterns import pattern
from hermes_lb.options.problems import quoted
from hermes_lb.options.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.config.models import Config
    from hermes_lb.options.problems import KeyPath

    Finding = tuple[KeyPath, str]

#: Bytes of a page. HAProxy 16 KiB (`tune.bufsize`), and 8 KiB for the head. They are kept in
#: memory, and each is one write.
MOST: Final = 64 * 1024

STATUS = pattern(r"^([45][0-9]{2}|[45]xx)$", 'a status such as 503, or "4xx" or "5xx"')

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".htm": "text/html; charset=utf-8",
    ".json": "application/json",
    ".xml": "application/xml",
}
_PLAIN: Final = "text/plain; charset=utf-8"


class ErrorPage(Section):
    """A file; `text` is what was in it."""

    file: str = Field(min_length=1)
    text: str | None = Field(None, repr=False)

    @property
    def content_type(self) -> str:
        return _TYPES.get(Path(self.file).suffix.lower(), _PLAIN)


def _as_table(given: object) -> object:
    return {"file": given} if isinstance(given, str) else given


_Page = Annotated[ErrorPage, BeforeValidator(_as_table, json_schema_input_type=str | ErrorPage)]
Pages = dict[Annotated[str, Field(pattern=STATUS)], _Page]


class Read(NamedTuple):
    """A configuration with its pages, and what is wrong with their files."""

    config: Config
    findings: list[Finding]


def read_pages(config: Config) -> Read:
    """Read the files of all pages that have no text yet."""
    findings: list[Finding] = []
    if not any(True for _ in _all(config)):
        return Read(config, findings)
    frontends = []
    for number, frontend in enumerate(config.frontends):
        routes = []
        for place, route in enumerate(frontend.routes):
            path = ("frontends", number, "routes", place, "error_pages")
            pages = _with_texts(route.error_pages, path, findings)
            routes.append(route.model_copy(update={"error_pages": pages}))
        frontends.append(frontend.model_copy(update={"routes": routes}))
    pages = _with_texts(config.error_pages, ("error_pages",), findings)
    return Read(config.model_copy(update={"frontends": frontends, "error_pages": pages}), findings)


def _all(config: Config) -> Iterator[ErrorPage]:
    yield from config.error_pages.values()
    for frontend in config.frontends:
        for route in frontend.routes:
            yield from route.error_pages.values()


def _with_texts(pages: Pages, path: KeyPath, findings: list[Finding]) -> Pages:
    """Adds to `findings` what can't be read."""
    found = {}
    for status, page in pages.items():
        try:
            found[status] = page if page.text is not None else _read(page)
        except ValueError as error:
            findings.append(((*path, status), str(error)))
    return found


def _read(page: ErrorPage) -> ErrorPage:
    """Raises ValueError with the reason."""
    path = Path(page.file)
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"can't read {quoted(page.file)}: {reason}") from None
    if len(data) > MOST:
        raise ValueError(f"{quoted(page.file)} has more than {MOST // 1024} KiB")
    try:
        return page.model_copy(update={"text": data.decode()})
    except UnicodeDecodeError:
        raise ValueError(f"{quoted(page.file)} is not UTF-8") from None
