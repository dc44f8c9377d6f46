"""What the stages of a recipe are, before anything is planned: their models, texts and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flyweight.config import load, schema
from flyweight.config.stage import sources_of_tokens
from flyweight.config.units import format_count, format_size
from flyweight.data.sources import with_tokenizer
from flyweight.data.streams import open_stream
from flyweight.errors import RequestError
from flyweight.planning import evaluating, rows, time
from flyweight.planning.rows import TimeRow
from flyweight.planning.task_size import TaskSize, local_task_size
from flyweight.planning.text_size import TextSize
from flyweight.planning.time import MachineSpeed
from flyweight.planning.vocabulary import assumption, vocabulary, vocabulary_key
from flyweight.spec import flops as cost
from flyweight.spec.adapters import adapter_faults
from flyweight.spec.linears import pattern_faults
from flyweight.spec.matching import part_faults
from flyweight.store.stage import Outline


@dataclass(frozen=True)
class AskedTraining:
    """A training stage with its model filled in, and what it reads.

    `fresh`: it begins with random weights.
    """

    stage: schema.TrainingStage
    data: schema.Data | schema.TaskData
    fresh: bool


@dataclass
class DescribedRecipe:
    """The models and the texts of a recipe's stages, each after what it refers to.

    `size_of` returns the size of a text, or None where it is not known. `vocabularies` and
    `packed_tokens` are those of texts that are packed already, the tokens those of the train
    splits. What is wrong with a stage is kept for the end.
    """

    recipe: schema.Recipe
    data_dir: Path | None
    size_of: Callable[[schema.Data, Path | None], TextSize | None]
    vocabularies: Mapping[str, int] = field(default_factory=dict[str, int])
    packed_tokens: Mapping[str, int] = field(default_factory=dict[str, int])
    models: dict[str, schema.Architecture] = field(default_factory=dict)
    trained: dict[str, rows.TrainedStage] = field(default_factory=dict)
    asked: dict[str, AskedTraining] = field(default_factory=dict)
    outlines: dict[str, Outline] = field(default_factory=dict)
    sizes: dict[str, TextSize] = field(default_factory=dict)
    tasks: dict[str, TaskSize] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    unread: dict[str, schema.Data] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in load.order(self.recipe):
            self._describe(name)

    def _describe(self, name: str) -> None:
        stage = self.recipe.stages[name]
        try:
            if isinstance(stage, schema.TrainingStage):
                self._train(name, stage)
            elif stage.stage not in time.MEASURES:
                self._outline(name, stage)
        except RequestError as error:
            where = f"stages.{name}"
            fault = str(error)
            self.wrong.append(fault if where in fault else f"{where}: {fault}")

    def _outline(self, name: str, stage: schema.StageConfig) -> None:
        """Plan a stage that does not train."""
        outline = rows.outline(self.recipe, name, self.models, self.trained, self.sizes)
        self.outlines[name] = outline
        self.assumed += [f"{name}: {note}" for note in outline.notes]
        if isinstance(stage, schema.Teach) and outline.work:
            teachers = [work.model for work in outline.work]
            size = format_size(evaluating.teaching_bytes(teachers, stage.data.context))
            self.assumed.append(f"{name}: its pass over the text holds about {size}")
        if stage.makes_model and outline.model is not None:
            self.models[name] = outline.model

    def _train(self, name: str, stage: schema.TrainingStage) -> None:
        """Learn the model and the text of a stage that trains."""
        fresh = stage.model is not None
        if stage.model is None:
            source = stage.dependencies().get("input", "")
            if source not in self.models:
                where = "is outside this recipe and is not planned"
                if source in self.recipe.stages:
                    where = f"is known once {source} has run, and is not planned"
                self.assumed.append(f"{name}: the model it starts from {where}")
                return
            self.wrong += _input_faults(name, stage, self.models[source])
            trained = stage.trained_config(self.models[source])
            stage = stage.model_copy(update={"model": trained})
        assert stage.model is not None
        if isinstance(stage.data, schema.TaskData):
            self._train_on_task(name, stage, stage.model, stage.data)
            return
        data = with_tokenizer(stage.data, self.data_dir)
        known = self._vocabulary_of(data, stage)
        own = isinstance(data.tokenizer, schema.ByteTokenizer | schema.ModelTokenizer)
        if known is None and not own:
            self.unread[vocabulary_key(data)] = data
        self._read(name, data)
        model = stage.model
        if fresh:
            tokens = known or vocabulary(data, model)
            model = load.resolved(model, f"stages.{name}.model", tokens, data.context)
        self.models[name] = model
        faults = [*pattern_faults(model), *adapter_faults(model)]
        self.wrong += [f"stages.{name}.model.{fault}" for fault in faults]
        teacher = self.models.get(stage.dependencies().get("teacher", ""))
        if isinstance(stage, schema.Distill) and teacher is not None:
            faults = part_faults(stage, model, teacher)
            self.wrong += [f"stages.{name}.{fault}" for fault in faults]
        self.trained[name] = rows.TrainedStage(model, data)
        if count := len(stage.train.snapshots):
            each = evaluating.FLOAT * cost.trained_parameters(model, stage.tuning().trains)
            self.assumed.append(
                f"{name}: {count} snapshot{'s' * (count > 1)} take {format_size(count * each)} of "
                f"disk"
            )
        self.asked[name] = AskedTraining(stage, data, fresh)
        if known is None and (note := assumption(data, model)):
            self.assumed.append(f"{name}: {note}")

    def _train_on_task(
        self,
        name: str,
        stage: schema.TrainingStage,
        model: schema.Architecture,
        data: schema.TaskData,
    ) -> None:
        """Learn the model and the examples of a stage that learns a task."""
        self.models[name] = model
        faults = [*pattern_faults(model), *adapter_faults(model)]
        self.wrong += [f"stages.{name}.method.{fault}" for fault in faults]
        self.asked[name] = AskedTraining(stage, data, fresh=False)
        if size := local_task_size(data, self.data_dir):
            self.tasks[name] = size
        else:
            self.assumed.append(f"{name}: the size of {data.task} is not known yet")

    def _vocabulary_of(self, data: schema.Data, stage: schema.TrainingStage) -> int | None:
        """Return the vocabulary of a stage's text where it is known before the text is packed."""
        if not isinstance(data.tokenizer, schema.ModelTokenizer):
            return self.vocabularies.get(vocabulary_key(data))
        reference = stage.dependencies()
        names = [reference[field] for field in sources_of_tokens(reference)]
        source = next((self.models[name] for name in names if name in self.models), None)
        return None if source is None else source.vocab_size

    def _read(self, name: str, data: schema.Data) -> None:
        """Learn the size of a text; remark where it is not known, or where there is none yet."""
        key = rows.text_key(data)
        if key not in self.missing:
            self.missing[key] = _missing_shards(data, self.data_dir)
        if self.missing[key]:
            self.assumed.append(f"{name}: {self.missing[key]}")
        if key not in self.sizes and (size := self.size_of(data, self.data_dir)):
            self.sizes[key] = size
        if key not in self.sizes:
            self.assumed.append(
                f"{name}: the size of {data.label} is not known yet; packing and measuring it "
                f"are not in the time"
            )

    def running_teacher(self, stage: schema.TrainingStage) -> schema.Architecture | None:
        """Return the teacher that runs beside a student; None where it has told before."""
        references = stage.dependencies()
        return None if "told" in references else self.models.get(references.get("teacher", ""))

    def beside(self, speed: MachineSpeed) -> list[TimeRow]:
        """Return the rows of time other than trainings and validations."""
        return rows.beside_training(self.recipe, self.trained, self.sizes, self.outlines, speed)

    def told(self, speed: MachineSpeed) -> dict[str, dict[str, float]]:
        """Return the FLOPs and seconds of each stage that asks teachers before a student learns."""
        return {
            name: {
                "flops": sum(
                    work.tokens
                    / stage.data.context
                    * cost.forward_flops(work.model, stage.data.context)
                    for work in self.outlines[name].work
                ),
                "seconds": sum(time.work_seconds(work, speed) for work in self.outlines[name].work),
            }
            for name, stage in self.recipe.stages.items()
            if isinstance(stage, schema.Teach) and name in self.outlines
        }

    def held_out(
        self, name: str, data: schema.Data | schema.TaskData, train: schema.Train
    ) -> tuple[float, float]:
        """Return the tokens of the validation and the test split, where they are known."""
        if isinstance(data, schema.TaskData):
            size = self.tasks.get(name)
            if size is None:
                return float(train.validation_tokens), 0.0
            count = size.rows("validation", data, self._tokenizer_of_input(name))
            return float(count * data.context), 0.0
        text = self.sizes.get(rows.text_key(data))
        if text is None or data.tokenizer is None:
            return float(train.validation_tokens), 0.0
        return text.tokens("validation", data.tokenizer), text.tokens("test", data.tokenizer)

    def epoch(self, name: str, data: schema.Data | schema.TaskData) -> int | None:
        """Return the rows of one epoch; remark where their number is an estimate or unknown."""
        if isinstance(data, schema.Data):
            return self._windows(name, data)
        size = self.tasks.get(name)
        if size is None:
            return None
        count = size.rows("train", data, self._tokenizer_of_input(name))
        if data.packing == "isolated":
            self.assumed.append(
                f"{name}: {count:,} rows an epoch hold {len(size.bytes['train']):,} examples, from "
                f"the size of their texts"
            )
        return count

    def _tokenizer_of_input(self, name: str) -> schema.Tokenizer | None:
        """Return the tokenizer of the model that a stage starts from, where the recipe tells."""
        source = self.trained.get(rows.root(self.recipe, name, self.trained))
        return None if source is None else source.data.tokenizer

    def _windows(self, name: str, data: schema.Data) -> int | None:
        """Return the windows of one epoch; remark where their number is an estimate or unknown."""
        tokens = self.packed_tokens.get(vocabulary_key(data))
        size = self.sizes.get(rows.text_key(data))
        if tokens is None and size is not None and data.tokenizer is not None:
            tokens = int(size.tokens("train", data.tokenizer))
            self.assumed.append(
                f"{name}: {format_count(tokens)} tokens an epoch, from the size of the text"
            )
        if tokens is None:
            self.assumed.append(
                f"{name}: how many steps an epoch has is known once {data.label} has been read"
            )
            return None
        return max(1, (tokens - 1) // data.context)


def _missing_shards(data: schema.Data, data_dir: Path | None) -> str:
    """Return why a stream of this machine cannot be read yet; empty for any other text."""
    if data.stream is None or data.stream.of_hub:
        return ""
    try:
        open_stream(data.stream, data_dir)
    except RequestError as error:
        return str(error)
    return ""


def _input_faults(
    name: str, stage: schema.TrainingStage, source: schema.Architecture
) -> Iterator[str]:
    """Yield why a stage cannot train the model that it starts from, as the stage itself would."""
    if (
        isinstance(source, schema.ModelConfig)
        and source.adapters
        and stage.tuning().trains == "full"
    ):
        yield (
            f"stages.{name}.input: this model has adapters, which are trained by fine-tuning. "
            f"Merge them first (flyweight merge), or go on with flyweight finetune"
        )
    if source.context is not None and source.context < stage.data.context:
        yield (
            f"stages.{name}.data.context: {stage.data.context} is longer than the "
            f"{source.context} tokens that the input reads at once"
        )
