"""Large texts in a directory or in S3, on obstore.

The key is `<session_id>/<sha256>`, so a blob is immutable and a write idempotent. Each read
verifies the hash: neither a file system nor an object store guarantees that a crash leaves no
partial object.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agent_worker.sessions import is_session_id
from agent_worker.storage.base import BlobMissing, StorageUnavailable
from agent_worker.storage.setup import StorageSetupError, missing_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from obstore.store import ObjectStore

log = logging.getLogger(__name__)

_KEY = re.compile(r"[A-Za-z0-9_-]{16,64}/[0-9a-f]{64}")
# Seconds of one request; the result of a tool has a few MB at most.
_TIMEOUT_S = 10
_CONNECT_TIMEOUT_S = 2
# Puts are create-only and idempotent, so a retry is safe.
_RETRIES = 2
# The first non-empty one is used: AWS's order, then the library's own name.
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def open_blobs(where: str | Path) -> Blobs:
    """Blobs in the directory `where`, created if necessary, or in `s3://bucket/prefix`.

    S3 is not contacted. Its endpoint and credentials come from the environment: AWS_REGION,
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and so on, and `_ENDPOINT_VARIABLES`. Raises
    StorageSetupError.
    """
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        raise missing_extra("storing large results", "blobs") from error
    text = str(where)
    if "://" not in text:
        return Blobs(_local(Path(text)))
    if not text.startswith("s3://"):
        raise StorageSetupError(f"{text!r} is neither a directory nor s3://bucket/prefix")
    return Blobs(_s3(text))


def is_blob_key(text: str) -> bool:
    """Whether `text` has the form of a key. Nothing else may become part of a path."""
    return _KEY.fullmatch(text) is not None


class Blobs:
    """A BlobStore on any store of obstore."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"Blobs({self._store})"

    async def put(self, session_id: str, data: bytes) -> str:
        from obstore.exceptions import AlreadyExistsError

        key = f"{_checked(session_id)}/{hashlib.sha256(data).hexdigest()}"
        with _reported("put"), contextlib.suppress(AlreadyExistsError):
            await self._store.put_async(key, data, mode="create")
        return key

    async def get(self, key: str) -> bytes:
        if not is_blob_key(key):
            raise BlobMissing(key)
        with _reported("get", missing=lambda: BlobMissing(key)):
            response = await self._store.get_async(key)
            data = bytes(await response.bytes_async())
        if hashlib.sha256(data).hexdigest() != key.rpartition("/")[2]:
            log.error("blob %s is corrupt: removed, so that it can be written again", key)
            await self._delete([key])
            raise BlobMissing(key)
        return data

    async def delete_session(self, session_id: str) -> None:
        """A blob that a running turn writes meanwhile may remain (see the janitor)."""
        await self._delete_listed(f"{_checked(session_id)}/", lambda entry: True)

    async def delete_older_than(self, seconds: float) -> int:
        """For the janitor: remove blobs that were written longer ago. Returns their number.

        The blobs of a session that has expired in Redis are only removed here. `seconds` must be at
        least the longest life of a session (30 days): a blob is not touched while its session
        lives. This lists the whole store; in S3 a lifecycle rule of the bucket is cheaper.
        """
        oldest = datetime.now(UTC) - timedelta(seconds=seconds)
        return await self._delete_listed(None, lambda entry: entry["last_modified"] < oldest)

    async def close(self) -> None:
        """Nothing is open."""

    async def _delete_listed(self, prefix: str | None, wanted: Callable[[Any], bool]) -> int:
        count = 0
        with _reported("list"):
            async for entries in self._store.list(prefix):
                # Other objects in the store are left alone.
                keys = [e["path"] for e in entries if is_blob_key(e["path"]) and wanted(e)]
                await self._delete(keys)
                count += len(keys)
        return count

    async def _delete(self, keys: list[str]) -> None:
        for key in keys:
            # One by one: the bulk call stops at the first one that is missing.
            with _reported("delete"), contextlib.suppress(FileNotFoundError):
                await self._store.delete_async(key)


def _checked(session_id: str) -> str:
    if not is_session_id(session_id):
        raise ValueError(f"not a session id: {session_id!r}")
    return session_id


@contextlib.contextmanager
def _reported(operation: str, *, missing: Callable[[], Exception] | None = None) -> Iterator[None]:
    """Convert obstore's errors to ours; the details are only logged."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise (missing() if missing else StorageUnavailable()) from error
    except (BaseError, OSError) as error:
        log.warning("blob store: %s failed: %s", operation, str(error).partition("\n")[0])
        raise StorageUnavailable from error


def _local(folder: Path) -> ObjectStore:
    from obstore.store import LocalStore

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageSetupError(
            f"cannot create the directory {folder} for large results: {error.strerror}"
        ) from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise StorageSetupError(f"cannot write to the directory {folder} for large results")
    return LocalStore(folder, automatic_cleanup=True)


def _s3(url: str) -> ObjectStore:
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    parts = urlsplit(url)
    if not parts.netloc:
        raise StorageSetupError(f"{url!r} names no bucket: s3://bucket/prefix")
    endpoint = _endpoint()
    try:
        return S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            # Overrides the variables, which the library takes in the order of the environment.
            config={"aws_endpoint_url_s3": endpoint} if endpoint else None,
            client_options={
                "timeout": timedelta(seconds=_TIMEOUT_S),
                "connect_timeout": timedelta(seconds=_CONNECT_TIMEOUT_S),
                "allow_http": endpoint.startswith("http://"),
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_TIMEOUT_S)},
        )
    except (BaseError, ValueError) as error:
        raise StorageSetupError(f"cannot use {url}: {error}") from error


def _endpoint() -> str:
    """The URL of the S3 service; empty: AWS, by region. Raises StorageSetupError.

    Validated here: the library accepts anything, and fails (or panics) at the first request.
    """
    for name in _ENDPOINT_VARIABLES:
        if url := os.environ.get(name, ""):
            try:
                parts = urlsplit(url)
                is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
                _ = parts.port
            except ValueError:
                is_url = False
            if not is_url:
                raise StorageSetupError(f"{name} must be http://host[:port] or https://host[:port]")
            return url
    return ""
