"""Choose what `flyweight train` trains, for a text, a budget and this machine.

Settings of the recipe or its user are kept. The fields of the model are chosen in
`candidates.model_fields` alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.config import load, schema
from flyweight.config.baselines import DECODER, kind_of_model
from flyweight.config.units import format_count, format_flops, format_size, format_time, size_word
from flyweight.data.document import SplitName
from flyweight.data.sources import SOURCES, source_of
from flyweight.errors import NothingFits, RequestError
from flyweight.planning import mixing
from flyweight.planning.candidates import Candidate, Setting, candidate, least_limit
from flyweight.planning.memory import beneath_all
from flyweight.planning.rate import WIDTH, Kept
from flyweight.planning.text_size import TextSize
from flyweight.planning.time import Machine
from flyweight.spec import flops

SHAPES = (
    (1, 16), (1, 32), (2, 32), (2, 48), (2, 64), (3, 64), (4, 64), (4, 96), (4, 128), (4, 192),
    (6, 256), (6, 384), (8, 512), (12, 768),
)  # fmt: skip
"""Layers and width of the models to choose from, smallest first."""

MOST_HELD_OUT = 320_000
"""Bytes of a long text that are held out for each of validation and test."""

TOKENIZER_SAMPLE = 8_000_000
"""Bytes of a long text from which the vocabulary is learned."""

LEAST_WIDTH = 64
"""Width of the smallest model that is chosen for lack of time.

Only other limits lead to narrower ones.
"""

VOCABULARIES = (4096, 2048, 1024, 512)
"""Entries of a tokenizer that is learned from the text, the largest first.

