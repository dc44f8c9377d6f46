"""What the stages of a recipe ask of each other that they cannot have.

Every fault is returned, so that a user sees them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flyweight.config.data import TRAINED, Tokenizer
from flyweight.config.graph import cycle_faults, is_external
from flyweight.config.layouts import LAYOUT_FOLDER
from flyweight.config.messages import LISTED, nearest
from flyweight.config.model_rules import packed_kinds
from flyweight.config.schema import (
    SAME_AS,
    Data,
    Distill,
    Merge,
    Mix,
    Pack,
    Pretrain,
    Prune,
    Quantize,
    Recipe,
    Select,
    Snapshot,
    StageConfig,
    TaskData,
    Teach,
    TrainingStage,
    WordTokenizer,
    teachers_in_words,
)
from flyweight.config.stage import sources_of_tokens

_LSTM_JOINS = "an LSTM carries its state across documents in a window"
_MIXTURE_JOINS = "the counts and the pointer of a mixture look across documents"

LIMITS = ("steps", "tokens", "epochs", "flops", "time")
"""Fields of `train` that end it, each by itself; `same_as` stands for one of them."""


def recipe_faults(recipe: Recipe) -> list[str]:
    """Return every contradiction between the stages of a recipe, in words."""
    faults = []
    for name, stage in recipe.stages.items():
        faults += _unknown(name, stage, recipe)
        faults += [f"stages.{name}: {fault}" for fault in stage.faults()]
        faults += _contradictions(name, stage, recipe)
    faults += _compared(recipe)
    if not any(stage.makes_model for stage in recipe.stages.values()):
        faults.append(
            "stages: none makes a model to report; `flyweight eval` and `flyweight floors` "
            "measure without a recipe"
        )
    return faults or cycle_faults(recipe)


def _unknown(name: str, stage: StageConfig, recipe: Recipe) -> Iterator[str]:
    """Find references to stages that are not there."""
    names = list(recipe.stages)
    for field, reference in stage.dependencies().items():
        outside = field != SAME_AS and is_external(reference)
        if reference not in names and not outside:
            yield f"stages.{name}.{field}: {_missing(reference, names)}"


def _missing(name: str, names: list[str]) -> str:
    """Return that there is no stage of a name, and which ones there are in its place."""
    several = [each for each in names if each.startswith(f"{name}-")]
    if len(several) < 2:
        return f"there is no stage {name!r}{nearest(name, names)}"
    return f"there is no stage {name!r}, but {', '.join(several[:LISTED])}; name one of them"


def _compared(recipe: Recipe) -> Iterator[str]:
    """Find compared stages that are not there, or hold no model.

    With a layout, `report` names a folder beside the links to stages.
    """
    if recipe.report.layout is not None and LAYOUT_FOLDER in recipe.stages:
        yield (
            f"stages.{LAYOUT_FOLDER}: report.layout writes a folder of this name beside the "
            f"stages; give the stage another name"
        )
    names = list(recipe.stages)
    for position, name in enumerate(recipe.report.compare):
        where = f"report.compare.{position}"
        if name not in names:
            yield f"{where}: {_missing(name, names)}"
        elif not recipe.stages[name].makes_model:
            yield f"{where}: {name} measures and makes no model that could be compared"


def _contradictions(name: str, stage: StageConfig, recipe: Recipe) -> list[str]:
    """Return what a stage asks of another that it cannot have."""
    where = f"stages.{name}"
    faults: list[str] = []
    if isinstance(stage, TrainingStage):
        faults += [*_tie(f"{where}.train", stage.train, recipe), *_packed(where, stage, recipe)]
        faults += [*_loss_of_text(where, stage), *_joined_documents(where, stage, recipe)]
    if isinstance(stage, Distill):
        faults += [*_of_the_record(where, stage, recipe), *_tokenizers(where, stage, recipe)]
        faults += _words_across(where, stage, recipe)
    if isinstance(stage, Mix):
        faults += _mixed_documents(where, stage, recipe)
    if isinstance(stage, Quantize | Prune | Pack | Merge):
        faults += _from_packed(where, stage, recipe)
    if isinstance(stage, Snapshot):
        faults += _kept(where, stage, recipe)
    if isinstance(stage, Select):
        faults += _choice(where, stage, recipe)
    return faults


def _of_the_record(where: str, stage: Distill, recipe: Recipe) -> Iterator[str]:
    """Find a record that is none, or another teacher's."""
    if stage.told is None or (record := recipe.stages.get(stage.told)) is None:
        return
    if not isinstance(record, Teach):
        yield f"{where}.told: {stage.told} is a stage {record.stage}; name a stage teach"
    elif record.teacher != stage.teacher:
        yield (
            f"{where}.told: {stage.told} is the record of {teachers_in_words(record.teacher)}, "
            f"and the teacher is {teachers_in_words(stage.teacher)}; name its own record"
        )
    elif record.across != stage.across:
        yield (
            f"{where}.across: {stage.told}, its record, has {record.across}, and this stage "
            f"{stage.across}; give both the same"
        )
    elif isinstance(stage.data, Data):
        yield from _windows_told(f"{where}.told", stage, stage.data, record)


