"""Requirements of both builds: the sources, and the modules that mypyc has compiled."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import pytest

import hermes_lb
from hermes_lb.errors import InvalidBody
from hermes_lb.http import LengthBody


def test_a_traceback_has_the_line_of_the_source() -> None:
    with pytest.raises(InvalidBody) as caught:
        LengthBody(5).end()
    text = "".join(traceback.format_exception(caught.value))
    source = (Path(hermes_lb.__file__).parent / "http/body.py").read_text().splitlines()
    raising = r'    raise InvalidBody\(f"the body ended {self._left} bytes early"\)'
    found = re.search(rf'hermes_lb/http/body.py", line (\d+), in end\n{raising}\n', text)
    assert found is not None, text
    assert re.fullmatch(rf"    {raising}", source[int(found[1]) - 1])
