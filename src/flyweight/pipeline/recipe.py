"""Running a recipe: its stages in order of reference, each made once, then the measurements, the summary and the report."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyweight.checkpoints import load_any, tokenizer_files
from flyweight.compression import stages as compress_stages
from flyweight.config import load, schema
from flyweight.config.units import format_time
from flyweight.core import machine
from flyweight.core.files import disk_errors, reason, sha256
from flyweight.core.runtime import Precision
from flyweight.data import stages as data_stages
from flyweight.data.document import corpus_label
from flyweight.data.pack import source_fingerprint
from flyweight.data.sources import with_tokenizer
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import FlyweightError, RequestError
from flyweight.evaluation import stages as evaluate_stages
from flyweight.planning.budget import shared_time
from flyweight.reports.cards import card
from flyweight.store.artifact import PARTIAL, Artifact, Draft, Identity
from flyweight.store.budget import BudgetSpent
from flyweight.store.stage import Context, Inputs, Stage, identity_config
from flyweight.training import stages as train_stages

LIMIT_OF = {
    "tokens": "tokens",
    "flops": "flops",
    "seconds": "time",
    "total_flops": "flops",
    "total_seconds": "time",
}


@dataclass
class Made:
    """A finished stage of a recipe: its artifact, and whether it was there already."""

    name: str
    config: Any
    artifact: Artifact
    reused: bool


@dataclass
class Runner:
    """Makes stages, one at a time, each once: looks up its inputs, its corpus and its identity, then the store."""

    context: Context
    corpora: dict[str, Artifact] = field(default_factory=dict)

    def corpus(self, data: schema.Data) -> Artifact:
        """Return the packed corpus of a data config, packing it when no run has done so."""
        data = with_tokenizer(data, self.context.data_dir)
        packing = _packing(data)
        key = packing.model_dump_json()
        if key not in self.corpora:
            self.context.watch("stage", {"name": corpus_label(data.corpus), "stage": "corpus"})
            identity = Identity(
                stage="corpus",
                version=data_stages.STAGES["corpus"].version,
                config=_packing_identity(packing),
                data=source_fingerprint(data, self.context.data_dir),
                tokenizer=_tokenizer_file(data),
            )
            self.corpora[key] = self._obtain(
                data_stages.STAGES["corpus"], data, Inputs(corpus_label(data.corpus)), identity
            )[0]
        return self.corpora[key]

    def know(self, data: schema.Data, packed: Artifact) -> None:
        """Remember the packed corpus of a data config that was found in another way."""
        self.corpora[_packing(data).model_dump_json()] = packed

    def make(self, name: str, config: Any, artifacts: Mapping[str, Artifact]) -> Made:
        """Return the stage's artifact, made now or found."""
        stage = STAGES[config.stage]
        corpus = self._corpus_of(config, artifacts)
        inputs = Inputs(name, artifacts, corpus)
        config = self._resolved(config, corpus)
        runtime = self.context.runtime
        precision: Precision = "fp32"
        if stage.trains:
            precision = runtime.precision(config.train.precision, _width(config, inputs))
            config = config.model_copy(
                update={"train": config.train.model_copy(update={"precision": precision})}
            )
        parents = {role: artifact.id for role, artifact in artifacts.items()}
        identity = Identity(
            stage=config.stage,
            version=stage.version,
            config=identity_config(config),
            parents={**parents, **({"corpus": corpus.id} if corpus else {})},
            data=corpus.identity["data"] if corpus else None,
            tokenizer=corpus.manifest["files"]["corpus/tokenizer.json"]["sha256"]
            if corpus
            else None,
            seed=runtime.seed,
            threads=runtime.threads,
            dtype=precision,
            device=runtime.device,
            machine=machine.processor() if stage.measures else None,
            libraries=machine.libraries() if stage.measures else None,
        )
        self.context.watch("stage", {"name": name, "stage": config.stage, "id": identity.id})
        artifact, reused = self._obtain(stage, config, inputs, identity)
        self.context.watch(
            "made",
            {"name": name, "id": artifact.id, "reused": reused, "seconds": artifact.facts["took"]},
        )
        return Made(name, config, artifact, reused)

    def _obtain(
        self, stage: Stage, config: Any, inputs: Inputs, identity: Identity
    ) -> tuple[Artifact, bool]:
        context = self.context

        def work(draft: Draft) -> dict[str, Any]:
            if stage.trains:
                context.meter.observe(inputs.name, ends_itself=config.train.time is not None)
            else:
                context.meter.note()
            began = time.monotonic()
            facts = stage.run(config, inputs, context, draft)
            took = (
                facts["seconds"] if stage.trains else time.monotonic() - began
            )  # a resumed training knows its earlier parts
            facts = {**facts, "took": round(took, 3)}
            corpora = {
                artifact.facts["corpus"]
                for artifact in inputs.artifacts.values()
                if "corpus" in artifact.facts
            }
            known = (
                inputs.corpus.id
                if inputs.corpus
                else next(iter(corpora))
                if len(corpora) == 1
                else None
            )
            facts = {**facts, **({"corpus": known} if known else {})}
            card.write(
                draft,
                facts,
                {**inputs.artifacts, **({"corpus": inputs.corpus} if inputs.corpus else {})},
            )
            return facts

        context.note(identity)
        artifact, reused = context.store.obtain(identity, work, context.command, context.watch)
        if reused:
            context.meter.seconds_before += artifact.facts["took"]
        elif context.meter.late_now():
            context.watch(
                "late",
                {"name": inputs.name, "limit": format_time(context.meter.limits.time or 0.0)},
            )
        if stage.trains:
            context.meter.flops += artifact.facts["flops"]
        return artifact, reused

    def _corpus_of(self, config: Any, artifacts: Mapping[str, Artifact]) -> Artifact | None:
        """Return the corpus that a stage names, or the one its input was trained on."""
        data = getattr(config, "data", None)
        if data is not None:
            return self.corpus(data)
        if config.stage not in ("evaluate", "audit", "mix"):
            return None
        model = artifacts["input"]
        name = model.facts.get("corpus")
        if name is not None and (path := model.path.parent / name).exists():
            return Artifact.open(path)
        if config.stage != "audit":
            gone = (
                "came without a corpus"
                if name is None
                else f"was trained on {name}, which is not in {model.path.parent}"
            )
            raise RequestError(f"{model.id} {gone}; name a text with --data")
        return None

    def _resolved(self, config: Any, corpus: Artifact | None) -> Any:
        """Write out what a model config takes from the corpus: vocabulary and context."""
        if getattr(config, "model", None) is None or corpus is None:
            return config
        model = load.resolved(
            config.model, "stages: model", corpus.facts["vocab_size"], config.data.context
        )
        if (model.vocab_size or 0) < corpus.facts["vocab_size"]:
            raise RequestError(
                f"model.vocab_size: {model.vocab_size}, but the tokenizer of "
                f"{corpus_label(config.data.corpus)} has"
                f" {corpus.facts['vocab_size']} entries; leave vocab_size out and it follows the "
                f"tokenizer"
            )
        return config.model_copy(update={"model": model})