A short text is read as bytes.
"""

BYTES_PER_ENTRY = 1200
"""Bytes of text for each entry of the vocabulary that is learned from it."""

SHORT_TEXT, SMALL_TEXT = 20_000, 100_000
"""Bytes of a text that is read as bytes, and of one of which a larger part is held out."""

PROMPT_WORDS = 4


@dataclass(frozen=True)
class ChosenRecipe:
    """A complete raw recipe, and lines that say what was chosen and how to choose otherwise."""

    raw: dict[str, Any]
    lines: tuple[str, ...] = ()

    @property
    def recipe(self) -> schema.Recipe:
        """The checked recipe."""
        return load.recipe(self.raw, "train")


def suggest(raw: Mapping[str, Any], machine: Machine, data_dir: Path | None) -> ChosenRecipe:
    """Return the raw recipe, with data, model, training and report filled in where left open.

    The model is the largest that
    every limit of the budget allows and whose compute-optimal number of tokens fits the time.
    Raises RequestError with every fault of the recipe, or where no model fits the budget.
    """
    raw = copy.deepcopy(dict(raw))
    own = raw.setdefault("model", {})
    decoder = isinstance(own, dict) and kind_of_model(own) == DECODER
    unshaped = decoder and not {"layers", "dim"} & set(own)
    checked = load.recipe(
        {**raw, "model": {**own, "layers": 1, "dim": SHAPES[-1][1]}} if unshaped else raw, "train"
    )
    limit = checked.budget.memory
    if limit is not None and machine.runtime.device == "cpu" and (why := beneath_all(limit)):
        raise NothingFits(
            f"budget.memory: {format_size(limit)}, but {why}; give budget.memory more than that"
        )
    trained = (
        stage for stage in checked.stages.values() if isinstance(stage, schema.TrainingStage)
    )
    if (stage := next(trained, None)) is None:
        return ChosenRecipe(raw)
    if not isinstance(stage.data, schema.Data):
        return ChosenRecipe(raw)  # a task is learned by a model that is there
    source = source_of(stage.data, data_dir)
    text, held_out = _held_out(stage.data, TextSize.of(source))
    data = stage.data.model_copy(update=held_out)
    stage = stage.model_copy(update={"data": data})
    tokenizers = list(_tokenizers(data, source.about.tokenizer, text))
    if not isinstance(stage.model, schema.ModelConfig):
        raw["data"] = load.merge(raw.get("data"), {**held_out, "tokenizer": _plain(tokenizers[0])})
        return ChosenRecipe({**raw, "stages": mixing.alone(raw["stages"])})
    limited = stage.train.counts_steps or stage.train.time
    if not (limited or checked.budget.time or checked.budget.flops):
        raise RequestError(
            "budget.time: no limit is left; give budget.time, budget.flops, train.steps, "
            "train.tokens or train.epochs"
        )
    precision = machine.runtime.precision(stage.train.products, WIDTH)
    setting = Setting(
        text=text,
        stage=stage,
        budget=checked.budget,
        kinds=checked.report.measure,
        kinds_given="measure" in checked.report.model_fields_set,
        sample_tokens=checked.report.sample_tokens,
        mixes="network" in raw["stages"],
        machine=machine,
    )
    shapes = SHAPES if unshaped else ((stage.model.layers, stage.model.dim),)
    best = _best(setting, tokenizers, shapes)
    return ChosenRecipe(
        _written(raw, setting, best, held_out, unshaped),
        tuple(_lines(setting, best, machine.kept(precision))),
    )


def _held_out(data: schema.Data, text: TextSize) -> tuple[TextSize, dict[str, float]]:
    """Return the sizes, and the fractions held out of a text that has no splits of its own.

    They are larger for a small text.
    """
    registered = isinstance(data.corpus, str) and (
        data.corpus in SOURCES or data.corpus.startswith("hf:")
    )
    if registered or {"validation", "test"} & data.model_fields_set:
        return text, {}
    share = 0.05
    if text.whole < SMALL_TEXT:
        share = 0.1
    elif text.whole * share > MOST_HELD_OUT:
        share = round(MOST_HELD_OUT / text.whole, 5)
    parts = round(share * text.whole)
    sizes: dict[SplitName, int] = {
        "train": text.whole - 2 * parts,
        "validation": parts,
        "test": parts,
    }
    fractions = {} if share == 0.05 else {"validation": share, "test": share}
    return TextSize(sizes, text.opening), fractions


def _tokenizers(
    data: schema.Data, default: schema.Tokenizer, text: TextSize
) -> Iterator[schema.Tokenizer]:
    """Yield the tokenizers to choose from, the preferred one first.

    A vocabulary of words would be most of a small model.
    """
    if data.tokenizer is not None or default.kind not in ("bpe", "word"):
        yield data.tokenizer or default
        return
    if text.bytes["train"] >= SHORT_TEXT:
        for vocab in VOCABULARIES:
            if vocab * BYTES_PER_ENTRY <= text.bytes["train"] or vocab == VOCABULARIES[-1]:
                fields = {"vocab": vocab}
                if text.whole > TOKENIZER_SAMPLE:
                    fields["sample"] = TOKENIZER_SAMPLE
                yield schema.BpeTokenizer.model_validate(fields, context={"resolved": True})
    yield schema.ByteTokenizer()


def _best(
    setting: Setting, tokenizers: list[schema.Tokenizer], shapes: tuple[tuple[int, int], ...]
) -> Candidate:
    """Return the largest model that fits and has tokens enough.

    Its vocabulary is the largest whose embedding is at most half of the model.
    """
    smallest: Candidate | None = None
    fallback: Candidate | None = None
    for tokenizer in tokenizers:
        models = [
            model for shape in shapes if (model := candidate(setting, tokenizer, shape)) is not None
        ]
        fitting = [model for model in models if not model.faults]
        smallest = min(
            [*([smallest] if smallest else []), *models],
            key=lambda model: model.parameters,
            default=None,
        )
        if not fitting:
            continue
        sensible = [model for model in fitting if model.shape[1] >= LEAST_WIDTH] or fitting[-1:]
        best = next((model for model in reversed(sensible) if model.enough), sensible[0])
        fallback = fallback or best
        if best.balanced:
            return best
    if fallback is not None:
        return fallback
    if smallest is None:
        raise RequestError(
            "train: no model goes with these model fields; leave model.* out, or give "
            "model.layers and model.dim"
        )
    limits = " and ".join(f"budget.{name}" for name in smallest.faults)
    training = ""
    if "memory" in smallest.faults:
        training = f", and its training holds to budget.memory={size_word(least_limit(smallest))}"
    raise NothingFits(
        f"{limits}: even the smallest model does not fit ({format_count(smallest.parameters)} "
        f"parameters, {format_size(flops.weight_bytes(smallest.model))} of weights{training}); "
        f"raise the limit"
    )


def _written(
    raw: dict[str, Any],
    setting: Setting,
    best: Candidate,
    held_out: Mapping[str, float],
    unshaped: bool,
) -> dict[str, object]:
    """Return the raw recipe with the choice in it.

    The user's settings are already part of the choice.
    """
    assert isinstance(setting.stage.model, schema.ModelConfig)
    given = setting.stage.model.model_fields_set
    if unshaped:
        given = given - {"layers", "dim"}
    train = best.train.model_dump(mode="json", exclude_unset=True)
    chosen = (
        "batch",
        "accumulate",
        "optimizer",
        "time",
        "tokens",
        "flops",
        "validations",
        "validation_tokens",
    )
    kept = {name: value for name, value in train.items() if name in chosen and value is not None}
    if "time" in kept:
        kept["time"] = f"{kept['time']}s"
    if "optimizer" in kept and "optimizer" not in setting.stage.train.model_fields_set:
        kept["optimizer"] = {"kind": best.train.optimizer.kind, **kept["optimizer"]}
    data: dict[str, Any] = {"context": best.data.context, **held_out}
    assert best.data.tokenizer is not None
    data["tokenizer"] = _plain(best.data.tokenizer)
    report: dict[str, Any] = {"measure": list(best.kinds)}
    prompt = " ".join(setting.text.opening.split()[:PROMPT_WORDS])
    if prompt and not (raw.get("report") or {}).get("prompts"):
        report["prompts"] = [prompt]
    validated = setting.text.tokens("validation", best.data.tokenizer)
    stages = mixing.stages(raw["stages"], setting.budget, best.model, best.stored, validated)
    return {
        **raw,
        "stages": stages,
        "data": load.merge(raw.get("data"), data),
        "model": load.merge(
            raw["model"], {name: value for name, value in best.chosen.items() if name not in given}
        ),
        "train": load.merge(raw.get("train") or {}, kept),
        "report": load.merge(raw.get("report") or {}, report),
    }


def _plain(tokenizer: schema.Tokenizer) -> dict[str, Any]:
    plain = {"kind": tokenizer.kind, **tokenizer.model_dump(mode="json", exclude_unset=True)}
    if "sample" in plain:
        plain["sample"] = f"{plain['sample']}B"
    return plain


def _lines(setting: Setting, best: Candidate, kept: Kept) -> Iterator[str]:
    """Yield a line for each choice, with the settings that change it."""
    layers, dim = best.shape
    text = setting.text
    yield (
        f"text: {format_size(text.whole)}, of which {format_size(text.bytes['test'])} are held out "
        "for the test"
    )
    yield (
        f"model: {format_count(best.parameters)} parameters, {layers} layers of {dim} "
        "(model.layers=N model.dim=N)"
    )
    tokenizer = best.data.tokenizer
    kind = f"{best.model.vocab_size} entries"
    if isinstance(tokenizer, schema.ByteTokenizer):
        kind = "bytes"
    yield f"vocabulary: {kind} (data.tokenizer.vocab=N, data.tokenizer=byte or char)"
    yield (
        f"a step reads {best.train.batch} windows of {best.data.context} tokens (train.batch=N "
        "data.context=N)"
    )
    yield (
        f"training: about {format_count(best.tokens)} tokens, {best.passes:.2g} times through the "
        f"text, about {format_time(best.expected)} of {format_time(setting.seconds)} "
        "(budget.time=T, train.time=T, train.tokens=N)"
    )
    if "bench" in setting.kinds and "bench" not in best.kinds:
        yield "speed is not measured, as time is short (report.measure=[evaluate,bench,audit])"
    if setting.budget.rate is None:
        yield f"this machine: {kept.line()}"
    else:
        yield f"rate: {format_flops(setting.budget.rate)}/s"
