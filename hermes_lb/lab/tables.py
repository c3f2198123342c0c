"""The figures of all runs as CSV: a row for each traffic, point, strategy and seed."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from hermes_lb.lab.figures import FIGURES

if TYPE_CHECKING:
    from collections.abc import Sequence


def csv_of(results: Sequence[dict[str, Any]]) -> str:
    """Times in seconds, shares from 0 to 1; -1: nothing was served. `load` is empty where it is
    the traffic's own."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["traffic", "load", "servers", "balancers", "strategy", "seed", *FIGURES])
    for result in results:
        for point in result["points"]:
            load = "" if point["load"] is None else point["load"]
            for name, runs in point["runs"].items():
                for place, values in enumerate(zip(*(runs[f] for f in FIGURES), strict=True)):
                    table.writerow(
                        [
                            result["scenario"], load, point["servers"], result["balancers"], name,
                            result["seed"] + place, *values,
                        ]
                    )  # fmt: skip
    return text.getvalue()
