"""A self-contained page with all results: a table and plots for each scenario."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.lab.plots import in_flight, percentile_plot, shares
from hermes_lb.lab.report import TIMES, condition, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #fcfcfa; --ink: #1d2430; --soft: #667085;
  --line: #d9dde3; --shade: #1d243044; --mean: #1f6feb; --band: #1f6feb33; --most: #b4481e;
  --mark: #8a6d00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e6e9ee; --soft: #98a2b3;
  --line: #343b46; --shade: #e6e9ee55; --mean: #6cb0ff; --band: #6cb0ff33; --most: #ff9a66;
  --mark: #d9b640; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 3rem 0 0; }
h3 { font-size: .95rem; margin: 1.75rem 0 .5rem; }
p { margin: .25rem 0; max-width: 60rem; } .soft, figcaption { color: var(--soft); }
nav a { color: var(--mean); margin-right: .9rem; white-space: nowrap; }
/* A shade at the side where there is more, which the paper covers at the end of the way. */
.wide { overflow-x: auto; margin-top: .75rem; background:
  linear-gradient(90deg, var(--paper) 1.5rem, transparent) 0 0 / 3rem 100% no-repeat local,
  linear-gradient(270deg, var(--paper) 1.5rem, transparent) 100% 0 / 3rem 100% no-repeat local,
  linear-gradient(90deg, var(--shade), transparent) 0 0 / 1rem 100% no-repeat,
  linear-gradient(270deg, var(--shade), transparent) 100% 0 / 1rem 100% no-repeat; }
.wide svg { min-width: 36rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--paper); }
td.best { font-weight: 700; } td.bad { color: var(--most); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr));
  gap: 1rem 1.5rem; }
figure { margin: 0; } figure > b { font-weight: 600; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg text.name { fill: var(--ink); }
.axis { stroke: var(--line); } .band { fill: var(--band); }
.mean { fill: none; stroke: var(--mean); stroke-width: 1.5; }
.most { fill: none; stroke: var(--most); stroke-width: 1; }
.mark { stroke: var(--mark); stroke-dasharray: 3 3; } .whisker { stroke: var(--soft); }
.p50 { fill: var(--mean); } .p99 { fill: var(--most); }
details { margin-top: 1rem; } pre { overflow-x: auto; font-size: 12.5px; line-height: 1.4; }
"""
_HEADINGS: Final = (
    "strategy", "largest share", "imbalance", "in flight, most", "latency p50", "p99",
    "first token p50", "p99", "errors", "moved",
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
        f"<title>Strategies in the laboratory</title><style>{_STYLE}</style></head><body>"
        "<h1>Strategies in the laboratory</h1>"
        '<p class="soft">The balancer&#39;s own strategies on a virtual clock. Each one gets the '
        "same requests at the same times. Times are from a request&#39;s arrival; &quot;moved&quot;"
        " are requests of a user whose last one was on another server; imbalance is the fullest "
        "server over the average one, in flight, at an average moment.</p>"
        f"<nav>{links}</nav>{sections}</body></html>\n"
    )


def picture(result: dict[str, Any]) -> str:
    """The latencies of one scenario as an SVG file."""
    svg = percentile_plot(result["strategies"], "latency")
    if not svg:
        return ""
    # A file needs a namespace, a page does not.
    svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return svg.replace(">", f"><style>{_STYLE}</style>", 1) + "\n"


def _section(number: int, result: dict[str, Any]) -> str:
    rows = result["strategies"]
    plots = "".join(
        f"<h3>{title}</h3>{_wide(title, percentile_plot(rows, kind))}"
        '<p class="soft">left p50, right p99</p>'
        for title, kind in (("Latency", "latency"), ("Time to first token", "first_token"))
        if kind == "latency" or any(row[kind] != row["latency"] for row in rows.values())
    )
    return (
        f'<section id="r{number}"><h2>{escape(result["scenario"])}</h2>'
        f"<p>{escape(result['text'])}</p><p class='soft'>{escape(condition(result))}</p>"
        f"{_logged(result)}"
        f"{_wide('Figures', _table(rows))}"
        "<h3>Share over time: of the server that got the most in each two-hundredth of the run, "
        f"above an equal share</h3>{_grid(shares(result))}"
        "<h3>In flight over time: the average server, the fullest one, and the range between the "
        f"least and the most</h3>{_grid(in_flight(result))}{plots}{_why(result)}</section>"
    )


def _grid(plots: dict[str, str]) -> str:
    panels = (f"<figure><b>{escape(name)}</b>{svg}</figure>" for name, svg in plots.items())
    return f'<div class="grid">{"".join(panels)}</div>'


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