def _windows_told(where: str, stage: Distill, data: Data, record: Teach) -> Iterator[str]:
    """Find a record of other windows than a training reads, or of fewer."""
    if record.data.context != data.context:
        yield (
            f"{where}: the record is of another context ({record.data.context}, and this training "
            f"reads {data.context}); teach it anew"
        )
    rows = (stage.train.steps or 0) * stage.train.batch
    if rows > record.rows:
        yield (
            f"{where}: the record has {record.rows} rows, and this training reads {rows}; teach "
            f"more rows, or train fewer steps"
        )


def _kept(where: str, stage: Snapshot, recipe: Recipe) -> Iterator[str]:
    """Find a snapshot that its training does not keep."""
    source = recipe.stages.get(stage.input)
    if source is None:
        return
    if not isinstance(source, TrainingStage):
        yield f"{where}.input: {stage.input} is a stage {source.stage}, which does not train"
    elif stage.at not in source.train.snapshots:
        points = ", ".join(f"{at:g}" for at in sorted({*source.train.snapshots, stage.at}))
        yield (
            f"{where}.at: {stage.input} keeps no snapshot at {stage.at:g}; ask for it: "
            f"stages.{stage.input}.train.snapshots=[{points}]"
        )


def _tokenizers(where: str, stage: Distill, recipe: Recipe) -> Iterator[str]:
    """Find teachers of the recipe whose tokenizers are surely others, or surely the student's."""
    own = stage.data.tokenizer
    names = (stage.teacher,) if isinstance(stage.teacher, str) else stage.teacher
    same = list[bool]()
    for name in names:
        teacher = recipe.stages.get(name)
        if not isinstance(teacher, Pretrain | Distill) or teacher.model is None:
            return
        theirs = teacher.data.tokenizer
        if not (isinstance(own, TRAINED) and isinstance(theirs, TRAINED)):
            return
        sizes = [getattr(each, "vocab", None) for each in (own, theirs)]
        if stage.across is None and (own.kind != theirs.kind or sizes[0] != sizes[1]):
            yield (
                f"{where}.teacher: {name} and this text have different tokenizers "
                f"({_named(theirs)} and {_named(own)}); give both the same, or add "
                f"across: tokenizers"
            )
        same.append(stage.data.packed() == teacher.data.packed())
    if stage.across is not None and all(same):
        yield f"{where}.across: the tokenizers are the same; leave across out"


def _words_across(where: str, stage: Distill, recipe: Recipe) -> Iterator[str]:
    """Find texts of words, which cannot be aligned with other tokens."""
    if stage.across is None:
        return
    texts = {"this text": stage.data.tokenizer}
    for name in (stage.teacher,) if isinstance(stage.teacher, str) else stage.teacher:
        teacher = recipe.stages.get(name)
        if isinstance(teacher, TrainingStage) and isinstance(teacher.data, Data):
            texts[name] = teacher.data.tokenizer
    for whose, tokenizer in texts.items():
        if isinstance(tokenizer, WordTokenizer):
            yield (
                f"{where}.across: {whose} is cut into words, and their white space belongs to no "
                f"token; use bpe, char or byte there"
            )


def _named(tokenizer: Tokenizer) -> str:
    """Return a tokenizer's kind, and its size where it names one."""
    size = getattr(tokenizer, "vocab", None)
    return tokenizer.kind if size is None else f"{tokenizer.kind} of {size:,}"


def _loss_of_text(where: str, stage: TrainingStage) -> Iterator[str]:
    """Find a text of which completions alone are to be learned: it has none."""
    if stage.train.loss is not None and isinstance(stage.data, Data):
        yield (
            f"{where}.train.loss: {stage.train.loss} is for the examples of a task, and data is a "
            f"text, of which every token is learned; leave it out"
        )


