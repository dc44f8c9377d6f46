"""A model made smaller or faster within one limit, by the best of the ways that exist.

Part of `flyweight.api`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flyweight.api import model_references
from flyweight.api.measurements import Model, data_for
from flyweight.api.one_stage import free_name, reference_to
from flyweight.api.results import Run
from flyweight.api.runs import plain_name, registry_entry, run_checked
from flyweight.api.session import DEFAULT, Session, uses_runs_root
from flyweight.checkpoints import load_any
from flyweight.compression.calibration import check_length
from flyweight.compression.choice import choose, choose_plain, front
from flyweight.compression.ways import Recovery, Way, ways
from flyweight.config import load as config_load, schema
from flyweight.config.limits import Limit, share_of
from flyweight.core.events import Watcher
from flyweight.core.files import digest
from flyweight.data.corpus import Meta
from flyweight.data.document import SplitName
from flyweight.errors import RequestError
from flyweight.pipeline.compress import Search, check_bytes, original_tokens
from flyweight.pipeline.runner import Runner
from flyweight.planning.tuning import default_training
from flyweight.records.compression import Compression, Tried
from flyweight.records.run_summary import ModelSummary
from flyweight.records.verification import Verification
from flyweight.spec import flops
from flyweight.spec.linears import kind_of, linear_names
from flyweight.store.artifact import Artifact

MOST_UNKNOWN = 0.2
"""The largest share of a split's tokens that the model's tokenizer may not know.

Published texts have up to 5 % of `<unk>` written in them.
"""

LEAST_STEPS = 20
"""Updates that a recovery has where its tokens suffice: smaller batches make more of them."""

STEPS_TAUGHT, SLOWER_TAUGHT = 80, 0.3
"""Updates of a model that only learns to be rounded, and its learning rate as a share of the usual.

It is where it has to be but for the rounding. At the usual rate stories260k lost 13 % instead of
10 % (docs/log.md).
"""


@dataclass(frozen=True, repr=False)
class Compressed:
    """A finished compression: `model` is the chosen artifact, `record` has all tries.

    `run` is the recipe that makes all of them, with the report of the chosen one.
    """

    record: Compression
    run: Run

    @property
    def model(self) -> Artifact:
        """The model that was chosen."""
        return self.run[self.record.chosen]

    def __repr__(self) -> str:
        return f"<Compressed {self.record.chosen}: {self.run.report}>"

    def json(self) -> dict[str, Any]:
        """Return the record as plain data, with the run's name and report."""
        place = {"name": self.run.summary.name, "report": str(self.run.report)}
        return {**place, **self.record.model_dump(mode="json")}


@uses_runs_root
def compress(
    model: Model,
    bytes: str | int | None = None,
    speed: str | float | None = None,
    loss: str | float | None = None,
    recover: str | float = "10%",
    data: str | Path | None = None,
    separator: str | None = None,
    name: str | None = None,
    session: Session = DEFAULT,
) -> Compressed:
    """Return the best model within one limit: `bytes="40MB"`, `speed="2x"` or `loss="1%"`.

    Tried are quantization (nearest and GPTQ), fewer heads and channels, zeros that are packed, and
    combinations. Validation text chooses: the fewest bits per byte or, within a `loss` of them, the
    fewest bytes. Test text reports on the chosen way, and on what plain quantization would have
    given. `bytes` are those of the weights, `speed` is that of generation, one token at a time, as
    a multiple of the model's own here.

    A model of which parts were removed is trained further on `recover` of its original tokens, or
    not at all with 0. `data` is the text for a model that came without its own, `separator` what
    stands between its documents. `name` is the run's. What is finished is found again. Raises
    RequestError before long work for a request that is wrong, and for limits that no way can meet,
    with the nearest. Raises FlyweightError, with the nearest, where every way loses too much.
    """
    limit, share = Limit.of(bytes, speed, loss), share_of(recover, "--recover")
    artifact = model_references.find(model, session.store, watch=session.watch)
    config = _dense_decoder(artifact)
    reference = reference_to(model, artifact)
    _check_recipe(name, reference)
    check_bytes(config, reference, limit)
    named = None
    if data is not None:
        documents = "joined" if separator is None else "isolated"
        fields = data_for(artifact, str(data), separator)
        named = schema.Data.model_validate({**fields, "documents": documents})
    elif separator is not None:
        raise RequestError("--separator is of a text that --data names, and none is named")
    asked = _Asked(limit, share, artifact, reference, config, named)
    work = asked.request(session.seed)
    called = name or free_name(f"compress-{asked.called}", session, lambda _: work)
    context = session.context(seed=session.seed)
    with registry_entry(called, work, context) as unfinished:
        runner = Runner(replace(context, note=unfinished.note))
        return _compressed(asked, runner, replace(session, watch=context.watch), called)


