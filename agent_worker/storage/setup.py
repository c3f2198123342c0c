"""Shared by the stores: setup errors, and the conversion of texts that they cannot store."""

from __future__ import annotations

import hashlib
from urllib.parse import urlsplit

# A B-tree entry of PostgreSQL holds 2,704 bytes; two names of 200 four-byte characters fit.
_MAX_IDENTITY = 200


class StorageSetupError(Exception):
    """A store cannot be used as configured; the text gives the remedy."""


def missing_extra(what: str, extra: str) -> StorageSetupError:
    return StorageSetupError(f"{what} needs a package: pip install 'hermes-lb[{extra}]'")


def shown(url: str) -> str:
    """`url` without user, password and options, for messages and logs."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def storable(text: str) -> str:
    """`text` with U+FFFD for what cannot be stored: NUL (PostgreSQL), lone surrogates (UTF-8)."""
    text = text.replace("\0", "\ufffd")
    return (
        text
        if text.isascii()
        else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def identity(text: str) -> str:
    """`text` as (a part of) a key: itself, or its digest if it is long or cannot be stored.

    Different texts have different identities, so that a replaced character never gives access to
    another principal's rows.
    """
    if len(text) <= _MAX_IDENTITY and storable(text) == text and not text.startswith("sha256:"):
        return text
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