def _joined_documents(where: str, stage: TrainingStage, recipe: Recipe) -> Iterator[str]:
    """Find models that would read isolated documents and cannot keep them apart."""
    if stage.data.documents == "joined":
        return
    models: dict[str, StageConfig] = {"model": stage}
    references = stage.dependencies()
    for role in sources_of_tokens(references):
        if (other := recipe.stages.get(references[role])) is not None:
            models[role] = other
    for role, other in models.items():
        reason = ""
        if getattr(getattr(other, "model", None), "kind", None) == "lstm":
            reason = _LSTM_JOINS
        elif isinstance(other, Mix):
            reason = _MIXTURE_JOINS
        if reason:
            apart = "documents: joined"
            if isinstance(stage.data, TaskData):
                apart = "packing: padding"
            yield f"{where}.{role}: {reason}; use {apart}, or another {role}"


def _mixed_documents(where: str, stage: Mix, recipe: Recipe) -> Iterator[str]:
    """Find mixtures of a network that reads isolated documents."""
    source = recipe.stages.get(stage.input)
    data = stage.data or getattr(source, "data", None)
    if isinstance(data, Data) and data.documents == "isolated":
        yield f"{where}: {_MIXTURE_JOINS}; mix a network of documents: joined"


def _packed(where: str, stage: TrainingStage, recipe: Recipe) -> Iterator[str]:
    """Find training of packed matrices, which have no gradient: only the norms would be trained."""
    if stage.model is not None and (kinds := packed_kinds(stage.model)):
        yield (
            f"{where}.model.linears: matrices stored as {' and '.join(kinds)} cannot be trained; "
            f"train the model dense, and add"
            " a quantize stage after it"
        )
    reference = getattr(stage, "input", None)
    source = recipe.stages.get(reference or "")
    if isinstance(source, Mix):
        yield (
            f"{where}.input: {reference} is a mixture with counts or a pointer, which cannot be "
            f"trained; start from {source.input}, and mix the result"
        )
    if source is not None and stage.trains_all() and (reason := source.untrainable()):
        yield f"{where}.input: {reference} {reason}{stage.beside_training_all()}"


def _from_packed(
    where: str, stage: Quantize | Prune | Pack | Merge, recipe: Recipe
) -> Iterator[str]:
    """Find changes to the matrices of a model that a stage `pack` has stored without zeros."""
    source = recipe.stages.get(stage.input)
    unpacks = isinstance(stage, Merge) and stage.unpack
    if isinstance(source, Pack) and not unpacks:
        yield (
            f"{where}.input: {stage.input} is packed, and {stage.stage} changes matrices that are "
            f"not; start from {source.input}, and pack the result"
        )


def _tie(where: str, train: Any, recipe: Recipe) -> Iterator[str]:
    """Find limits that contradict `same_as`, and stages that spent nothing to be held to."""
    if train.same_as is None:
        return
    if limits := [limit for limit in LIMITS if getattr(train, limit) is not None]:
        yield (
            f"{where}: same_as gives as much as {train.same_as.stage} spends, and "
            f"{' and '.join(limits)} beside it could cut"
            " that short; leave one of them out, or set it to null"
        )
    name, quantity = train.same_as.stage, train.same_as.of
    source = recipe.stages.get(name)
    if source is None or quantity in source.spends:
        return
    if not source.spends:
        yield (
            f"{where}.same_as: {name} is a stage of kind {source.stage} and trains nothing; "
            f"name one that trains"
        )
        return
    parent = getattr(source, "input", None)
    advice = f"; name the stage whose model it stores, {parent}" if parent else ""
    yield (
        f"{where}.same_as: {name} is a stage of kind {source.stage} and spends no {quantity} of "
        f"its own{advice}"
    )


def _no_choice(stage: Select, source: StageConfig) -> str:
    """Return why a stage cannot be a candidate; only NLL asks for validations while it trains."""
    if stage.by == "nll":
        return source.no_validation()
    if stage.task is not None and source.makes_model:
        return ""
    return "" if source.validated else f"is a stage of kind {source.stage}"


def _choice(where: str, stage: Select, recipe: Recipe) -> Iterator[str]:
    """Find candidates that have no validation result."""
    for position, name in enumerate(stage.among):
        source = recipe.stages.get(name)
        reason = "" if source is None else _no_choice(stage, source)
        if reason:
            yield (
                f"{where}.among.{position}: {name} {reason}, so it has no validation result to be "
                f"chosen by"
            )
