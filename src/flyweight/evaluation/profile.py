"""Which operators a generation calls, and what they take, seen in a fresh process."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from flyweight.config import schema
from flyweight.config.speed import AttentionName, EngineName, PrecisionName
from flyweight.evaluation.bench import ask_worker, check_precision, half_of_context
from flyweight.records.profile import ProfileResult

TRACE = "trace.json.gz"
TRACED_TOKENS = 4
"""New tokens of the trace: a whole one would have a megabyte a token for large models."""

TIMEOUT = 900.0
WORKER = "flyweight.evaluation.profile_worker"


@dataclass(frozen=True)
class ProfileRequest:
    """What the worker is asked to do: one JSON object on its standard input.

    `trace` is the file that a trace of the prompt and its first new tokens is written to.
    """

    folder: str
    prompt: int
    new_tokens: int
    device: str
    precision: PrecisionName
    attention: AttentionName
    engine: EngineName
    threads: int | None
    trace: str


def profile(
    folder: Path, config: schema.Profile, device: str, threads: int | None, trace: Path
) -> ProfileResult:
    """Profile the model in `folder` in a child process, and write the trace.

    Raises RequestError where the child refuses the request, as `bench` does, and FlyweightError
    where it fails or takes too long.
    """
    check_precision(config.precision, device)
    asked = ProfileRequest(
        folder=str(folder),
        prompt=config.prompt or half_of_context(folder),
        new_tokens=config.new_tokens,
        device=device,
        precision=config.precision,
        attention=config.attention,
        engine=config.engine,
        threads=threads,
        trace=str(trace),
    )
    answer = ask_worker(
        WORKER,
        asdict(asked),
        what=f"profile of {folder}",
        advice="ask for fewer tokens",
        timeout=TIMEOUT,
    )
    return ProfileResult.from_metrics(answer)
