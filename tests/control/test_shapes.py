"""The shapes of the API are the only ones: the page reads fields that they have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hermes_lb.control import shapes

PAGE = Path(shapes.__file__).parent / "page"
READ = {
    "server": shapes.SampledServer,
    "backend": shapes.SampledBackend,
    "status": shapes.SampledStatus,
    "moment": shapes.Moment,
    "process": shapes.Process,
    "change": shapes.Change,
    "abort": shapes.Abort,
}


@pytest.mark.parametrize("name", READ)
def test_the_page_reads_fields_that_there_are(name: str) -> None:
    text = "\n".join(file.read_text() for file in PAGE.glob("*.js"))
    read = set(re.findall(rf"(?<![\w.]){name}\.(\w+)", text))
    assert read
    assert read <= set(READ[name].__annotations__)
