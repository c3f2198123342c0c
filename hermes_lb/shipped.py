"""The files that come with the package: example configurations, units, monitoring, the manual.

They are the project's `configs/`, which the package has as `files/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_FOLDER = Path(__file__).with_name("files")

# By name: the file, and its purpose.
CONFIGURATIONS = {
    "minimal": ("minimal.toml", "one frontend, three servers"),
    "demo": ("lb.toml", "what `hermes-lb demo` runs, explained"),
    "reference": ("reference.toml", "every key, with its counterparts in HAProxy and nginx"),
}
FILES = {
    name: (name, purpose)
    for name, purpose in {
        "hermes-lb.service": "systemd unit",
        "hermes-lb.socket": "systemd unit for socket activation",
        "agent-worker@.service": "systemd unit for workers, one for each port",
        "prometheus.yml": "a scrape of /metrics",
        "alerts.yml": "alerting rules for Prometheus",
        "alerts_test.yml": "their tests, for promtool",
        "grafana-dashboard.json": "a dashboard for Grafana",
        "hermes-lb.1": "the manual page",
    }.items()
}


def path_of(name: str) -> Path:
    """Of a file of `configs/`."""
    return _FOLDER / name


def listed(shipped: dict[str, tuple[str, str]]) -> Iterable[str]:
    """A line for each."""
    width = max(map(len, shipped))
    return (f"{name:<{width}}  {purpose}" for name, (_, purpose) in shipped.items())


def write_all(directory: Path) -> Iterable[Path]:
    """Write FILES to a directory, which is made. Raises OSError; FileExistsError before the first
    one is written, if one is there."""
    targets = {name: directory / name for name in FILES}
    for target in targets.values():
        if target.exists():
            raise FileExistsError(f"{target} exists; remove it, or name another directory")
    directory.mkdir(parents=True, exist_ok=True)
    for name, target in targets.items():
        target.write_bytes(path_of(name).read_bytes())
    return targets.values()
