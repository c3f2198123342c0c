from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from agent_worker.tools import Effect, ToolError
from agent_worker.tools.mail import MAX_TEXT, SendMail
from tests.support.agent.tools import SESSION, context


def read(outbox: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in outbox.read_text().splitlines()]


async def test_a_mail_is_a_line_with_the_calls_key(tmp_path: Path) -> None:
    mail = SendMail(tmp_path / "outbox")
    assert await mail.run({"to": "ann@example.org", "text": "one\ntwo"}, context()) == (
        "sent to ann@example.org"
    )
    await mail.run({"to": "ben@example.org", "text": "\ud800"}, context(call="2.1"))
    assert read(tmp_path / "outbox") == [
        {"id": f"{SESSION}.1.0", "to": "ann@example.org", "text": "one\ntwo"},
        {"id": f"{SESSION}.2.1", "to": "ben@example.org", "text": "\ud800"},
    ]


def send_many(outbox: Path, sender: int) -> None:
    async def send() -> None:
        for number in range(50):
            arguments = {"to": "ann", "text": str(sender) * MAX_TEXT}
            await SendMail(outbox).run(arguments, context(call=f"{sender}.{number}"))

    asyncio.run(send())


@pytest.mark.slow
def test_the_mails_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    start = multiprocessing.get_context("spawn").Process
    processes = [start(target=send_many, args=(outbox, sender)) for sender in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    mails = read(outbox)
    assert len({mail["id"] for mail in mails}) == len(mails) == 150
    assert all(len(set(mail["text"])) == 1 for mail in mails)


async def test_what_is_known_not_to_be_sent_is_an_error_of_the_tool(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no mail can be sent: No such file or directory"):
        await SendMail(tmp_path / "none" / "outbox").run({"to": "ann", "text": "a"}, context())


async def test_a_write_that_fails_is_none_as_nobody_knows_what_was_sent() -> None:
    with pytest.raises(OSError, match="No space left"):
        await SendMail(Path("/dev/full")).run({"to": "ann", "text": "a"}, context())


@pytest.mark.parametrize(
    "arguments", [{}, {"to": "ann"}, {"text": "a"}, {"to": "ann", "text": "x" * (MAX_TEXT + 1)}]
)
async def test_wrong_arguments_send_nothing(tmp_path: Path, arguments: dict[str, str]) -> None:
    with pytest.raises(ToolError, match=r"'to'|'text'"):
        await SendMail(tmp_path / "outbox").run(arguments, context())
    assert os.listdir(tmp_path) == []


def test_it_must_not_be_repeated() -> None:
    assert SendMail.spec.effect is Effect.ONCE
