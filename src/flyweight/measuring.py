"""Measurements of one model or of several: each is an artifact of its own. Part of `flyweight.api`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyweight import models, recipe as recipes
from flyweight.config import catalogue, load as config_load, schema
from flyweight.core.artifact import Artifact
from flyweight.core.metric import Metric
from flyweight.errors import RequestError
from flyweight.evaluate.compare import table
from flyweight.plan.compared import Compared, Size
from flyweight.report import gather
from flyweight.session import DEFAULT, Session, working

Model = str | Path | Artifact
"""What MODEL may be: see `flyweight.models`."""


@dataclass(frozen=True)
class Measurement:
    """A measurement's artifact; its metrics are attributes: `evaluate(...).bits_per_byte.value`, `audit(...).passed`."""

    artifact: Artifact
    values: Mapping[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            value = self.values[name]
        except KeyError:
            raise AttributeError(f"no metric {name!r}; there are {', '.join(self.values)}") from None
        return Metric(**value) if isinstance(value, dict) and set(value) == set(Metric.__dataclass_fields__) else value

    def json(self) -> dict[str, Any]:
        """Return everything measured as plain data."""
        return {"id": self.artifact.id, **self.values}


def _measure(kind: str, model: Model, session: Session, **fields: Any) -> Measurement:
    context = session.context(seed=session.seed)
    if not isinstance(model, Artifact) and models.is_config(model):
        if kind == "evaluate":
            raise RequestError(f"{model}: this is a config; its random weights have nothing to evaluate")
        fresh = schema.Initialise(stage="init", model=models.config(model))
        artifact = recipes.Runner(context).make(str(model), fresh, {}).artifact
    else:
        configs = () if kind == "evaluate" else catalogue.names()
        artifact = models.find(model, context.store, watch=context.watch, also=configs)
    data, separator = fields.pop("data", None), fields.pop("separator", None)
    if data is not None:
        fields["data"] = data_for(artifact, data, separator)
    elif separator is not None:
        raise RequestError("--separator: it cuts a text file into documents; name the file with --data")
    config = config_load.check_stage(
        {"stage": kind, "input": artifact.id, **{k: v for k, v in fields.items() if v is not None}}
    )
    made = recipes.Runner(context).make(_name(model), config, {"input": artifact}).artifact
    return Measurement(made, made.metrics())


def data_for(artifact: Artifact, data: str, separator: str | None = None) -> dict[str, Any]:
    """Return a data config that reads `data` with the model's own tokenizer and context."""
    tokenizer = artifact.path / "model" / "tokenizer.json"
    if not tokenizer.exists():
        raise RequestError(f"{artifact.id} has no tokenizer: it cannot read {data}")
    from flyweight.hub import models as hub

    window = hub.window(hub.config(artifact.path / "model"))
    cut = {} if separator is None else {"separator": separator}
    return {"corpus": data, "tokenizer": {"kind": "file", "path": str(tokenizer)}, "context": window, **cut}


@working
def evaluate(
    model: Model,
    data: str | None = None,
    split: str = "test",
    window: int | None = None,
    stride: int | None = None,
    session: Session = DEFAULT,
    separator: str | None = None,
) -> Measurement:
    """Return nll, perplexity, word_perplexity and bits_per_byte of a model on a split, with 95 % intervals.

    `separator` is what stands between the documents of a text file.
    `notes` says where bits per byte are too good, because the tokens do not give the text back.
    """
    fields = {"data": data, "separator": separator, "split": split, "window": window, "stride": stride}
    return _noted(_measure("evaluate", model, session, **fields))


def _noted(measured: Measurement) -> Measurement:
    losses = gather.losses(measured.artifact)
    return Measurement(measured.artifact, {**measured.values, "notes": [] if losses is None else [losses]})


@working
def tasks(
    model: Model,
    tasks: Sequence[str],
    task_path: Path | None = None,
    few_shot: int | None = None,
    limit: int | None = None,
    session: Session = DEFAULT,
) -> dict[str, dict[str, Any]]:
    """Return lm-eval's metrics of a model by task, each with its standard error; `task_path` holds tasks of one's own."""
    from flyweight.hub import harness

    artifact = models.find(model, session.store, watch=session.watch)
    device = session.runtime().device
    return harness.evaluate(artifact.path / "model", tasks, device, task_path, few_shot, limit, seed=session.seed)


@working
def bench(model: Model, session: Session = DEFAULT, **options: int | None) -> Measurement:
    """Return forward, prefill and decode speed, peak memory and weight bytes, measured in a fresh process."""
    return _measure("bench", model, session, **options)


@working
def audit(model: Model, data: str | None = None, session: Session = DEFAULT) -> Measurement:
    """Return the audit's checks and whether all of them passed."""
    return _measure("audit", model, session, data=data)


@working
def floors(
    data: str,
    split: str = "test",
    session: Session = DEFAULT,
    tokenizer: str | None = None,
    separator: str | None = None,
) -> Measurement:
    """Return what unigram, bigram and Kneser-Ney 5-gram models of a corpus reach on its split, and what they cost.

    `tokenizer` is a kind, or YAML as in a recipe's `data.tokenizer`; by default the corpus' own. `separator` and `notes` as in
    `evaluate`.
    """
    context = session.context(seed=session.seed)
    given = {} if tokenizer is None else {"tokenizer": config_load.parse_yaml(tokenizer, "--tokenizer")}
    if separator is not None:
        given["separator"] = separator
    config = config_load.check_stage({"stage": "floors", "data": {"corpus": data, **given}, "split": split})
    made = recipes.Runner(context).make(data, config, {}).artifact
    return _noted(Measurement(made, made.metrics()))


@working
def compare(
    compared: Sequence[Model],
    data: str | None = None,
    split: str = "test",
    session: Session = DEFAULT,
    against: Model | None = None,
    window: int | None = None,
    stride: int | None = None,
    separator: str | None = None,
) -> Compared:
    """Return the models by bits per byte, best first, each with its paired interval against one of them.

    `against` names that one, which is the best unless named. Raises RequestError where they were not scored on the same text.
    """
    store = session.store
    found = {_name(model): models.find(model, store, watch=session.watch) for model in compared}
    if len(found) < 2:
        raise RequestError("compare needs at least two different models")
    if against is not None and _name(against) not in found:
        raise RequestError(f"--against {_name(against)}: it is not among the models compared: {', '.join(found)}")
    results = {name: evaluate(artifact, data, split, window, stride, session, separator) for name, artifact in found.items()}
    scores = {name: gather.scores(result.artifact) for name, result in results.items()}
    stood = table(scores, None if against is None else _name(against))
    sizes = {name: Size.of(artifact.path / "model", artifact.facts) for name, artifact in found.items()}
    same = len({score.tokenizer for score in scores.values()}) == 1
    return Compared(stood, sizes, same, split)


def _name(model: Model) -> str:
    return model.id if isinstance(model, Artifact) else str(model)