def _check_recipe(name: str | None, reference: str) -> None:
    """Raise RequestError where a run cannot have this name, before anything is tried."""
    plain = {"stage": "quantize", "input": reference, "kind": "int8"}
    config_load.recipe({"name": name or "compress", "stages": {"way": plain}}, "compress")


@dataclass(frozen=True)
class _Asked:
    """A checked request: `reference` names the model in recipes, `data` is a text of its own."""

    limit: Limit
    share: float
    artifact: Artifact
    reference: str
    config: schema.ModelConfig
    data: schema.Data | None

    @property
    def called(self) -> str:
        """The model's name, as it can be part of a run's."""
        return plain_name(Path(self.reference).name)

    def request(self, seed: int) -> str:
        """Return a digest of the request: it differs between requests."""
        text = None if self.data is None else self.data.model_dump(mode="json")
        fields = {"limit": asdict(self.limit), "recover": self.share, "data": text}
        return digest({"compress": self.artifact.id, **fields, "seed": seed})[:8]


def _compressed(asked: _Asked, runner: Runner, session: Session, name: str) -> Compressed:
    """Search and report; raise the errors of `compress`."""
    artifact, config, limit = asked.artifact, asked.config, asked.limit
    search = Search(runner, artifact, asked.reference, config, limit, asked.data)
    text = _text(asked, runner)
    left_out = list[str]()
    calibration = _calibration(text, config, left_out)
    recovery = _recovery(asked, text, left_out)
    for line in left_out:
        session.watch("left out", {"name": artifact.id, "why": line})
    found = ways(config, asked.reference, calibration, recovery)
    if calibration is not None:
        found += search.mixed(text.packed, calibration, recovery)
    worth = _with_a_plain_one(search.worth(found), found)
    base = search.validation(artifact, asked.called)
    tried = list(search.tries(worth, base.value))
    chosen = choose(tried, limit, base.value)
    plain, fits = choose_plain(tried, limit, chosen, base.value)
    run = _reported(search, (chosen, plain), name, asked, session)
    summary = {each.name: each for each in run.summary.models}
    took = {part.artifact.id: part.artifact.facts["took"] for part in search.made.values()}
    audit = summary[chosen.name].audit
    record = Compression(
        model=artifact.id,
        limit=limit.kind,
        value=limit.value,
        bytes=flops.weight_bytes(config),
        bits_per_byte=base,
        chosen=chosen.name,
        plain=plain.name,
        plain_fits=fits,
        tried=tuple(tried),
        front=front(tried),
        test={
            each: scores.bits_per_byte
            for each in dict.fromkeys((chosen.name, plain.name))
            if (scores := summary[each].evaluate) is not None
        },
        audit_passed=audit is not None and audit.passed,
        verification=_exports(summary[chosen.name]),
        seconds=round(sum(took.values()), 3),
        tokens=search.tokens(),
        left_out=tuple(left_out),
    )
    return Compressed(record, run)


def _exports(model: ModelSummary) -> Verification:
    """Return how a model's exports agree with it.

    The model before it is left out: what was lost is what the limit and the bits per byte are for.
    """
    assert model.verification is not None
    return Verification.of(
        [each for each in model.verification.exports if each.loss != "quantized"]
    )


def _dense_decoder(artifact: Artifact) -> schema.ModelConfig:
    """Return the config of a decoder of dense matrices; raise RequestError for other models."""
    folder = artifact.path / "model"
    if not folder.is_dir():
        raise RequestError(f"compress: {artifact.id} holds no model")
    config = load_any.own_config(folder, "compress")
    if not isinstance(config, schema.ModelConfig):
        raise RequestError(
            f"compress: this is a baseline (kind: {config.kind}), and ways are for decoders; use "
            f"flyweight quantize"
        )
    if config.adapters:
        raise RequestError(
            "compress: the model has adapters; merge them first (flyweight merge), and compress "
            "the result"
        )
    kinds = (kind_of(config, name) for name in linear_names(config))
    packed = next((kind.label for kind in kinds if not kind.plain), None)
    if packed is not None:
        raise RequestError(
            f"compress: its matrices are stored as {packed} already; start from the dense model "
            f"that it was made from"
        )
    return config


@dataclass(frozen=True)
class _Text:
    """The text of a compression: `data` where one was named, `read` with all fields, its size."""

    data: schema.Data | None
    read: schema.Data
    packed: Artifact

    @property
    def tokens(self) -> int:
        """Tokens of the training split."""
        return _tokens(self.packed, "train")


