"""A comment is never put into the middle of an event: its client would take it for data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.proxy.test_resume import Talk, chunk

if TYPE_CHECKING:
    from tests.support.stage import Stage

COMMENT = b": hello\n\n"


async def test_no_comment_within_an_event_that_is_passed_on_in_parts(stage: Stage) -> None:
    talk = await Talk.begin(stage, route={"sse_keep_alive": "1h"})
    (connection,) = talk.lb._context.live.clients
    assert connection.exchange is not None
    stream = connection.exchange.stream
    assert stream is not None
    stream._say(COMMENT)
    assert await talk.client.read_chunk() == COMMENT
    huge = b"data: " + b"x" * 70_000
    await talk.first.send(chunk(huge))
    assert await talk.client.read_chunk() == huge
    stream._say(COMMENT)
    assert await talk.client.gets_nothing()
