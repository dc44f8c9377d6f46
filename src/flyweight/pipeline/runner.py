"""Making stages, each once: their inputs, texts and identities."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flyweight.config import load, schema
from flyweight.config.schema import StageConfig, Strict
from flyweight.config.stage import sources_of_tokens
from flyweight.config.units import format_size, format_time
from flyweight.core import allocator, machine
from flyweight.core.files import digest
from flyweight.core.runtime import Precision
from flyweight.data import stages as data_stages
from flyweight.data.pack import source_fingerprint
from flyweight.data.sources import with_tokenizer
from flyweight.data.tasks.folder import examples_fingerprint, read_splits
from flyweight.decode import chat_template
from flyweight.errors import RequestError
from flyweight.pipeline.texts import (
    model_tokenizer,
    own_tokenizer,
    packing,
    packing_identity,
    recut,
    same_text,
    tokenizer_file,
)
from flyweight.planning.stages import stage_of
from flyweight.reports.cards import card
from flyweight.store.artifact import Artifact, Draft, Identity
from flyweight.store.stage import Context, Inputs, Stage, drops, identity_config
from flyweight.training.finetune import tunable_config
from flyweight.training.model_training import check_data

ROW_MASKS = 1
"""What dropout by row adds to a stage's version: it drew other masks before, without it nothing
changed."""


@dataclass
class StageResult:
    """A finished stage of a recipe: its artifact, and whether it was there already."""

    name: str
    config: StageConfig
    artifact: Artifact
    reused: bool
    inputs: Mapping[str, Artifact] = field(default_factory=dict[str, Artifact])


@dataclass
class Runner:
    """Makes stages, each once: finds its inputs, corpus and identity, then asks the store."""

    context: Context
    corpora: dict[str, Artifact] = field(default_factory=dict)
    encoded: dict[str, Artifact] = field(default_factory=dict)

    def corpus(self, data: schema.Data, model: Artifact | None = None) -> Artifact:
        """Return the packed corpus of a data config, packing it when no run has done so.

        `model` is what a tokenizer of kind `model` is taken from.
        """
        data = with_tokenizer(data, self.context.data_dir)
        key = packing(data).model_dump_json()
        if key in self.corpora:
            return self.corpora[key]
        read = data
        if isinstance(data.tokenizer, schema.ModelTokenizer):
            data, read = own_tokenizer(data, model)
            key = packing(data).model_dump_json()
        if key not in self.corpora:
            self.corpora[key] = self._packed(data, read, model)
        return self.corpora[key]

    def _packed(self, data: schema.Data, read: schema.Data, model: Artifact | None) -> Artifact:
        """Return a packed corpus, made now or found.

        `read` is `data` with a tokenizer that can be read. A text that the model was trained on is
        packed with its tokenizer already.
        """
        name = data.label
        stage = data_stages.STAGES["corpus"]
        identity = Identity(
            stage="corpus",
            version=stage.version,
            config=packing_identity(packing(data)),
            data=source_fingerprint(data, self.context.data_dir),
            tokenizer=tokenizer_file(read, self.context.data_dir),
        )
        if model is not None and (packed := same_text(model, identity)) is not None:
            return packed
        self.context.watch("stage", {"name": name, "stage": "corpus"})
        return self._obtain(stage, read, Inputs(name), identity)[0]

    def examples(self, data: schema.TaskData, model: Artifact | None) -> Artifact:
        """Return the examples of a task as tokens of a model's tokenizer, made now or found."""
        tokenizer = model_tokenizer(data.task, model)
        splits = read_splits(data, self.context.data_dir)
        chat = splits["train"].kind == "messages"
        template = chat_template.of(model.path / "model") if chat and model is not None else None
        stage = data_stages.EncodeStage(splits, tokenizer, template)
        config = data.model_dump(mode="json", exclude={"packing"})
        identity = Identity(
            stage="examples",
            version=data_stages.CONVERSATION_VERSION if chat else stage.version,
            config=config if template is None else {**config, "template": template.fingerprint},
            data=examples_fingerprint(splits),
            tokenizer=tokenizer.identity(tokenizer.fingerprint),
        )
        if identity.id not in self.encoded:
            self.context.watch("stage", {"name": data.task, "stage": "examples"})
            self.encoded[identity.id], _ = self._obtain(stage, data, Inputs(data.task), identity)
        return self.encoded[identity.id]

    def register_corpus(self, data: schema.Data, packed: Artifact) -> None:
        """Remember the packed corpus of a data config that was found in another way."""
        self.corpora[packing(data).model_dump_json()] = packed

    def make(
        self, name: str, config: StageConfig, artifacts: Mapping[str, Artifact]
    ) -> StageResult:
        """Return the stage's artifact, made now or found."""
        stage = stage_of(config.stage)
        if isinstance(config, schema.TrainingStage) and config.model is None:
            source_config(config, Inputs(name, artifacts))  # what it refuses is not packed first
        corpus = self._corpus_of(config, artifacts)
        examples, texts = self._examples_of(config, artifacts), self._texts_of(config, artifacts)
        inputs = Inputs(name, artifacts, corpus, examples, texts)
        config = self._resolved(config, corpus)
        precision: Precision = "fp32"
        model: schema.Architecture | None = None
        runner = self._of_seed(config)
        if isinstance(config, schema.TrainingStage):
            config = config.model_copy(update={"seed": None})  # the identity has it anyway
            model = config.model or source_config(config, inputs)
            precision = self.context.runtime.precision(config.train.products, model.dim)
            train = config.train.model_copy(update={"precision": precision})
            config = config.model_copy(update={"train": train})
        own = stage.own_identity(config)
        identity = own or runner._identity(config, stage, inputs, precision)
        if model is not None and drops([config.model_dump(), model.model_dump()]):
            identity = replace(identity, version=identity.version + ROW_MASKS)
        self.context.watch("stage", {"name": name, "stage": config.stage, "id": identity.id})
        artifact, reused = runner._obtain(stage, config, inputs, identity)
        self.context.watch(
            "made",
            {"name": name, "id": artifact.id, "reused": reused, "seconds": artifact.facts["took"]},
        )
        return StageResult(name, config, artifact, reused, artifacts)

    def _of_seed(self, config: StageConfig) -> Runner:
        """Return the runner of a stage: one with the stage's seed, where it has its own."""
        if not isinstance(config, schema.TrainingStage) or config.seed is None:
            return self
        runtime = replace(self.context.runtime, seed=config.seed)
        return replace(self, context=replace(self.context, runtime=runtime))

    def _identity(
        self, config: StageConfig, stage: Stage[Any], inputs: Inputs, precision: Precision
    ) -> Identity:
        """Return everything that a stage's result depends on."""
        runtime, corpus = self.context.runtime, inputs.corpus
        parents = {role: artifact.id for role, artifact in inputs.artifacts.items()}
        data = stage.data_fingerprint(config, self.context.data_dir)
        parents |= {f"corpus.{role}": text.id for role, text in inputs.texts.items()}
        tokenizer = None
        if corpus is not None:
            parents["corpus"] = corpus.id
            read = corpus.identity["data"]
            data = read if data is None else digest([read, data])
            tokenizer = corpus.manifest["files"]["corpus/tokenizer.json"]["sha256"]
        elif inputs.examples is not None:
            parents["examples"] = inputs.examples.id
            data = inputs.examples.identity["data"]
            tokenizer = inputs.examples.manifest["files"]["examples/tokenizer.json"]["sha256"]
        return Identity(
            stage=config.stage,
            version=stage.version,
            config=identity_config(config),
            parents=parents,
            data=data,
            tokenizer=tokenizer,
            seed=runtime.seed,
            threads=runtime.threads,
            dtype=precision,
            device=runtime.device,
            machine=machine.processor() if config.of_machine else None,
            libraries=machine.libraries() if config.of_machine else None,
        )

    def _obtain(
        self, stage: Stage[Any], config: Strict, inputs: Inputs, identity: Identity
    ) -> tuple[Artifact, bool]:
        """Return the artifact of an identity, made now or found, and whether it was there."""
        context = self.context

        def work(draft: Draft) -> dict[str, Any]:
            facts = self._work(stage, config, inputs, draft)
            parents = dict(inputs.artifacts)
            parents |= {f"corpus.{role}": text for role, text in inputs.texts.items()}
            if inputs.corpus is not None:
                parents["corpus"] = inputs.corpus
            if inputs.examples is not None:
                parents["examples"] = inputs.examples
            card.write(draft, facts, parents)
            return facts

        context.note(identity)
        artifact, reused = context.store.obtain(identity, work, context.command, context.watch)
        if reused:
            context.meter.seconds_before += artifact.facts["took"]
            context.meter.note_earlier(artifact.facts.get("memory_used", 0))
        elif context.meter.late_now():
            limit = format_time(context.meter.limits.time or 0.0)
            context.watch("late", {"name": inputs.name, "limit": limit})
        if isinstance(config, schema.TrainingStage):
            context.meter.flops += artifact.facts["flops"]
            context.meter.note_earlier(artifact.facts.get("memory_used", 0))
        return artifact, reused

    def _work(
        self, stage: Stage[Any], config: Strict, inputs: Inputs, draft: Draft
    ) -> dict[str, Any]:
        """Do a stage's work and return its facts, with the time it took and the corpus it knows."""
        meter = self.context.meter
        trains = isinstance(config, schema.TrainingStage)
        allocator.give_back_now()  # what an earlier stage has freed is no part of this one
        meter.begin_stage()
        if trains:
            meter.observe(inputs.name, ends_itself=config.train.time is not None)
        began = time.monotonic()
        facts = dict(stage.run(config, inputs, self.context, draft))
        meter.note()
        # A resumed training knows its earlier parts.
        seconds = facts["seconds"] if trains else time.monotonic() - began
        facts["took"] = round(seconds, 3)
        if not trains:  # which knows the peak of its earlier parts too, and holds to the limit
            facts["memory_used"] = meter.stage_peak_bytes
            self._tell_of_memory(inputs.name, config)
        corpus = _corpus_id(inputs)
        if corpus is not None:
            facts.setdefault("corpus", corpus)
        return facts

    def _tell_of_memory(self, name: str, config: Strict) -> None:
        """Say so where a stage that does not train took more than the run's limit of memory."""
        meter = self.context.meter
        if not meter.passed_memory():
            return
        limit, used = meter.limits.memory or 0, meter.stage_peak_bytes
        what = config.stage if isinstance(config, StageConfig) else "packing"
        fields = {"name": name, "what": what, "limit": format_size(limit)}
        self.context.watch("large", {**fields, "used": format_size(used)})

    def _corpus_of(self, config: StageConfig, artifacts: Mapping[str, Artifact]) -> Artifact | None:
        """Return the corpus that a stage names, or the one its input was trained on."""
        data = getattr(config, "data", None)
        if isinstance(data, schema.TaskData):
            return None
        if data is not None:
            return self.corpus(data, _source_of_tokens(artifacts))
        use = config.text_of_input
        if use == "none":
            return None
        model = next(iter(artifacts.values()))
        name = model.facts.get("corpus")
        if name is not None and (path := model.path.parent / name).exists():
            packed = Artifact.open(path)
            own = recut(packed, model)
            return packed if own is None else self.corpus(own, model)
        if use == "optional":
            return None
        gone = "came without a corpus"
        if name is not None:
            gone = f"was trained on {name}, which is not in {model.path.parent}"
        raise RequestError(f"{model.id} {gone}; name a text with --data")

    def _texts_of(
        self, config: StageConfig, artifacts: Mapping[str, Artifact]
    ) -> dict[str, Artifact]:
        """Return the text of a stage in the tokens of inputs that have their own tokenizers."""
        data = getattr(config, "data", None)
        if not isinstance(data, schema.Data):
            return {}
        own = data.model_copy(update={"tokenizer": schema.ModelTokenizer()})
        return {role: self.corpus(own, artifacts[role]) for role in config.own_texts()}

    def _examples_of(
        self, config: StageConfig, artifacts: Mapping[str, Artifact]
    ) -> Artifact | None:
        """Return the examples of the task that a stage trains on; None for one of text."""
        data = getattr(config, "data", None)
        if not isinstance(data, schema.TaskData):
            return None
        return self.examples(data, _source_of_tokens(artifacts))

    def _resolved(self, config: StageConfig, corpus: Artifact | None) -> StageConfig:
        """Write out what a model config takes from the corpus: vocabulary and context."""
        if not isinstance(config, schema.TrainingStage) or config.model is None or corpus is None:
            return config
        assert isinstance(config.data, schema.Data)
        entries = corpus.facts["vocab_size"]
        model = load.resolved(config.model, "stages: model", entries, config.data.context)
        if (model.vocab_size or 0) < entries:
            raise RequestError(
                f"model.vocab_size: {model.vocab_size}, but the tokenizer of "
                f"{config.data.label} has"
                f" {entries} entries; leave vocab_size out and it follows the tokenizer"
            )
        return config.model_copy(update={"model": model})


def _source_of_tokens(artifacts: Mapping[str, Artifact]) -> Artifact | None:
    """Return the artifact whose tokenizer a stage can take: its input's, or its teacher's."""
    return next((artifacts[field] for field in sources_of_tokens(artifacts)), None)


def _corpus_id(inputs: Inputs) -> str | None:
    """Return the id of the corpus that a stage read, or of the one that all its inputs know."""
    if inputs.corpus is not None:
        return inputs.corpus.id
    facts = [artifact.facts for artifact in inputs.artifacts.values()]
    ids = {of_input["corpus"] for of_input in facts if "corpus" in of_input}
    return ids.pop() if len(ids) == 1 else None


def source_config(config: schema.TrainingStage, inputs: Inputs) -> schema.Architecture:
    """Return the config of the model that a stage trains further.

    Raises RequestError for one that cannot be trained, not by the stage's method, or not on rows
    as the stage asks for.
    """
    where = f"stages.{inputs.name}"
    architecture = tunable_config(inputs.model("input"), config.tuning(), where)
    check_data(config, architecture, where, "input")
    return architecture
