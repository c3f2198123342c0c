"""The metrics in Prometheus' text format, read from the data path's numbers at a scrape.

`hermes_lb.observe.metric_table` lists them; docs/metrics.md explains them. It is written here and
not by prometheus-client, which takes an object and a dict for each sample: 2,000 servers have
260,000 of them, and streams wait in the same loop.
"""

from __future__ import annotations

from itertools import accumulate, chain
from typing import TYPE_CHECKING

from hermes_lb.backends.histogram import Histogram
from hermes_lb.observe.metric_table import metrics_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.observe.metric_table import MetricRow
    from hermes_lb.observe.observed import Observed

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Characters of a part of the body: half a millisecond.
_PART = 64 * 1024


def render(observed: Observed) -> Iterator[bytes]:
    """A scrape's body, of the content type `CONTENT_TYPE`, in parts.

    Between two parts other tasks may run, and servers may be added or removed.
    """
    observed.refresh()
    part: list[str] = []
    size = 0
    for text in chain.from_iterable(map(_lines, metrics_of(observed))):
        part.append(text)
        size += len(text)
        if size >= _PART:
            yield "".join(part).encode()
            part.clear()
            size = 0
    yield "".join(part).encode()


def _lines(metric: MetricRow) -> Iterator[str]:
    """One or more whole lines at a time."""
    name = metric.name
    yield f"# HELP {name} {_escaped(metric.help)}\n# TYPE {name} {metric.kind}\n"
    for values, value in metric.samples:
        labels = ",".join(
            f'{label}="{_quoted(text)}"' for label, text in zip(metric.labels, values, strict=True)
        )
        if isinstance(value, Histogram):
            yield _histogram(name, labels, value)
        elif labels:
            yield f"{name}{{{labels}}} {_number(value)}\n"
        else:
            yield f"{name} {_number(value)}\n"


def _histogram(name: str, labels: str, histogram: Histogram) -> str:
    counts = list(accumulate(histogram.counts))
    begin = f'{name}_bucket{{{labels},le="'
    buckets = [
        f'{begin}{bound}"}} {count}\n'
        for bound, count in zip((*histogram.bounds, "+Inf"), counts, strict=True)
    ]
    return (
        f"{''.join(buckets)}{name}_sum{{{labels}}} {_number(histogram.total)}\n"
        f"{name}_count{{{labels}}} {counts[-1]}\n"
    )


def _number(value: float) -> str:
    number = float(value)
    return str(int(number)) if number.is_integer() else repr(number)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')
