"""The secret of all digests, and the key of what is stored: equal on all balancers that share a
store, and never in the store."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hermes_lb.turns.options import StoreOptions

_SIZE: Final = 32  # bytes of a secret that is made here
_LEAST: Final = 16


def turn_secret(options: StoreOptions) -> bytes:
    """32 bytes, of `secret_file`. Without one, processes of one user on this machine share a file,
    which the first of them makes. Raises OSError, or ValueError if the file is too short."""
    if options.secret_file is not None:
        return _key_of(_read(Path(options.secret_file)))
    path = _default_path()
    try:
        return _key_of(_read(path))
    except FileNotFoundError:
        _make(path)
        return _key_of(_read(path))


def store_key(options: StoreOptions) -> bytes | None:
    """32 bytes, of `key_file`; None without one. Raises as `turn_secret`."""
    if options.key_file is None:
        return None
    data = _read(Path(options.key_file))
    return blake2b(data, digest_size=32, person=b"hermes-at-rest").digest()


def _read(path: Path) -> bytes:
    data = path.read_bytes().strip()
    if len(data) < _LEAST:
        raise ValueError(f"{path}: a secret has at least {_LEAST} bytes")
    return data


def _key_of(data: bytes) -> bytes:
    return blake2b(data, digest_size=32, person=b"hermes-turns").digest()


def _default_path() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "hermes_lb" / "turns.secret"


def _make(path: Path) -> None:
    """Whole or not at all; of several processes one makes it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(_SIZE).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(own, path)
    finally:
        own.unlink()