def _width(config: schema.Pretrain | schema.Distill, inputs: Inputs) -> int:
    """Return the width of the model that a stage trains: a new one, or that of its input."""
    if config.model is not None:
        return config.model.dim
    return load_any.trainable_config(inputs.model("input"), f"stages.{inputs.name}.input").dim


def _tokenizer_file(data: schema.Data) -> str | None:
    """Return the checksum of a tokenizer that is a file, whose path alone would not tell when its content changes."""
    if not isinstance(data.tokenizer, schema.FileTokenizer):
        return None
    path = Path(data.tokenizer.path).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.exists() and not file.is_file():
            raise RequestError(
                f"data.tokenizer.path: {file} is no file; name a tokenizer.json or a folder that "
                f"has one"
            )
        content = sha256(file)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"data.tokenizer.path: {file} cannot be read ({reason(error)})"
        ) from error
    if path.is_dir():
        try:
            tokenizer_files.check_folder(path)
        except FlyweightError as error:
            raise RequestError(f"data.tokenizer.path: {error}") from error
    return Tokenizer.load(file).identity(content)


def _packing(data: schema.Data) -> schema.Data:
    """Return what packing depends on: windows are cut from the shards later."""
    return data.packed()


def _packing_identity(packing: schema.Data) -> dict[str, Any]:
    """Return what a corpus' id tells of its config.

    A field of later days only where it is set, so that ids stay.
    """
    later = {"column"} if packing.column is None else set()
    return packing.model_dump(mode="json", exclude={"context", *later})


@dataclass
class Finished:
    """A finished recipe: its stages and their measurements.

    `stopped` says why the stages that are missing were not made.
    """

    recipe: schema.Recipe
    stages: dict[str, Made]
    measured: dict[str, dict[str, Made]]
    floors: dict[str, Made]
    seconds: float
    stopped: BudgetSpent | None = None

    def __getitem__(self, name: str) -> Artifact:
        """Return the artifact of a stage."""
        if name not in self.stages:
            raise RequestError(
                f"{self.recipe.name} has no stage {name!r}{load.nearest(name, self.stages)}"
            )
        return self.stages[name].artifact


