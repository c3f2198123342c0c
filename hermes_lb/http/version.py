"""Versions of HTTP, as places in tables."""

from __future__ import annotations

from typing import Final

HTTP10: Final = 0
HTTP11: Final = 1
HTTP2: Final = 2

#: The first bytes of a connection by HTTP/2, as far as HTTP/1.1 takes them for a head (RFC 9113
#: section 3.4).
HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\n"

#: By version.
NAMES: Final[tuple[str, ...]] = ("1.0", "1.1", "2.0")
