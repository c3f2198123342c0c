"""The command-line options: names, help texts, constraints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agent_worker.durations import format_duration, parse_duration
from agent_worker.models import CONTINUATIONS, engine_names

# A lease is renewed at a third: a shorter one expires while a process is busy for a moment.
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
            # The value is a secret, so the message does not repeat it.
            raise typer.BadParameter("write token=principal", param_hint="--token")
        tokens[token] = principal
    return tokens


def _option(
    metavar: str | None, text: str, panel: str | None = None, **more: Any
) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        metavar=metavar, help=text, rich_help_panel=panel, **more
    )
    return option


Host = Annotated[str, _option("ADDRESS", "Address to listen on.")]
Port = Annotated[int, _option("PORT", "Port to listen on; 0 finds a free one.", min=0, max=65535)]
RedisUrl = Annotated[
    str | None,
    _option(
        "URL",
        "Redis or Valkey for the sessions. "
        "Without it one is embedded, and its sessions end with this worker.",
        envvar="HERMES_REDIS_URL",
    ),
]
Name = Annotated[
    str | None, _option("NAME", "Name in X-Hermes-Worker.", show_default="worker-<port>")
]


EngineName = Annotated[
    str, _option("NAME", f"Model engine: {', '.join(engine_names())}.", _ENGINE, callback=_engine)
]
TokenInterval = Annotated[
    str, _option("DURATION", "scripted: pause between two words, such as 20ms.", _ENGINE)
]
FaultRate = Annotated[
    float, _option("SHARE", "scripted: share of steps that fail on purpose.", _ENGINE, min=0, max=1)
]
Seed = Annotated[int, _option("N", "scripted: selects the steps that fail.", _ENGINE)]
BaseUrl = Annotated[
    str,
    _option(
        "URL", "openai, hermes: base URL of the API, with /v1.", _ENGINE, envvar="HERMES_ENGINE_URL"
    ),
]
ApiKey = Annotated[
    str,
    _option(
        "KEY",
        "openai, hermes: API key; preferably set by the environment.",
        _ENGINE,
        envvar="HERMES_ENGINE_KEY",
    ),
]
Model = Annotated[
    str,
    _option("NAME", "openai, hermes: the model to ask for.", _ENGINE, envvar="HERMES_ENGINE_MODEL"),
]
Continuation = Annotated[
    str,
    _option(
        "HOW",
        f"openai: how the server continues a given text: {', '.join(CONTINUATIONS)}.",
        _ENGINE,
    ),
]
FirstToken = Annotated[
    str, _option("DURATION", "openai, hermes: timeout of the first piece.", _ENGINE)
]
IdleTime = Annotated[
    str, _option("DURATION", "openai, hermes: timeout between two pieces.", _ENGINE)
]
Tries = Annotated[
    int, _option("N", "openai, hermes: attempts until the first piece.", _ENGINE, min=1, max=10)
]
Blobs = Annotated[
    str | None,
    _option(
        "WHERE",
        "Texts over 32 KB: a directory, s3://bucket/prefix, or off. "
        "The default is a directory of the user.",
        _STORES,
        envvar="HERMES_BLOBS",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    _option(
        "URL",
        "PostgreSQL with pgvector: preferences, memories, archive.",
        _STORES,
        envvar="HERMES_DATABASE_URL",
    ),
]
QdrantUrl = Annotated[
    str | None,
    _option(
        "URL", "Qdrant for the memories, instead of pgvector.", _STORES, envvar="HERMES_QDRANT_URL"
    ),
]
QdrantKey = Annotated[
    str, _option("KEY", "Preferably set by the environment.", _STORES, envvar="HERMES_QDRANT_KEY")
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
        "URL", "An OpenAI-compatible API for embeddings.", _STORES, envvar="HERMES_EMBEDDING_URL"
    ),
]
EmbeddingModel = Annotated[
    str,
    _option(
        "NAME",
        "Its model; without one, words are hashed.",
        _STORES,
        envvar="HERMES_EMBEDDING_MODEL",
    ),
]
EmbeddingDimension = Annotated[int, _option("N", "Dimension of its vectors.", _STORES, min=1)]
EmbeddingKey = Annotated[
    str,
    _option("KEY", "Preferably set by the environment.", _STORES, envvar="HERMES_EMBEDDING_KEY"),
]
MailFile = Annotated[
    Path | None, _option("PATH", "Offer the tool send_mail, which appends to this file.", _STORES)
]
ContextTokens = Annotated[
    int, _option("N", "Context window; older turns are summarised.", _LIMITS, min=500)
]
ToolsAtOnce = Annotated[
    int, _option("N", "Concurrent tool calls of one step.", _LIMITS, min=1, max=256)
]
StepLimit = Annotated[
    int, _option("N", "Maximum of model steps of one turn.", _LIMITS, min=1, max=1000)
]
ToolTimeout = Annotated[str, _option("DURATION", "Timeout of one tool call.", _LIMITS)]
LeaseTime = Annotated[str, _option("DURATION", "How long a dead worker can block a session.")]
Tokens = Annotated[
    list[str] | None,
    _option(
        "TOKEN=PRINCIPAL",
        "A bearer token and its principal; repeatable. "
        "Without any, every client is accepted, and each token is a principal of its own.",
        envvar="HERMES_TOKENS",
    ),
]
DrainTimeout = Annotated[
    str,
    _option(
        "DURATION", "How long running turns may continue after SIGTERM; a second signal ends them."
    ),
]
DeletionCost = Annotated[
    bool,
    _option(
        None,
        "Kubernetes: keep the deletion cost of this pod at its number of turns, so that a scale-in "
        "removes the emptiest. Needs POD_NAME, POD_NAMESPACE, and the right to patch the pod.",
        envvar="HERMES_POD_DELETION_COST",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more to stderr.")]
Folder = Annotated[Path | None, _option("PATH", "Directory of the data; created if necessary.")]
