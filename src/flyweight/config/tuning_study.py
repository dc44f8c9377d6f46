"""A study of fine-tuning as its user writes it: bases, methods, tasks and seeds.

```yaml
name: which-method
bases:
  plain: {stage: pretrain, model: {dim: 128}, data: {corpus: notes.txt}, train: {steps: 2000}}
  plain-nf4: {stage: quantize, input: plain, kind: nf4}
  stories: {model: stories260k, text: {corpus: stories.txt}}

Methods:
  full: {method: full, train: {optimizer: {kind: adamw, lr: 1e-3}}}
  lora: {method: {kind: lora, r: 8}, train: {optimizer: {kind: adamw, lr: 3e-3}}}
tasks:
  squad: {task: squad, context: 256}
train: {epochs: 2, batch: 8}
seeds: [0, 1, 2]
```

"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from flyweight.config import load
from flyweight.config.adapters import Full, Method
from flyweight.config.plugins import load_plugins
from flyweight.config.recipe_rules import LIMITS
from flyweight.config.schema import (
    AnyStage,
    Data,
    Finetune,
    Name,
    StageName,
    Strict,
)
from flyweight.config.seeds import Seeds
from flyweight.config.study import (
    GroupName,
    Limit,
    Listed,
    TrainFields,
    json_schema as study_schema,
)
from flyweight.config.tasks import TaskData
from flyweight.errors import RequestError

SplitName = Literal["train", "validation", "test"]


def _base(value: Any) -> Any:
    """Read a bare word as a MODEL, and the fields of a stage as what makes the base."""
    if isinstance(value, str):
        return {"model": value}
    if isinstance(value, dict) and "stage" in value:
        return {"made": value}
    return value


class StudyBase(Strict):
    """A model to fine-tune: a MODEL, or the stage that makes it, whose input may be another base.

    `text` is the base's own text, on which forgetting is measured. Without it that is the text of
    the base it is made from, or the text it was trained on, if it is known.
    """

    model: str | None = None
    made: AnyStage | None = None
    text: Data | None = None


class StudyMethod(Strict):
    """A way to fine-tune, with what its training does otherwise than that of the others.

    `scratch` trains new random weights of the base's shape for as many FLOPs as the base and the
    tuned model have cost together. `bases` restricts the method to some of them.
    """

    method: Method = Full()
    scratch: bool = False
    train: TrainFields = Field(default_factory=dict)
    bases: Annotated[tuple[str, ...], Listed] | None = None


class Scoring(Strict):
    """What every model is asked: `limit` rows of a split, at most `new_tokens` tokens an answer.

    Without `split` that is test, or validation of a task without a public test split. Rows that
    choose the kept step cannot also be the rows that are scored.
    """

    split: SplitName | None = None
    limit: Annotated[int, Field(gt=0)] | None = None
    new_tokens: Annotated[int, Field(gt=0)] = 48


class TuningStudy(Strict):
    """Every method on every base and task, once for each seed.

    `train` holds for all methods, and gives the one limit, which is the same for all. `only` takes
    patterns of methods' names: a large study runs in pieces.
    """

    name: Name
    about: str = ""
    bases: Annotated[
        dict[StageName, Annotated[StudyBase, BeforeValidator(_base)]], Field(min_length=1)
    ]
    methods: Annotated[dict[StageName, StudyMethod], Field(min_length=1)]
    tasks: Annotated[dict[StageName, TaskData], Field(min_length=1)]
    train: TrainFields = Field(default_factory=dict)
    score: Scoring = Scoring()
    seeds: Seeds = ()
    only: Annotated[tuple[GroupName, ...], Listed] = ()
    limit: Limit = Limit()

    def conditions(self) -> Iterator[tuple[str, str, str]]:
        """Yield every (base, method, task) of the study.

        Controls from scratch come last: what they may spend is known once the others are done.
        """
        for scratch in (False, True):
            for task in self.tasks:
                for base in self.bases:
                    yield from (
                        (base, name, task)
                        for name, method in self.methods.items()
                        if method.scratch == scratch and self._takes_part(name, base)
                    )

    def text(self, base: str) -> Data | None:
        """Return the text that is given for a base, or for the base that it is made from."""
        entry = self.bases[base]
        if entry.text is not None or entry.made is None:
            return entry.text
        sources = (
            self.text(name) for name in entry.made.dependencies().values() if name in self.bases
        )
        return next((text for text in sources if text is not None), None)

    def _takes_part(self, name: str, base: str) -> bool:
        named = self.methods[name].bases
        if named is not None and base not in named:
            return False
        return not self.only or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.only)

    @property
    def whole_methods(self) -> list[str]:
        """The methods that train every weight of the base."""
        return [name for name, method in self.methods.items() if _whole(method)]

    @property
    def run_count(self) -> int:
        """How many fine-tunings the study takes."""
        return len(list(self.conditions())) * len(self.seeds)

    def finetune(self, base: str, method: str, task: str, flops: float | None = None) -> Finetune:
        """Return the config of a training, which ends after `flops` where they are given.

        Raises RequestError with what is wrong with it.
        """
        entry = self.methods[method]
        train = load.merge(self.train, entry.train)
        if flops is not None:
            train = {**train, **dict.fromkeys(LIMITS), "flops": round(flops)}
        raw = {
            "stage": "finetune",
            "input": base,
            "method": entry.method,
            "start": "random" if entry.scratch else "input",
            "data": self.tasks[task],
            "train": train,
        }
        try:
            return Finetune.model_validate(raw)
        except ValidationError as error:
            lines = load.explain(error, "", Finetune).splitlines()
            raise RequestError("\n".join(line.strip() for line in lines[1:])) from error


def is_tuning_study(raw: Mapping[str, Any]) -> bool:
    """Return whether raw YAML data is a study of fine-tuning."""
    return "bases" in raw and "methods" in raw


def parse(raw: Mapping[str, Any], where: str) -> TuningStudy:
    """Return a study's fields, checked against each other.

    Raises RequestError with every fault found.
    """
    load_plugins()
    try:
        study = TuningStudy.model_validate(raw)
    except ValidationError as error:
        raise RequestError(load.explain(error, where, TuningStudy)) from error
    if faults := list(_faults(study)):
        raise RequestError("\n".join([f"{where}:", *(f"  {fault}" for fault in faults)]))
    return study


def _faults(study: TuningStudy) -> Iterator[str]:
    if not study.seeds:
        yield (
            "seeds: there are none; name at least three, for example [0, 1, 2]: an interval over "
            "seeds needs them"
        )
    if len(set(study.seeds)) < len(study.seeds):
        yield f"seeds: {list(study.seeds)} names a seed twice"
    yield from _base_faults(study)
    yield from _limit_faults(study)
    yield from _method_faults(study)
    if not any(True for _ in study.conditions()):
        yield "only: no method is left; leave it out, or name patterns that fit a method"
    yield from _task_faults(study)


def _method_faults(study: TuningStudy) -> Iterator[str]:
    for name, method in study.methods.items():
        for base in method.bases or ():
            if base not in study.bases:
                near = load.nearest(base, study.bases)
                yield f"methods.{name}.bases: there is no base {base!r}{near}"
        conditions = list(study.conditions())
        whole = {base for base, other, _ in conditions if _whole(study.methods[other])}
        for base in sorted({base for base, other, _ in conditions if other == name} - whole):
            if method.scratch:
                yield (
                    f"methods.{name}.scratch: spends what the base and a full fine-tuning have "
                    f"cost, so the study needs a method full on {base}"
                )


def _task_faults(study: TuningStudy) -> Iterator[str]:
    """Find conditions that cannot be trained."""
    seen: dict[str, str] = {}
    for base, method, task in study.conditions():
        try:
            study.finetune(base, method, task)
        except RequestError as error:
            for line in str(error).splitlines():
                seen.setdefault(line, f"methods.{method}")
    yield from (f"{where}: {line}" for line, where in seen.items())


def _whole(method: StudyMethod) -> bool:
    return isinstance(method.method, Full) and not method.scratch


def _base_faults(study: TuningStudy) -> Iterator[str]:
    made: list[str] = []
    for name, base in study.bases.items():
        where = f"bases.{name}"
        if (base.model is None) == (base.made is None):
            yield f"{where}: give either model, a MODEL, or the fields of a stage that makes it"
        if base.made is not None:
            if not base.made.makes_model:
                yield f"{where}: a stage of kind {base.made.stage} makes no model"
            for other in base.made.dependencies().values():
                if other in study.bases and other not in made:
                    yield f"{where}: is made from {other}; name {other} before it"
        made.append(name)


def _limit_faults(study: TuningStudy) -> Iterator[str]:
    limits = [name for name in LIMITS if study.train.get(name) is not None]
    if len(limits) != 1:
        yield (
            f"train: names {len(limits)} limits; give exactly one of epochs, tokens, steps, flops "
            f"and time: all methods train as long"
        )
    for name, method in study.methods.items():
        own = [limit for limit in LIMITS if method.train.get(limit) is not None]
        if own:
            yield f"methods.{name}.train.{own[0]}: train gives the limit, the same for all methods"


def json_schema_of_studies() -> dict[str, Any]:
    """Return the JSON Schema of study files: a grid of models, or a study of fine-tuning."""
    grid = study_schema()
    tuning = TuningStudy.model_json_schema()
    dialect = grid.pop("$schema")
    definitions = {**tuning.pop("$defs"), **grid.pop("$defs")}  # a grid's stages take defaults
    definitions["StudyBase"] = _base_schema(definitions["StudyBase"])
    definitions |= {"Study": grid, "TuningStudy": tuning}
    either = [{"$ref": "#/$defs/Study"}, {"$ref": "#/$defs/TuningStudy"}]
    return {"$schema": dialect, "$defs": definitions, "anyOf": either}


def _base_schema(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a base's schema with its short forms: a MODEL, and the fields of a stage."""
    stages = load.json_schema()["properties"]["stages"]
    (stage,) = (stages.get("patternProperties") or {"": stages["additionalProperties"]}).values()
    made = {**fields, "properties": {**fields["properties"], "made": stage}}
    return {"anyOf": [{"type": "string"}, made, stage]}
