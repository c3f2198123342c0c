"""The thread that writes: what comes of a batch, whatever the sink does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.observe import background
from hermes_lb.observe.background import BackgroundWriter
from hermes_lb.observe.sinks import DescriptorSink, Outcome

if TYPE_CHECKING:
    import pytest


def test_the_writer_survives_a_bug_in_a_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(DescriptorSink):
        def write(self, lines: list[str]) -> Outcome:
            if lines == ["bad"]:
                raise RuntimeError("a bug")
            return Outcome(0, "")

    monkeypatch.setattr(background, "open_sink", lambda target, tag, facility: Broken(1))
    writer = BackgroundWriter("anything", "hermes_lb")
    writer.opened.result(10)
    bad, good = writer.write(["bad"]), writer.write(["good"])
    assert bad.result(10) == (1, "RuntimeError('a bug')")
    assert good.result(10) == (0, "")
    writer.stop(wait=True)
    assert not writer._thread.is_alive()