def _text(asked: _Asked, runner: Runner) -> _Text:
    """Return the named text or that of the model's training.

    Raises RequestError for neither, and for one that is too short to choose on.
    """
    artifact, window = asked.artifact, load_any.window(asked.config)
    if asked.data is not None:
        packed = runner.corpus(asked.data, artifact)
        _check_text(packed, window)
        return _Text(asked.data, asked.data, packed)
    folder = artifact.path.parent / str(artifact.facts.get("corpus"))
    if not (folder / "manifest.json").is_file():
        raise RequestError(
            f"compress: {artifact.id} has no text here to choose on; name one with --data"
        )
    packed = Artifact.open(folder)
    _check_text(packed, window)
    fields = {**packed.identity["config"], "context": window}
    own = schema.Data.model_validate(fields, context={"resolved": True})
    runner.register_corpus(own, packed)
    return _Text(None, own, packed)


def _check_text(packed: Artifact, window: int) -> None:
    """Raise RequestError for a text of another vocabulary, or too short to choose and report on."""
    splits = Meta.load(packed.path / "corpus" / "meta.json").splits
    uses: dict[SplitName, str] = {"train": "calibrate", "validation": "choose", "test": "report"}
    for split, use in uses.items():
        tokens, unknown = splits[split].tokens, splits[split].unknown
        if tokens and unknown / tokens > MOST_UNKNOWN:
            raise RequestError(
                f"compress: the model's tokenizer does not know {unknown / tokens:.0%} of the "
                f"{split} split's tokens, so this is not a text to {use} on; name another with "
                f"--data"
            )
        if split != "train" and tokens <= window + 1:
            raise RequestError(
                f"compress: the {split} split has {tokens:,} tokens, and to {use} takes two "
                f"windows of {window:,}; name a longer text with --data"
            )


def _tokens(corpus: Artifact, split: SplitName) -> int:
    return Meta.load(corpus.path / "corpus" / "meta.json").splits[split].tokens


def _calibration(
    text: _Text, config: schema.ModelConfig, left_out: list[str]
) -> schema.Calibration | None:
    """Return the text that weighs changes; None where the training split is too short for one."""
    usual = schema.Calibration().tokens
    tokens = max(1, min(usual, text.tokens // 2))
    calibration = schema.Calibration(tokens=tokens, data=text.data)
    try:
        check_length(calibration, config, text.tokens)
    except RequestError:
        left_out.append(
            f"GPTQ: the training split has {text.tokens:,} tokens, too few for two windows"
        )
        return None
    return calibration


def _recovery(asked: _Asked, text: _Text, left_out: list[str]) -> Recovery | None:
    """Return the training that follows the removal of parts; None for one of no tokens."""
    if asked.share == 0:
        return None
    original = original_tokens(asked.artifact)
    if original is None:
        left_out.append(
            "nobody knows here how many tokens the model was trained on: the share to recover is "
            "of the text's training split"
        )
    window = text.read.context
    tokens = round(asked.share * (text.tokens if original is None else original))
    if tokens < window or text.tokens <= window:
        left_out.append(
            f"recovery: {tokens:,} tokens of {text.tokens:,} are less than one row of {window:,}"
        )
        return None
    rows = tokens // window

    def training(steps: int, slower: float = 1.0) -> schema.Train:
        usual = default_training("full", asked.config, task=False)
        fields = {key: value for key, value in usual.items() if key not in ("epochs", "time")}
        fields["optimizer"]["lr"] *= slower
        batch = min(16, max(1, rows // steps))
        return schema.Train.model_validate({**fields, "tokens": tokens, "batch": batch})

    return Recovery(text.read, training(LEAST_STEPS), training(STEPS_TAUGHT, SLOWER_TAUGHT))


def _with_a_plain_one(worth: list[Way], found: list[Way]) -> list[Way]:
    """Return the ways with the smallest plain one in front, where none of them is plain."""
    if any(way.plain for way in worth):
        return worth
    plain = (way for way in found if way.plain)
    return [min(plain, key=lambda way: way.bytes), *worth]


def _reported(
    search: Search,
    compared: tuple[Tried, Tried],
    name: str,
    asked: _Asked,
    session: Session,
) -> Run:
    """Run the recipe of all tries, which are there already: it tests the two that are compared."""
    recipe = schema.Recipe(
        name=name,
        seed=session.seed,
        stages=search.stages,
        report=schema.Report(
            compare=tuple(dict.fromkeys(one.name for one in compared)),
            data=asked.data,
            measure=("evaluate", "bench", "audit", "verify"),
        ),
    )
    quiet = replace(session, watch=_without(search.stages, session.watch))
    return run_checked(recipe, quiet, request=asked.request(session.seed))


def _without(stages: Mapping[str, schema.StageConfig], watch: Watcher) -> Watcher:
    """Return a watcher that is not told of stages again, nor that all of them were there."""

    def told(kind: str, fields: dict[str, Any]) -> None:
        again = kind == "all kept" or (kind == "made" and fields["reused"])
        known = stages.get(fields.get("name", ""))
        if kind == "stage" and known is not None:
            again = fields["stage"] == known.stage
        if not again:
            watch(kind, fields)

    return told
