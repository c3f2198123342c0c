"""A self-contained page with all results: what follows from them, then tables and plots of each."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.lab.curves import forest, sweeps
from hermes_lb.lab.figures import FIGURES, shown
from hermes_lb.lab.plots import in_flight, percentile_plot, shares
from hermes_lb.lab.report import TIMES, condition, seconds
from hermes_lb.lab.style import STYLE
from hermes_lb.lab.summary import means

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_HEADINGS: Final = (
    "strategy", "largest share", "imbalance", "in flight, most", "latency p50", "p99",
    "first token p50", "p99", "errors", "moved", "cached", "per session", "fairness",
)  # fmt: skip


def page(results: Sequence[dict[str, Any]]) -> str:
    """The page. Names come from a trace's file, so everything is escaped."""
    links = " ".join(
        f'<a href="#r{i}">{escape(result["scenario"])}</a>' for i, result in enumerate(results)
    )
    sections = "".join(_section(i, result) for i, result in enumerate(results))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Strategies in the laboratory</title><style>{STYLE}</style></head><body>"
        "<h1>Strategies in the laboratory</h1>"
        '<p class="soft">The balancer&#39;s own strategies on a virtual clock. Each one gets the '
        "same requests at the same times. Times are from a request&#39;s arrival; &quot;moved&quot;"
        " are requests of a user whose last one was on another server; imbalance is the fullest "
        "server over the average one, in flight, at an average moment.</p>"
        f"{_overview(results)}<nav>{links}</nav>{sections}</body></html>\n"
    )


def picture(result: dict[str, Any]) -> str:
    """The latencies of one scenario as an SVG file."""
    svg = percentile_plot(result["strategies"], "latency")
    if not svg:
        return ""
    # A file needs a namespace, a page does not.
    svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return svg.replace(">", f"><style>{STYLE}</style>", 1) + "\n"


def _overview(results: Sequence[dict[str, Any]]) -> str:
    """A line for each traffic, if there are several: the best strategy, and how sure that is."""
    if len(results) < 2:
        return ""
    body = ""
    for number, result in enumerate(results):
        found = result["summary"]
        goal, best = found["goal"], found["best"]
        value = means(result["points"][0], goal)[best][0]
        behind = [name for name in found["others"] if name not in found["ties"]]
        after = f"{behind[0]}, {found['others'][behind[0]]['times']:.3g} times" if behind else "-"
        sure = f"{found['seeds']} seeds, 95 %" if found["seeds"] > 1 else "one run"
        body += (
            f'<tr><td><a href="#r{number}">{escape(result["scenario"])}</a></td>'
            f"<td>{escape(', '.join([best, *found['ties']]))}</td>"
            f"<td>{escape(shown(goal, value))}</td><td>{escape(after)}</td><td>{sure}</td></tr>"
        )
    goal = results[0]["summary"]["goal"]
    heads = (
        "traffic",
        "best strategy",
        FIGURES[goal].title,
        "next: as much as the best",
        "how sure",
    )
    head = "".join(f"<th>{escape(title)}</th>" for title in heads)
    return _wide(
        "Which strategy",
        f'<table class="words"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>',
    )


def _section(number: int, result: dict[str, Any]) -> str:
    rows = result["strategies"]
    title = escape(FIGURES[result["summary"]["goal"]].title)
    latencies = "".join(
        f"<h3>{name}</h3>{_wide(name, percentile_plot(rows, kind))}"
        '<p class="soft">left p50, right p99</p>'
        for name, kind in (("Latency", "latency"), ("Time to first token", "first_token"))
        if kind == "latency" or any(row[kind] != row["latency"] for row in rows.values())
    )
    first, *more = result["summary"]["sentences"]
    curves = sweeps(result)
    over = _grid(curves, "grid curves")
    return (
        f'<section id="r{number}"><h2>{escape(result["scenario"])}</h2>'
        f"<p>{escape(result['text'])}</p><p class='soft'>{escape(condition(result))}</p>"
        f'<div class="says"><b>{escape(first)}</b><p>{escape(" ".join(more))}</p></div>'
        f"<h3>{title[0].upper()}{title[1:]}: how many times the best, with 95 % intervals</h3>"
        f"{_wide(title, forest(result))}"
        '<p class="soft">Blue: the best, and those that cannot be distinguished from it. '
        "Intervals: of the ratio in the same workload, for all strategies together.</p>"
        f"{'<h3>Over the sweep</h3>' + over if curves else ''}"
        f"{_wide('Figures', _table(rows))}{latencies}{_logged(result)}"
        "<details><summary>Over time</summary>"
        "<h3>Share (%): of the server that got the most in each two-hundredth of the run, "
        f"above an equal share</h3>{_grid(shares(result))}"
        "<h3>Requests in flight: the average server, the fullest one, and the range between the "
        f"least and the most</h3>{_grid(in_flight(result))}</details>{_why(result)}</section>"
    )


def _grid(plots: dict[str, str], kind: str = "grid") -> str:
    panels = (f"<figure><b>{escape(name)}</b>{svg}</figure>" for name, svg in plots.items())
    return f'<div class="{kind}">{"".join(panels)}</div>'


def _wide(label: str, content: str) -> str:
    """A container that scrolls if it is too wide, also by keyboard."""
    return f'<div class="wide" role="region" aria-label="{label}" tabindex="0">{content}</div>'


def _table(rows: dict[str, Any]) -> str:
    least = {
        (kind, p): min((row[kind][p] for row in rows.values() if row[kind]), default=None)
        for kind, p in TIMES
    }
    body = ""
    for name, row in rows.items():
        errors = sum(row["errors"].values())
        kinds = ", ".join(f"{kind}: {count}" for kind, count in row["errors"].items())
        cells = [
            _cell(name),
            _cell(f"{row['share_most']:.1%}"),
            _cell(f"{row['imbalance']:.2f}"),
            _cell(f"{row['in_flight_most']:,}"),
        ]
        for kind, p in TIMES:
            value = row[kind].get(p)
            best = value is not None and value == least[kind, p]
            cells.append(_cell("-" if value is None else seconds(value), "best" if best else ""))
        cells.append(_cell(f"{errors:,}", "bad" if errors else "", kinds))
        cells.append(_cell(f"{row['moved'] / row['requests']:.0%}"))
        cells += [
            _cell(shown(name, row["figures"][name]))
            for name in ("cached", "session_mean", "fairness")
        ]
        body += f"<tr>{''.join(cells)}</tr>"
    head = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str, kind: str = "", title: str = "") -> str:
    attributes = (f' class="{kind}"' if kind else "") + (
        f' title="{escape(title)}"' if title else ""
    )
    return f"<td{attributes}>{escape(text)}</td>"


def _logged(result: dict[str, Any]) -> str:
    shares: dict[str, float] = result.get("logged_shares", {})
    if not shares:
        return ""
    text = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return f"<p>In the log they were served by: {escape(text)}.</p>"


def _why(result: dict[str, Any]) -> str:
    decisions: Iterable[tuple[str, list[str]]] = result.get("why", {}).items()
    return "".join(
        f"<details><summary>Why {escape(name)} did so</summary>"
        f"<pre>{escape(chr(10).join(lines))}</pre></details>"
        for name, lines in decisions
    )
