"""Bounds of the parser that no user has a reason to change, each with its precedents.

The others are in the configuration (`hermes_lb.config.process.Limits`), of which the parser reads
`HeadLimits`.
"""

from __future__ import annotations

from typing import Protocol

# Bytes of one chunk's extension. Extensions are unused; Go bounds them since CVE-2023-39326.
CHUNK_EXTENSION_SIZE = 4 * 1024

# Of all trailers of a message, in bytes; they are dropped anyway.
TRAILERS_SIZE = 8 * 1024

# Informational responses before the final one. Go's client stops at 5, HAProxy does not.
INFORMATIONAL_RESPONSES = 32


class HeadLimits(Protocol):
    """Bounds on a request head: the number of its fields, and the bytes of its target."""

    @property
    def header_count(self) -> int: ...

    @property
    def target_size(self) -> int: ...
