"""A picture of a run: three panels of grouped bars, one colour a proxy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.live.report import choose_base
from bench.live.requirements import COMPILED, US

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.live.results import Results

INSTALL = "pip install matplotlib"

_COLOURS = {
    US: "#d9480f",
    COMPILED: "#f0883e",
    "haproxy": "#1c5d99",
    "haproxy-ring": "#7fa8d1",
    "haproxy-silent": "#a9c4e0",
    "nginx": "#639fab",
    "nginx-current": "#8fc1a9",
    "envoy": "#bbcde5",
    "aiohttp": "#b0b0a8",
}


@dataclass(frozen=True)
class _Group:
    label: str
    case: str
    metric: str


_THROUGHPUT = (
    _Group("small GET", "get", "per_second"),
    _Group("SDK POST", "post", "per_second"),
    _Group("connection\nper request", "close", "per_second"),
    _Group("TLS,\nsmall GET", "get-tls", "per_second"),
)
_COST = (
    _Group("CPU per token\n300 streams", "tokens-300", "cpu_us"),
    _Group("CPU per token\n3,000 streams", "tokens-3000", "cpu_us"),
    _Group("memory per stream\n3,000 streams", "tokens-3000", "memory_kb"),
    _Group("CPU per\nWebSocket frame", "websocket", "cpu_us"),
)
_LATENCY = (
    _Group("p50", "first-token", "added_p50_ms"),
    _Group("p99", "first-token", "added_p99_ms"),
)


def write_plot(path: Path, results: Results) -> bool:
    """Draw `results` to the PNG `path`. Return False where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    base = choose_base(results)
    peers = [peer for peer in _COLOURS if any(peer in results.peers(c) for c in results.cases())]
    figure, panels = pyplot.subplots(
        1, 3, figsize=(17, 5.4), width_ratios=(4, 4, 1.9), layout="constrained"
    )
    _draw(panels[0], results, _THROUGHPUT, peers, base)
    panels[0].set_title("Throughput, one core: higher is better", loc="left")
    panels[0].set_ylabel(f"ratio to {base}")
    _draw(panels[1], results, _COST, peers, base)
    panels[1].set_title("Cost: lower is better (log scale)", loc="left")
    panels[1].set_ylabel(f"ratio to {base}")
    _set_ratio_scale(panels[1])
    _draw(panels[2], results, _LATENCY, peers, None)
    panels[2].set_title("Added to the first token (ms)", loc="left")
    handles = [Patch(color=_COLOURS[peer], label=peer) for peer in peers]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(peers), frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def _draw(
    panel: Any, results: Results, groups: Sequence[_Group], peers: Sequence[str], base: str | None
) -> None:
    """Draw ratios to `base`, or the bare figures where it is None."""
    groups = [group for group in groups if group.case in results.cases()]
    width = 0.84 / max(1, len(peers))
    for place, peer in enumerate(peers):
        positions, values = [], []
        for number, group in enumerate(groups):
            value = (
                results.ratio(group.case, peer, group.metric, base)
                if base
                else results.median(group.case, peer, group.metric)
            )
            if value is not None:
                positions.append(number + (place - (len(peers) - 1) / 2) * width)
                values.append(value)
        bars = panel.bar(positions, values, width * 0.92, label=peer, color=_COLOURS[peer])
        weight = "bold" if peer == US else "normal"
        panel.bar_label(bars, fmt="%.2f", fontsize=7.5, padding=2, fontweight=weight)
    panel.set_xticks(range(len(groups)), [group.label for group in groups])
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(axis="x", length=0)
    panel.margins(y=0.12)
    if base:
        panel.axhline(1.0, color="#444444", linewidth=0.8, linestyle=":", zorder=0)


def _set_ratio_scale(panel: Any) -> None:
    """Double and half look alike: memory differs by a factor of ten, CPU by less than two."""
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    bottom, top = panel.get_ylim()
    panel.set_ylim(min(bottom, 0.5), top * 1.2)
