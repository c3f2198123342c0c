"""A Secret as Kubernetes mounts it: files are links through `..data`, which is swapped at once.

kubelet's AtomicWriter: ..data -> ..2026_12_01/, and NAME -> ..data/NAME
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class MountedSecret:
    """`path(name)` stays the same while `replace` gives all files other contents."""

    def __init__(self, folder: Path, **files: str | bytes) -> None:
        self._folder = folder
        self._versions = count(1)
        folder.mkdir()
        self.replace(**files)
        for name in files:
            (folder / name).symlink_to(f"..data/{name}")

    def path(self, name: str) -> Path:
        return self._folder / name

    def replace(self, **files: str | bytes) -> None:
        """Those that are not given are gone."""
        version = f"..version_{next(self._versions)}"
        (self._folder / version).mkdir()
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            (self._folder / version / name).write_bytes(data)
        link = self._folder / "..data_tmp"
        link.symlink_to(version)
        link.rename(self._folder / "..data")
