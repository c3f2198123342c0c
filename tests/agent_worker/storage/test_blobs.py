"""The same tests on a directory and on S3 (a server of moto)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from typing import TYPE_CHECKING

import aiohttp
import pytest

from agent_worker.sessions import new_session_id
from agent_worker.storage.base import BlobMissing, StorageUnavailable
from agent_worker.storage.blobs import Blobs, is_blob_key, open_blobs
from agent_worker.storage.setup import StorageSetupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

DAY_S = 86_400


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


ENDPOINT_VARIABLES = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]


@pytest.fixture
def s3_environment(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture(params=["directory", "s3"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Blobs]:
    if request.param == "directory":
        yield open_blobs(tmp_path / "blobs")
        return
    request.getfixturevalue("s3_environment")
    yield open_blobs(f"s3://{await make_bucket(request.getfixturevalue('s3_url'))}/some/prefix")


async def make_bucket(s3_url: str) -> str:
    name = f"test-{uuid.uuid4().hex}"
    async with aiohttp.ClientSession() as http, http.put(f"{s3_url}/{name}") as made:
        assert made.status == 200
    return name


async def test_a_blob_is_found_by_its_key(blobs: Blobs) -> None:
    session = new_session_id()
    key = await blobs.put(session, b"a large result")
    assert key == f"{session}/{hashlib.sha256(b'a large result').hexdigest()}"
    assert await blobs.get(key) == b"a large result"


async def test_an_empty_blob_and_a_megabyte_are_blobs_too(blobs: Blobs) -> None:
    session = new_session_id()
    for data in (b"", os.urandom(1024 * 1024)):
        assert await blobs.get(await blobs.put(session, data)) == data


async def test_putting_it_again_or_at_the_same_time_is_harmless(blobs: Blobs) -> None:
    session = new_session_id()
    keys = await asyncio.gather(*(blobs.put(session, b"same") for _ in range(8)))
    assert len(set(keys)) == 1
    assert await blobs.get(keys[0]) == b"same"


async def test_a_blob_is_never_written_over(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    session = new_session_id()
    key = await blobs.put(session, b"text")
    first = (tmp_path / key).stat()
    await blobs.put(session, b"text")
    second = (tmp_path / key).stat()
    assert (second.st_ino, second.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


async def test_deleting_a_session_leaves_the_others(blobs: Blobs) -> None:
    short = "a" * 16
    longer = short + "b"
    gone = [await blobs.put(short, data) for data in (b"one", b"two")]
    kept = await blobs.put(longer, b"one")
    await blobs.delete_session(short)
    await blobs.delete_session(short)
    for key in gone:
        with pytest.raises(BlobMissing):
            await blobs.get(key)
    assert await blobs.get(kept) == b"one"


async def test_two_that_delete_the_same_session_do_not_disturb_each_other(blobs: Blobs) -> None:
    session = new_session_id()
    for number in range(20):
        await blobs.put(session, b"%d" % number)
    await asyncio.gather(*(blobs.delete_session(session) for _ in range(4)))
    assert await blobs.delete_older_than(-DAY_S) == 0


async def test_the_janitor_removes_what_is_old(blobs: Blobs) -> None:
    key = await blobs.put(new_session_id(), b"text")
    assert await blobs.delete_older_than(DAY_S) == 0
    assert await blobs.get(key) == b"text"
    # Everything is older than a time in the future.
    assert await blobs.delete_older_than(-DAY_S) == 1
    with pytest.raises(BlobMissing):
        await blobs.get(key)


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", f"../{'a' * 64}", f"{'a' * 16}/../{'b' * 16}/{'0' * 64}", f"{'a' * 16}/x"],
)
async def test_what_is_no_key_finds_nothing(blobs: Blobs, key: str) -> None:
    assert not is_blob_key(key)
    with pytest.raises(BlobMissing):
        await blobs.get(key)


@pytest.mark.parametrize("session", ["", "..", "../../etc/cron.d", "a" * 15, "a" * 16 + "\n"])
async def test_what_is_no_session_id_is_refused(blobs: Blobs, session: str) -> None:
    with pytest.raises(ValueError, match="not a session id"):
        await blobs.put(session, b"text")
    with pytest.raises(ValueError, match="not a session id"):
        await blobs.delete_session(session)


async def test_a_damaged_blob_is_missing_and_can_be_written_again(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    session = new_session_id()
    key = await blobs.put(session, b"whole")
    (tmp_path / key).write_bytes(b"who")
    with pytest.raises(BlobMissing):
        await blobs.get(key)
    await blobs.put(session, b"whole")
    assert await blobs.get(key) == b"whole"


async def test_the_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    await open_blobs(tmp_path / "new" / "blobs").put(new_session_id(), b"text")
    assert (tmp_path / "new" / "blobs").stat().st_mode & 0o777 == 0o700


async def test_the_janitor_leaves_files_that_are_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine")
    assert await open_blobs(tmp_path).delete_older_than(-DAY_S) == 0
    assert (tmp_path / "README").read_text() == "mine"


async def test_a_directory_that_turns_into_something_else_means_unavailable(
    tmp_path: Path,
) -> None:
    blobs = open_blobs(tmp_path / "blobs")
    (tmp_path / "blobs").rmdir()
    (tmp_path / "blobs").write_text("a file now")
    with pytest.raises(StorageUnavailable):
        await blobs.put(new_session_id(), b"text")


@pytest.mark.usefixtures("s3_environment")
@pytest.mark.parametrize("used", range(3))
async def test_each_variable_for_the_endpoint_works_and_the_first_one_wins(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, used: int
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    # In this order in the environment; the library takes the last one.
    for name in ENDPOINT_VARIABLES[:used]:
        monkeypatch.setenv(name, "")
    for name in ENDPOINT_VARIABLES[used:]:
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv(ENDPOINT_VARIABLES[used], s3_url)
    blobs = open_blobs(f"s3://{await make_bucket(s3_url)}")
    assert await blobs.get(await blobs.put(new_session_id(), b"text")) == b"text"


@pytest.mark.usefixtures("s3_environment")
@pytest.mark.parametrize("name", ENDPOINT_VARIABLES)
@pytest.mark.parametrize("value", ["localhost:9000", "ftp://host", "http://", "http://h:x", "::"])
def test_an_endpoint_that_is_no_url_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv(name, value)
    with pytest.raises(StorageSetupError, match=f"^{name} must be http://"):
        open_blobs("s3://bucket/prefix")


@pytest.mark.usefixtures("s3_environment")
async def test_s3_that_cannot_be_reached_means_unavailable(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    blobs = open_blobs("s3://bucket/prefix")
    with pytest.raises(StorageUnavailable):
        await blobs.put(new_session_id(), b"text")
    with pytest.raises(StorageUnavailable):
        await blobs.delete_session(new_session_id())
    assert "put failed" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.usefixtures("s3_environment")
async def test_a_bucket_that_is_not_there_means_unavailable() -> None:
    with pytest.raises(StorageUnavailable):
        await open_blobs("s3://no-such-bucket").put(new_session_id(), b"text")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("gs://bucket/prefix", "neither a directory nor s3://"),
        ("s3:///prefix", "names no bucket"),
        ("/dev/null/blobs", "cannot create the directory"),
    ],
)
def test_a_place_that_cannot_be_used_is_reported(where: str, message: str) -> None:
    with pytest.raises(StorageSetupError, match=message):
        open_blobs(where)
