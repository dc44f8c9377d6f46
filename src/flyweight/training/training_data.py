"""What a training reads: windows of a text or examples of a task, and how both are validated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from flyweight.config import schema
from flyweight.core.events import Events
from flyweight.core.runtime import Precision, Runtime
from flyweight.data.batch import BatchSource
from flyweight.data.corpus import Corpus
from flyweight.data.noise import NoisyInputs
from flyweight.data.shards import Tokens
from flyweight.data.streams.windows import StreamWindows
from flyweight.data.tasks.batches import ExampleBatches
from flyweight.data.tasks.folder import ExampleFolder
from flyweight.data.told import Told, ToldWindows
from flyweight.data.windows import Windows
from flyweight.evaluation import likelihood
from flyweight.model.build import Model
from flyweight.model.precision import autocast
from flyweight.store.stage import Context, Inputs
from flyweight.training.objectives import NextTokenObjective
from flyweight.training.streaming import check_tokens, stream_facts, stream_windows


@dataclass(frozen=True)
class TrainingData:
    """The batches of a training and its validation.

    `epoch` is the number of rows that one epoch reads, where that is known, and `text` the tokens
    that are learned, one after another, or a sample of them. `stream` reads a text on the way.
    `validate` returns the mean NLL in nats per
    target on so many inputs of the validation split, so many
    rows at a time. `facts` tells what so many rows of a training were. `check(rows, where)` raises
    RequestError where there are not so many.
    """

    source: BatchSource
    text: Tokens
    epoch: int | None
    validate: Callable[[int, int], float]
    facts: Callable[[int], dict[str, Any]]
    check: Callable[[int, str], None] = lambda rows, where: None
    stream: StreamWindows | None = None


def training_data(
    config: schema.TrainingStage,
    model: Model,
    inputs: Inputs,
    context: Context,
    precision: Precision,
    events: Events,
) -> TrainingData:
    """Return what a stage trains `model` on; raise RequestError where there is too little of it.

    `events` hears what happens to the shards of a stream.
    """
    runtime = context.runtime
    if isinstance(config.data, schema.TaskData):
        data = _examples(config.data, config.train, model, inputs, runtime, precision)
    else:
        data = _windows(config.data, config.train, model, inputs, runtime, precision)
        data = _streamed(data, config.data, config.train, inputs, context, events)
    if isinstance(config, schema.Distill) and config.told is not None:
        data = _told(data, inputs)
    return _noisy(data, config.train, runtime.seed)


def _noisy(data: TrainingData, train: schema.Train, seed: int) -> TrainingData:
    """Return data whose inputs are noisy, where that is asked for."""
    if not train.input_noise:
        return data
    noisy = NoisyInputs(data.source, data.text, train.input_noise, train.batch, seed)
    return replace(data, source=noisy)


def _streamed(
    packed: TrainingData,
    data: schema.Data,
    train: schema.Train,
    inputs: Inputs,
    context: Context,
    events: Events,
) -> TrainingData:
    """Return the windows of a stream, where there is one, validated on what was packed of it."""
    if data.stream is None:
        return packed
    assert inputs.corpus is not None
    stream, known = data.stream, inputs.corpus.facts["stream"]
    corpus = Corpus.open(inputs.text(), verify=False)
    windows = stream_windows(stream, data, train.batch, inputs.corpus, context, events)

    def facts(rows: int) -> dict[str, Any]:
        return packed.facts(rows) | stream_facts(windows.place(rows // train.batch), windows.waited)

    return replace(
        packed,
        source=windows,
        stream=windows,
        epoch=None,
        facts=facts,
        check=lambda rows, where: check_tokens(stream, known, corpus, rows * data.context, where),
    )


def _told(data: TrainingData, inputs: Inputs) -> TrainingData:
    """Return the windows of a text with what a teacher told of them."""
    windows, told = data.source, Told(inputs.artifacts["told"].path / "told")
    assert isinstance(windows, Windows) and inputs.corpus is not None
    corpus = inputs.corpus.id
    return replace(
        data,
        source=ToldWindows(windows, told),
        check=lambda rows, where: told.check(windows, corpus, rows, f"{where}.told"),
    )


def _windows(
    data: schema.Data,
    train: schema.Train,
    model: Model,
    inputs: Inputs,
    runtime: Runtime,
    precision: Precision,
) -> TrainingData:
    # Opening the artifact has just compared every checksum.
    corpus = Corpus.open(inputs.text(), verify=False)
    documents = data.documents
    text = corpus.split("train")
    windows = Windows(text, data.context, train.batch, runtime.seed, documents)

    def validate(tokens: int, rows: int) -> float:
        return likelihood.quick(
            model,
            corpus.split("validation"),
            window=data.context,
            tokens=tokens,
            batch=rows,
            device=runtime.device,
            precision=precision,
            isolated=documents == "isolated",
        )

    def facts(_: int) -> dict[str, Any]:
        return {"documents": documents} if documents == "isolated" else {}

    return TrainingData(windows, text.tokens, windows.windows, validate, facts)


def _examples(
    data: schema.TaskData,
    train: schema.Train,
    model: Model,
    inputs: Inputs,
    runtime: Runtime,
    precision: Precision,
) -> TrainingData:
    folder = ExampleFolder.open(inputs.encoded())
    learned = folder.split("train")
    source = ExampleBatches(
        learned,
        data.context,
        train.batch,
        runtime.seed,
        data.packing,
        train.loss or "completion",
    )
    # One order whatever the seed: all trainings of a task are validated on the same examples.
    held_out = ExampleBatches(
        folder.split("validation"), data.context, train.batch, 0, data.packing
    )

    def validate(tokens: int, rows: int) -> float:
        return completion_nll(
            model, held_out, tokens, rows, inputs.vocabulary(), runtime, precision
        )

    def facts(rows: int) -> dict[str, Any]:
        return {
            "task": folder.meta.task,
            "examples": source.examples_in(rows),
            "epochs": round(rows / source.rows, 4),
            "documents": data.documents,
            "remarks": list(folder.meta.remarks()),
        }

    return TrainingData(source, Tokens([learned.tokens]), source.rows, validate, facts)


@torch.no_grad()
def completion_nll(
    model: Model,
    source: ExampleBatches,
    tokens: int,
    rows: int,
    vocabulary: int,
    runtime: Runtime,
    precision: Precision,
) -> float:
    """Return the mean NLL of completions, in nats per token, on so many inputs of their rows.

    The number is limited by inputs, prompts and padding among them, because they are what takes
    time. Batches have `rows` rows. The model is left in evaluation mode.
    """
    objective = NextTokenObjective(schema.NextToken(), vocabulary)
    model.eval()
    total, targets = 0.0, 0
    for batch in source.first(tokens, rows):
        with autocast(runtime.device, precision):
            summed = objective(model, batch.to(runtime.device))
        total += float(summed.nll)
        targets += batch.real_targets
    return total / targets
