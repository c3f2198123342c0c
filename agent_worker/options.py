"""The options of the command line: what they are called, what they mean, what they may be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agent_worker.durations import format_duration, parse_duration
from agent_worker.models import CONTINUATIONS, engine_names

# It is renewed at a third: shorter ones run out when a process is busy for a moment.
LEAST_LEASE_S = 0.1

_ENGINE, _STORES, _LIMITS = "Engine", "Stores", "Limits"


def duration(option: str, text: str, *, at_least_s: float = 0.0) -> float:
    """Seconds. Raises typer.BadParameter."""
    try:
        seconds = parse_duration(text)
        if seconds < at_least_s:
            raise ValueError(f"{text} is too short; the least is {format_duration(at_least_s)}")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    return seconds


def _engine(name: str) -> str:
    if name not in engine_names():
        raise typer.BadParameter(f"unknown engine; known: {', '.join(engine_names())}")
    return name


def tokens_of(pairs: list[str]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for pair in pairs:
        token, equals, principal = pair.rpartition("=")
        if not equals or not token or not principal:
            # The value is a secret: it is not repeated here.
            raise typer.BadParameter("write token=principal", param_hint="--token")
        tokens[token] = principal
    return tokens


Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[
    int,
    typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 finds a free one."),
]
RedisUrl = Annotated[
    str | None,
    typer.Option(
        envvar="HERMES_REDIS_URL",
        metavar="URL",
        help="Redis or Valkey that keeps the sessions. "
        "Without it one is embedded, and its sessions end with this worker.",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Name in X-Hermes-Worker.", show_default="worker-<port>"),
]


def _option(panel: str, metavar: str, text: str, **more: Any) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        metavar=metavar, help=text, rich_help_panel=panel, **more
    )
    return option


EngineName = Annotated[
    str, _option(_ENGINE, "NAME", f"Model engine: {', '.join(engine_names())}.", callback=_engine)
]
TokenInterval = Annotated[
    str, _option(_ENGINE, "DURATION", "scripted: pause between two words, such as 20ms.")
]
FaultRate = Annotated[
    float,
    _option(_ENGINE, "SHARE", "scripted: share of steps that fail on purpose.", min=0, max=1),
]
Seed = Annotated[int, _option(_ENGINE, "N", "scripted: says which ones fail.")]
BaseUrl = Annotated[
    str,
    _option(
        _ENGINE,
        "URL",
        "openai, hermes: where the API is, with its /v1.",
        envvar="HERMES_ENGINE_URL",
    ),
]
ApiKey = Annotated[
    str,
    _option(
        _ENGINE,
        "KEY",
        "openai, hermes: the API's key; better given by the environment.",
        envvar="HERMES_ENGINE_KEY",
    ),
]
Model = Annotated[
    str,
    _option(_ENGINE, "NAME", "openai, hermes: the model to ask for.", envvar="HERMES_ENGINE_MODEL"),
]
Continuation = Annotated[
    str,
    _option(
        _ENGINE,
        "HOW",
        f"openai: how the server goes on behind a given text: {', '.join(CONTINUATIONS)}.",
    ),
]
FirstToken = Annotated[
    str, _option(_ENGINE, "DURATION", "openai, hermes: how long the first piece may take.")
]
IdleTime = Annotated[
    str, _option(_ENGINE, "DURATION", "openai, hermes: how long nothing may come after that.")
]
Tries = Annotated[
    int,
    _option(_ENGINE, "N", "openai, hermes: tries before the first piece has come.", min=1, max=10),
]
Blobs = Annotated[
    str | None,
    _option(
        _STORES,
        "WHERE",
        "Texts over 32 KB: a directory, s3://bucket/prefix, or off. "
        "Without it a directory of the user's.",
        envvar="HERMES_BLOBS",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    _option(
        _STORES,
        "URL",
        "PostgreSQL with pgvector: preferences, memories, archive.",
        envvar="HERMES_DATABASE_URL",
    ),
]
QdrantUrl = Annotated[
    str | None,
    _option(
        _STORES, "URL", "Qdrant for the memories, instead of pgvector.", envvar="HERMES_QDRANT_URL"
    ),
]
QdrantKey = Annotated[
    str, _option(_STORES, "KEY", "Better given by the environment.", envvar="HERMES_QDRANT_KEY")
]
StrictLedger = Annotated[
    bool,
    typer.Option(
        "--strict-ledger",
        help="Record each `once` call in PostgreSQL as well, before it runs.",
        rich_help_panel=_STORES,
    ),
]
EmbeddingUrl = Annotated[
    str,
    _option(
        _STORES, "URL", "An OpenAI-compatible API for embeddings.", envvar="HERMES_EMBEDDING_URL"
    ),
]
EmbeddingModel = Annotated[
    str,
    _option(
        _STORES, "NAME", "Its model; without one words are hashed.", envvar="HERMES_EMBEDDING_MODEL"
    ),
]
EmbeddingDimension = Annotated[int, _option(_STORES, "N", "What the model gives.", min=1)]
EmbeddingKey = Annotated[
    str, _option(_STORES, "KEY", "Better given by the environment.", envvar="HERMES_EMBEDDING_KEY")
]
MailFile = Annotated[
    Path | None,
    _option(_STORES, "PATH", "Offer the tool send_mail, whose mails are lines of this file."),
]
ContextTokens = Annotated[
    int, _option(_LIMITS, "N", "What a model gets at most; older turns are summed up.", min=500)
]
ToolsAtOnce = Annotated[
    int, _option(_LIMITS, "N", "Tool calls of one step that run together.", min=1, max=256)
]
StepLimit = Annotated[
    int, _option(_LIMITS, "N", "Model steps of one turn at most.", min=1, max=1000)
]
ToolTimeout = Annotated[str, _option(_LIMITS, "DURATION", "For one tool call.")]
LeaseTime = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="How long a session waits for a worker that died in the middle of a turn.",
    ),
]
Tokens = Annotated[
    list[str] | None,
    typer.Option(
        envvar="HERMES_TOKENS",
        metavar="TOKEN=PRINCIPAL",
        help="A bearer token to let in, and who it is; repeatable. "
        "Without any, everybody is let in and each token is a principal of its own.",
    ),
]
DrainTimeout = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="How long running turns may go on after SIGTERM; a second signal ends them.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more to stderr.")]
Folder = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Where the data is kept; made if need be."),
]
