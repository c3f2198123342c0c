"""How a table of statistics is declared: a class whose attributes are its rows.

    @statistics
    class FrontendCounters(Counters):
        requests: int = number("hermes_lb_frontend_requests_total", "Requests received")

The slot, the metric (`hermes_lb.observe.metric_table`), the field of the admin API
(`hermes_lb.control`, under the slot's name) and the cell in the memory that worker processes share
come from this line. The data path adds to the attribute, which is a plain slot.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial
from itertools import accumulate, islice
from operator import add
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

from hermes_lb.backends.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


class Statistic(NamedTuple):
    """A row of the table. Its value is an int, or a list of them, or a `Histogram`."""

    slot: str
    kind: Literal["counter", "gauge", "histogram"]
    metric: str  # "": none
    help: str
    in_api: bool
    label: str = ""  # of the metric, beside those that say whose statistic it is
    values: tuple[str, ...] = ()  # of the label: that of an int, or one for each of a list
    bounds: tuple[float, ...] = ()  # of a histogram, in seconds
    is_list: bool = False
    is_bulk: bool = False  # it changes only together with a row that is not

    @property
    def width(self) -> int:
        """How many cells it has."""
        if self.bounds:
            return len(self.bounds) + 2
        return len(self.values) if self.is_list else 1

    @property
    def cells(self) -> str:
        """Its cells, as a part of a list in Python."""
        if self.bounds:
            return f"*of.{self.slot}.counts, of.{self.slot}.total"
        return f"*of.{self.slot}" if self.is_list else f"of.{self.slot}"

    def samples(self, counters: Counters) -> Iterable[tuple[tuple[str, ...], Any]]:
        """The values of `label`, if there is one, each with the number or histogram."""
        value = getattr(counters, self.slot)
        if self.is_list:
            return zip([(one,) for one in self.values], value, strict=True)
        return ((self.values, value),)


_ROW = "statistic"


def number(
    metric: str = "",
    text: str = "",
    *,
    kind: Literal["counter", "gauge"] = "counter",
    in_api: bool = True,
    **label: str,
) -> Any:
    """An int. Rows of one metric, each with its value of a label, stand next to each other."""
    row = Statistic(
        "", kind, metric, text, in_api and bool(metric), "".join(label), tuple(label.values())
    )
    return field(default=0, metadata={_ROW: row})


def numbers(metric: str = "", text: str = "", *, label: str = "", values: tuple[str, ...]) -> Any:
    """A list of ints, one for each value of the label."""
    row = Statistic("", "counter", metric, text, bool(metric), label, values, is_list=True)
    return field(default_factory=partial(_zeros, len(values)), metadata={_ROW: row})


def seconds(
    bounds: tuple[float, ...], metric: str = "", text: str = "", *, is_bulk: bool = False
) -> Any:
    """A `Histogram`. Bulky ones, with many cells, stand last."""
    row = Statistic("", "histogram", metric, text, in_api=False, bounds=bounds, is_bulk=is_bulk)
    return field(default_factory=partial(Histogram, bounds), metadata={_ROW: row})


def _zeros(count: int) -> list[int]:
    return [0] * count


class Counters:
    """A record of numbers, which is also a row of `WIDTH` cells, each a number.

    A worker process writes its rows to shared memory; readers load the sum of all processes' rows.
    """

    __slots__ = ()

    ROWS: ClassVar[tuple[Statistic, ...]] = ()
    WIDTH: ClassVar[int] = 0
    BRIEF: ClassVar[int] = 0  # the number of cells that `brief` has
    BULK: ClassVar[tuple[tuple[str, int], ...]] = ()  # bulky histograms, and their first cells
    _cells: ClassVar[Callable[[Any], list[float]]]
    _brief: ClassVar[Callable[[Any], list[float]]]

    def cells(self) -> list[float]:
        """For `load` and `add_up`. About 5 us."""
        return type(self)._cells(self)

    def brief(self) -> list[float]:
        """The first cells, without the bulky histograms: if they are as before, all are. 1 us."""
        return type(self)._brief(self)

    def load(self, cells: Sequence[float]) -> None:
        """Take the values of another one's `cells`, or of the sum of several (`add_up`)."""
        rest = iter(cells)
        for row in self.ROWS:
            if row.bounds:
                getattr(self, row.slot).load(list(islice(rest, row.width)))
            elif row.is_list:
                getattr(self, row.slot)[:] = _integers(rest, row.width)
            else:
                setattr(self, row.slot, int(next(rest)))

    def shown(self) -> dict[str, Any]:
        """The fields of the admin API."""
        shown = {}
        for row in self.ROWS:
            if row.in_api:
                value = getattr(self, row.slot)
                shown[row.slot] = (
                    dict(zip(row.values, value, strict=True)) if row.is_list else value
                )
        return shown


Table = TypeVar("Table", bound=type[Counters])


def statistics(declared: Table) -> Table:
    """Make the class of its rows. The cells are in their order."""
    made: Any = dataclass(slots=True, eq=False, repr=False)(declared)
    made.ROWS = tuple(
        one.metadata[_ROW]._replace(slot=one.name) for one in fields(made) if _ROW in one.metadata
    )
    brief = [row for row in made.ROWS if not row.is_bulk]
    if list(made.ROWS[: len(brief)]) != brief:
        raise TypeError("bulky rows stand last")
    made.WIDTH = sum(row.width for row in made.ROWS)
    made.BRIEF = sum(row.width for row in brief)
    ends = list(accumulate((row.width for row in made.ROWS), initial=0))
    made.BULK = tuple(
        (row.slot, first) for row, first in zip(made.ROWS, ends, strict=False) if row.is_bulk
    )
    made._cells, made._brief = _reader(made.ROWS), _reader(brief)
    result: Table = made
    return result


def _reader(rows: Iterable[Statistic]) -> Callable[[Any], list[float]]:
    """A function that lists the cells of these rows.

    As `dataclasses` does: a loop over the rows takes three times as long, and a worker process asks
    every server five times a second.
    """
    read: Callable[[Any], list[float]] = eval(f"lambda of: [{', '.join(r.cells for r in rows)}]")
    return read


def add_up(rows: Iterable[Sequence[float]]) -> list[float]:
    """The sum of the rows of several processes, cell by cell; at least one row.

    Row by row, which takes a third of the time of `map(sum, zip(...))`.
    """
    total, *others = rows
    for row in others:
        if len(row) != len(total):
            raise ValueError(f"a row of {len(row)} cells is shorter or longer than {len(total)}")
        total = list(map(add, total, row))
    return list(total)


def _integers(cells: Iterator[float], count: int) -> list[int]:
    """They are integers, and shared memory made floats of them (exact up to 2**53)."""
    return list(map(int, islice(cells, count)))
