"""Measurements of one model or of several: each is an artifact of its own.

Part of `flyweight.api`.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from flyweight.api import model_references
from flyweight.api.comparison import Compared, Size
from flyweight.api.session import DEFAULT, Session, uses_runs_root
from flyweight.config import catalogue, load as config_load, schema
from flyweight.errors import RequestError
from flyweight.evaluation.compare import BITS, compare_models
from flyweight.evaluation.compared_run import ComparedRun
from flyweight.evaluation.run_checks import audit_run
from flyweight.pipeline.runner import Runner
from flyweight.records.audit import AuditResult
from flyweight.records.lm_eval import LmEvalScores
from flyweight.records.metric import Metric
from flyweight.records.run_summary import Summary
from flyweight.records.scores import TaskScores
from flyweight.reports import unit_scores
from flyweight.store.artifact import Artifact

Model = str | Path | Artifact
"""The types that MODEL may have; see `flyweight.api.model_references`."""

OF_TRAINED = ("evaluate", "score", "lm_eval", "verify")
"""Measurements that say nothing of random weights."""


@dataclass(frozen=True, repr=False)
class Measurement:
    """A measurement's artifact.

    Its metrics are attributes: `evaluate(...).bits_per_byte.value`, `audit(...).passed`.
    """

    artifact: Artifact
    values: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Measurement {self.artifact.stage}: {', '.join(self.values)}>"

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.values]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "values":
            raise AttributeError(name)
        metrics = {**self.values.get("metrics", {}), **self.values}
        if name not in metrics:
            raise AttributeError(f"no metric {name!r}; there are {', '.join(metrics)}")
        value = metrics[name]
        if isinstance(value, dict) and set(value) == set(Metric.__dataclass_fields__):
            return Metric(**value)
        return value

    def json(self) -> dict[str, Any]:
        """Return everything measured as plain data."""
        return {"id": self.artifact.id, **self.values}


def _measure(kind: str, model: Model, session: Session, **fields: Any) -> Measurement:
    context = session.context(seed=session.seed)
    if not isinstance(model, Artifact) and model_references.is_config(model):
        if kind in OF_TRAINED:
            raise RequestError(
                f"{model}: this is a config; its random weights have nothing to evaluate"
            )
        fresh = schema.Initialise(stage="init", model=model_references.config(model))
        artifact = Runner(context).make(str(model), fresh, {}).artifact
    else:
        configs = () if kind in OF_TRAINED else catalogue.names()
        artifact = model_references.find(model, context.store, watch=context.watch, also=configs)
    data, separator = fields.pop("data", None), fields.pop("separator", None)
    if data is not None:
        fields["data"] = data_for(artifact, data, separator)
    elif separator is not None:
        raise RequestError(
            "--separator: it cuts a text file into documents; name the file with --data"
        )
    config = config_load.check_stage(
        {"stage": kind, "input": artifact.id, **{k: v for k, v in fields.items() if v is not None}}
    )
    measured = Runner(context).make(_name(model), config, {"input": artifact}).artifact
    return Measurement(measured, measured.metrics())


def data_for(artifact: Artifact, data: str, separator: str | None = None) -> dict[str, object]:
    """Return a data config that reads `data` with the model's own tokenizer and context.

    Raises RequestError for a model without a tokenizer.
    """
    tokenizer = artifact.path / "model" / "tokenizer.json"
    if not tokenizer.exists():
        raise RequestError(f"{artifact.id} has no tokenizer: it cannot read {data}")
    from flyweight.checkpoints import load_any as hub

    window = hub.window(hub.config(artifact.path / "model"))
    fields = {
        "corpus": data,
        "tokenizer": {"kind": "file", "path": str(tokenizer)},
        "context": window,
    }
    if separator is not None:
        fields["separator"] = separator
    return fields


@uses_runs_root
def evaluate(
    model: Model,
    data: str | Path | None = None,
    split: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    separator: str | None = None,
    metrics: Sequence[str] = (),
    task: str | Path | None = None,
    limit: int | None = None,
    new_tokens: int | None = None,
    bad_rows: int | None = None,
    session: Session = DEFAULT,
) -> Measurement:
    """Return a model's likelihood on a split, or its scores on a task, with 95 % intervals.

    The metrics are `nll` (nats per token), `perplexity`, `word_perplexity` and `bits_per_byte`, and
    those that `metrics` names, such as `accuracy`. `data` is a corpus: a name, file, folder, glob
    or `hf:owner/name`. By default it is the one that the model was trained on, of which the split
    is `test`. `window` tokens are read at once (default: the model's context), every `stride`
    tokens (default: the window). `separator` is the text between the documents of a text file.
    `notes` says where bits per byte are too good because the tokens do not give the text back.

    With a `task` (squad, dialogue, summarize, or a file of prompts and completions) the model
    answers its prompts, of the split `validation`. The metrics are then `exact_match` and `f1` (in
    percent), `rouge1`, `rouge2`, `rougeL`, `distinct_1`, `distinct_2` and `completion_perplexity`,
    or those that `metrics` names; `floors` has those of answers without a model. `limit` takes that
    many rows, drawn over all contexts, and `new_tokens` is the longest answer. Up to `bad_rows`
    rows that cannot be read are left out.

    Raises RequestError for a request that is wrong.
    """
    if task is not None:
        if data is not None or separator is not None or stride is not None:
            raise RequestError(
                "--task: a task brings its own texts; leave --data, --separator and --stride out"
            )
        fields = {
            "task": str(task),
            "split": split,
            "limit": limit,
            "new_tokens": new_tokens,
            "window": window,
            "bad_rows": bad_rows,
            "metrics": tuple(metrics),
        }
        return _measure("score", model, session, **fields)
    if limit is not None or new_tokens is not None or bad_rows is not None:
        raise RequestError("--limit, --new-tokens and --bad-rows belong to --task")
    fields = {
        "data": data and str(data),
        "separator": separator,
        "split": split,
        "window": window,
        "stride": stride,
        "metrics": tuple(metrics),
    }
    return _with_notes(_measure("evaluate", model, session, **fields))


def _with_notes(measurement: Measurement) -> Measurement:
    losses = unit_scores.losses(measurement.artifact)
    notes = [] if losses is None else [losses]
    return Measurement(measurement.artifact, {**measurement.values, "notes": notes})


@uses_runs_root
def tasks(
    model: Model,
    tasks: Sequence[str],
    task_path: str | Path | None = None,
    few_shot: int | None = None,
    limit: int | None = None,
    session: Session = DEFAULT,
) -> dict[str, dict[str, dict[str, JsonValue]]]:
    """Return lm-eval's metrics of a model by task, each with its 95 % interval over questions.

    A metric has `value`, `low`, `high`, `stderr` (lm-eval's own standard error), `n`, `unit` and
    `better`. `task_path` is a folder with tasks of one's own. `few_shot` is the number of examples
    before each question, and `limit` the number of questions of each task, from the first. What was
    measured before is found again. Raises RequestError for tasks that lm-eval does not know, and
    for models that it cannot ask.
    """
    fields = {
        "tasks": list(tasks),
        "task_path": None if task_path is None else str(task_path),
        "few_shot": few_shot,
        "limit": limit,
    }
    measured = _measure("lm_eval", model, session, **fields)
    return LmEvalScores.from_metrics(measured.values).by_task()


@uses_runs_root
def bench(
    model: Model,
    batch: int = 1,
    new_tokens: int | None = None,
    prompt: int | None = None,
    repeats: int | None = None,
    precision: str | None = None,
    attention: str | None = None,
    engine: str | None = None,
    generate_tokens: int | None = None,
    session: Session = DEFAULT,
) -> Measurement:
    """Return forward, prefill and decode speed, peak memory and weight bytes of a model or config.

    A fresh process measures `repeats` times (default: five to fifteen, as fits two seconds). It
    computes `batch` sequences at once, reads `prompt` tokens and generates `new_tokens` (default 64
    each, fewer where the context is shorter). `precision` (fp32, bf16, fp16) is that of products,
    `attention` its kernel (auto, eager, math, flash, efficient), `engine` what multiplies a few
    rows (auto, eager, compiled). `generate_ms` is an answer of `generate_tokens` (default 5) with
    its prompt. Raises FlyweightError where a profiler sees another kernel than the one asked for.
    """
    return _measure(
        "bench",
        model,
        session,
        batch=batch,
        new_tokens=new_tokens,
        prompt=prompt,
        repeats=repeats,
        precision=precision,
        attention=attention,
        engine=engine,
        generate_tokens=generate_tokens,
    )


@uses_runs_root
def profile(
    model: Model,
    new_tokens: int | None = None,
    prompt: int | None = None,
    trace: str | Path | None = None,
    precision: str | None = None,
    attention: str | None = None,
    engine: str | None = None,
    session: Session = DEFAULT,
) -> Measurement:
    """Return the operators of one generation, their calls and milliseconds, in a fresh process.

    `prompt` tokens are read (default 64, fewer where the context is shorter) and `new_tokens`
    (default 20) generated. `trace` is a file for the events of the first new tokens, as Perfetto
    and Chrome show them, compressed where it ends in .gz. `precision`, `attention` and `engine` are
    those of `bench`, and so is what is raised.
    """
    measured = _measure(
        "profile",
        model,
        session,
        new_tokens=new_tokens,
        prompt=prompt,
        precision=precision,
        attention=attention,
        engine=engine,
    )
    if trace is not None:
        _copy_trace(measured.artifact, Path(trace))
    return measured


def _copy_trace(artifact: Artifact, target: Path) -> None:
    """Write a profile's trace to a file; raise RequestError where that cannot be written."""
    packed = (artifact.path / "trace.json.gz").read_bytes()
    try:
        target.write_bytes(packed if target.suffix == ".gz" else gzip.decompress(packed))
    except OSError as error:
        raise RequestError(
            f"--trace {target}: {error.strerror}; name a file that can be written"
        ) from error


@uses_runs_root
def audit(
    model: Model, data: str | Path | None = None, session: Session = DEFAULT
) -> Measurement | AuditResult:
    """Return an audit: its `checks` (leaks, padding, caches, sizes), and whether all `passed`.

    `model` may be a config as well, which gets random weights. `data` is the text for the checks
    that need one. By default it is the corpus that the model was trained on.

    A finished run, by its name or folder, is audited for what it compares: which split chose and
    which reports, whether texts and conditions are equal, and whether a speed-up has one cause. The
    audits of its models are part of that. Raises RequestError for a run with `data`.
    """
    run = model_references.finished_run(model, session.store)
    if run is None:
        return _measure("audit", model, session, data=data and str(data))
    if data is not None:
        raise RequestError(
            f"--data {data}: the audit of the run {run.name} reads its own results; leave it out, "
            f"or name one of its models, {run.name}:STAGE"
        )
    return audit_run(ComparedRun.of(Summary.read(run), session.store))


@uses_runs_root
def verify(
    model: Model,
    export: Model | None = None,
    data: str | Path | None = None,
    tokens: int | None = None,
    within: float | None = None,
    session: Session = DEFAULT,
) -> Measurement:
    """Return whether an export is the model that was measured: its `exports`, and `passed`.

    `export` is a Hugging Face folder, a GGUF file, an adapter of peft's, or another model. The
    program that will use it reads it: transformers, peft, llama.cpp where it is installed. Without
    `export`, the model is written in every format that can hold it, and each is verified. A
    quantized or merged model is compared with the one before it as well.

    Each export has the NLL of both, the mean and the 99.9 % quantile of the divergence per token,
    and how often both find the same token most probable, with 95 % intervals. They are measured on
    the first `tokens` (default 16,384) of the validation split. `data` is the text, by default the
    model's own.
    `within` is the share of the NLL that may be lost: by default 1e-4 where an export keeps the
    weights, 1e-3 in 16 bits and 5 % in fewer. Raises RequestError for a path that is not an export,
    and where no program here can read it.
    """
    named = None
    if export is not None:
        named = str(_export(export, session))
    fields = {"export": named, "tokens": tokens, "within": within}
    return _measure("verify", model, session, data=data and str(data), **fields)


def _export(export: Model, session: Session) -> Path:
    """Return the path of an export: its own, or the folder of the model that it names."""
    if isinstance(export, str | Path):
        path = Path(export).expanduser()
        if path.exists() and not (path / "manifest.json").is_file():
            return path
    found = model_references.find(export, session.store, "EXPORT", session.watch)
    if not (found.path / "model").is_dir():
        raise RequestError(f"EXPORT: {found.id} holds no model")
    return found.path / "model"


@uses_runs_root
def floors(
    data: str | Path,
    split: str = "test",
    tokenizer: str | Mapping[str, object] | None = None,
    separator: str | None = None,
    session: Session = DEFAULT,
) -> Measurement:
    """Return the quality of unigram, bigram and Kneser-Ney 5-gram models on a split.

    `unigram`, `bigram` and `kn5` are perplexities per token; the models' costs come with them.
    `tokenizer` is a kind, YAML as in a recipe's `data.tokenizer`, or its fields. By default it is
    the corpus' own. `separator` and `notes` are those of `evaluate`.
    """
    context = session.context(seed=session.seed)
    kind = tokenizer
    if isinstance(tokenizer, str):
        kind = config_load.parse_yaml(tokenizer, "--tokenizer")
    fields: dict[str, Any] = {"corpus": str(data)}
    if kind is not None:
        fields["tokenizer"] = kind
    if separator is not None:
        fields["separator"] = separator
    stage = {"stage": "floors", "data": fields, "split": split}
    measured = Runner(context).make(str(data), config_load.check_stage(stage), {}).artifact
    return _with_notes(Measurement(measured, measured.metrics()))


@uses_runs_root
def compare(
    *compared: Model,
    data: str | Path | None = None,
    split: str | None = None,
    against: Model | None = None,
    window: int | None = None,
    stride: int | None = None,
    separator: str | None = None,
    metric: str | None = None,
    task: str | Path | None = None,
    limit: int | None = None,
    new_tokens: int | None = None,
    bad_rows: int | None = None,
    session: Session = DEFAULT,
) -> Compared:
    """Return models by a metric, best first, with paired intervals against one of them.

    `fw.compare("mine:student", "mine:alone")`. `against` names the reference, by default the best.
    `data` is the text. By default it is the corpus that each model was trained on. `window` and
    `stride` are in tokens. `metric` is bits per byte unless another is named, such as `accuracy`.
    With a `task` the models answer the same rows, and the task's own metric decides, such as `f1`;
    `limit`, `new_tokens` and `bad_rows` are those of `evaluate`. Raises RequestError for an unknown
    metric, and where the models were not scored on the same text.
    """
    store = session.store
    models = {
        _name(model): model_references.find(model, store, watch=session.watch) for model in compared
    }
    if len(models) < 2:
        raise RequestError("compare needs at least two different models")
    if against is not None and _name(against) not in models:
        raise RequestError(
            f"--against {_name(against)}: it is not among the models compared: {', '.join(models)}"
        )
    asked = () if metric in (None, BITS) or task is not None else (str(metric),)
    results = {
        name: evaluate(
            artifact,
            data,
            split,
            window,
            stride,
            separator,
            asked,
            task=task,
            limit=limit,
            new_tokens=new_tokens,
            bad_rows=bad_rows,
            session=session,
        )
        for name, artifact in models.items()
    }
    of_task: dict[str, TaskScores] = {}
    if task is not None:
        of_task = {name: TaskScores.from_metrics(result.values) for name, result in results.items()}
    decides = metric or next((scores.decides for scores in of_task.values()), BITS)
    scores = {name: unit_scores.of(result.artifact) for name, result in results.items()}
    comparison = compare_models(scores, None if against is None else _name(against), metric=decides)
    sizes = {
        name: Size.of(artifact.path / "model", artifact.facts) for name, artifact in models.items()
    }
    same = len({score.tokenizer for score in scores.values()}) == 1
    measured = next(iter(scores.values())).split
    return Compared(comparison, sizes, same_tokenizer=same, split=measured, scores=of_task)


def _name(model: Model) -> str:
    if not isinstance(model, str | Path | Artifact):
        raise RequestError(
            f"a model is a name, a folder or an artifact (run[stage]), not {model!r:.80}"
        )
    return model.id if isinstance(model, Artifact) else str(model)
