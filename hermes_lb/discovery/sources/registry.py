"""All kinds of discovery, by their key in `[backends.NAME.discovery]`. A new one is a file and an
entry here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hermes_lb.discovery.sources.dns import DnsSource
from hermes_lb.discovery.sources.file import FileSource
from hermes_lb.discovery.sources.kubernetes import KubernetesSource

if TYPE_CHECKING:
    from hermes_lb.discovery.sources.base import Source

SOURCES: Final[dict[str, type[Source]]] = {
    "dns": DnsSource,
    "file": FileSource,
    "kubernetes": KubernetesSource,
}