def run(recipe: schema.Recipe, runner: Runner, resolve: Any) -> Finished:
    """Make every stage, measure what the report compares, and return the result.

    `resolve` finds MODELs outside the recipe.

    Where a limit of the budget ends a training, what is finished by then is measured. Raises
    BudgetSpent where that is no compared model at all.
    """
    context = runner.context
    asked, recipe = recipe, shared_time(recipe)
    context.meter.shared = context.meter.shared or recipe is not asked
    stages: dict[str, Made] = {}
    stopped = None
    for name in load.order(recipe):
        try:
            _stage(recipe, name, runner, stages, resolve)
        except BudgetSpent as spent:
            stopped = spent
            break
    compared = recipe.report.compare or tuple(
        name for name, made in stages.items() if (made.artifact.path / "model").is_dir()
    )
    finished = [name for name in compared if name in stages]
    if stopped is not None and not finished:
        raise stopped
    measured = {name: _measure(runner, recipe, stages[name]) for name in finished}
    floors = _floors(runner, measured)
    return Finished(recipe, stages, measured, floors, context.meter.seconds(), stopped)


def _stage(
    recipe: schema.Recipe, name: str, runner: Runner, stages: dict[str, Made], resolve: Any
) -> None:
    """Make one stage of a recipe and put it among `stages`, where those that it refers to are already."""
    meter = runner.context.meter
    config = _limited(recipe.stages[name], stages)
    references = {
        role: ref
        for role, ref in load.dependencies(config).items()
        if role != "train.same_as.stage"
    }
    artifacts = {
        role: stages[ref].artifact if ref in stages else resolve(ref, f"stages.{name}.{role}")
        for role, ref in references.items()
    }
    if meter.limits.time is not None and meter.limits.over == "stop":
        order = load.order(recipe)
        later = [recipe.stages[other] for other in order[order.index(name) + 1 :]]
        planned = sum(
            stage.train.time or 0.0
            for stage in later
            if isinstance(stage, schema.Pretrain | schema.Distill)
        )
        meter.training_ends = meter.limits.time - meter.after - planned
    stages[name] = runner.make(name, config, artifacts)


def check_inputs(recipe: schema.Recipe, resolve: Any) -> None:
    """Raise RequestError for a model outside the recipe that a stage would train further and that cannot be trained."""
    for name, stage in recipe.stages.items():
        if (
            isinstance(stage, schema.Pretrain)
            and stage.input is not None
            and stage.input not in recipe.stages
        ):
            where = f"stages.{name}.input"
            inputs = Inputs(name, {"input": resolve(stage.input, where)})
            load_any.trainable_config(inputs.model("input"), where)


def _limited(config: Any, stages: Mapping[str, Made]) -> Any:
    """Turn `same_as` into the limit it stands for, from what the other stage really spent."""
    train = getattr(config, "train", None)
    if train is None or train.same_as is None:
        return config
    facts = stages[train.same_as.stage].artifact.facts
    key = LIMIT_OF[train.same_as.of]
    spent = facts[train.same_as.of]
    return config.model_copy(
        update={"train": train.model_copy(update={key: spent if key == "time" else round(spent)})}
    )


def _measure(runner: Runner, recipe: schema.Recipe, made: Made) -> dict[str, Made]:
    """Measure one compared model in every way that the report asks for."""
    wanted: dict[str, Any] = {}
    data = {} if recipe.report.data is None else {"data": recipe.report.data}
    for kind in recipe.report.measure:
        wanted[kind] = MEASUREMENTS[kind](
            stage=kind, input=made.name, **({} if kind == "bench" else data)
        )
    if recipe.report.prompts:
        new = recipe.report.sample_tokens
        wanted["sample"] = schema.Sample(
            stage="sample", input=made.name, prompts=recipe.report.prompts, new_tokens=new
        )
    return {
        kind: runner.make(made.name, config, {"input": made.artifact})
        for kind, config in wanted.items()
    }


def _floors(runner: Runner, measured: Mapping[str, Mapping[str, Made]]) -> dict[str, Made]:
    """Return the n-gram floors of every corpus that a compared model was evaluated on, by the corpus' id."""
    found: dict[str, Made] = {}
    for evaluation in (
        results["evaluate"].artifact for results in measured.values() if "evaluate" in results
    ):
        name = evaluation.facts["corpus"]
        if name not in found:
            packed = Artifact.open(runner.context.store.root / name)
            config = {**packed.identity["config"], "context": evaluation.metrics()["window"]}
            data = schema.Data.model_validate(config, context={"resolved": True})
            runner.know(data, packed)
            found[name] = runner.make("floors", schema.Floors(stage="floors", data=data), {})
    return found


def link(folder: Path, stages: Mapping[str, Made]) -> None:
    """Make `<runs>/<recipe>/<stage>` point to the stage's artifact."""
    with disk_errors(folder):
        for name, made in stages.items():
            fresh = folder / f".{name}{PARTIAL}"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(Path("..") / made.artifact.path.name, target_is_directory=True)
            os.replace(fresh, folder / name)


MEASUREMENTS = {"evaluate": schema.Evaluate, "bench": schema.Bench, "audit": schema.Audit}

STAGES: dict[str, Stage] = {
    **train_stages.STAGES,
    **compress_stages.STAGES,
    **evaluate_stages.STAGES,
}
