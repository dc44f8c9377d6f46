"""The stages that measure: each writes one `metrics.json` and belongs to the machine it ran on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flyweight.checkpoints import harness, load_any
from flyweight.config import schema
from flyweight.core.files import disk_errors, write_json
from flyweight.data.corpus import Corpus
from flyweight.data.document import SPLITS
from flyweight.data.tasks import Examples, read_examples
from flyweight.decode import stream
from flyweight.decode.stream import tokenizer_of
from flyweight.errors import FlyweightError
from flyweight.evaluation import audit, bench, floors, likelihood, lm_eval_scores, profile, tasks
from flyweight.evaluation.checks import History
from flyweight.evaluation.resampling import UNITS
from flyweight.records.sample import Continuation, samples_json
from flyweight.store.artifact import Artifact, Draft, Store
from flyweight.store.measurements import weights
from flyweight.store.stage import Context, Inputs, Stage

FEWER_WINDOWS = "an evaluate stage with a smaller batch reads fewer windows at once"
"""What to do where an evaluation is past the limit of memory."""


def _corpus(inputs: Inputs) -> Corpus | None:
    return None if inputs.corpus is None else Corpus.open(inputs.text(), verify=False)


def _documents(config: schema.Evaluate, inputs: Inputs) -> str:
    """Return how the text's documents are read: as the config says, or as the model was trained."""
    if config.data is not None:
        return config.data.documents
    return inputs.artifacts["input"].facts.get("documents", "joined")


class EvaluateStage(Stage[schema.Evaluate]):
    """Likelihood on one split."""

    version = 3

    def run(
        self, config: schema.Evaluate, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Score every target of the split once.

        Write the metrics and the units of the paired bootstrap.
        """
        device, corpus = context.runtime.device, _corpus(inputs)
        assert corpus is not None
        model = load_any.load(inputs.model("input"), device)
        corpus.require_rows(
            model.config.vocab_size or 0,
            [name for name in SPLITS if name in config.split.split("+")],
        )
        window = config.window or load_any.window(model.config)

        def progress(done: float) -> None:
            draft.events.watch("scoring", {"what": inputs.name, "done": done})
            context.meter.hold_memory(f"the evaluation of {inputs.name}", FEWER_WINDOWS)

        result = likelihood.evaluate(
            model,
            corpus.held_out() if config.split == "validation+test" else corpus.split(config.split),
            window=window,
            stride=config.stride or window,
            batch=config.batch,
            device=device,
            metrics=config.metrics,
            progress=progress,
            isolated=_documents(config, inputs) == "isolated",
        )
        write_json(draft.path / "metrics.json", result.likelihood.to_metrics())
        with disk_errors(draft.path):
            result.units.labelled(draft.identity.data or "", draft.identity.tokenizer or "").save(
                draft.path / UNITS
            )
        return {"corpus_fingerprint": corpus.meta.fingerprint}


class FloorsStage(Stage[schema.Floors]):
    """Unigram, bigram and Kneser-Ney 5-gram on one split."""

    version = 3

    def run(
        self, config: schema.Floors, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Count the training split and score the named one."""
        corpus = _corpus(inputs)
        assert corpus is not None
        draft.events.watch("scoring", {"what": "n-gram floors", "done": 0.0})
        write_json(draft.path / "metrics.json", floors.floors(corpus, config.split).to_metrics())
        return {"corpus_fingerprint": corpus.meta.fingerprint}


class BenchStage(Stage[schema.Bench]):
    """Speed and memory in a fresh process."""

    version = 3

    def run(
        self, config: schema.Bench, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Time the model in a child process of its own."""
        runtime = context.runtime
        draft.events.watch("scoring", {"what": f"speed of {inputs.name}", "done": 0.0})
        result = bench.bench(inputs.model("input"), config, runtime.device, threads=runtime.threads)
        write_json(draft.path / "metrics.json", result.to_metrics())
        return {}


class ProfileStage(Stage[schema.Profile]):
    """The operators of one generation in a fresh process."""

    version = 2

    def run(
        self, config: schema.Profile, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Profile the model in a child process of its own."""
        runtime = context.runtime
        draft.events.watch("scoring", {"what": f"profile of {inputs.name}", "done": 0.0})
        model, trace = inputs.model("input"), draft.path / profile.TRACE
        result = profile.profile(model, config, runtime.device, runtime.threads, trace)
        write_json(draft.path / "metrics.json", result.to_metrics())
        return {}


class AuditStage(Stage[schema.Audit]):
    """The checks without which a number is worth nothing."""

    version = 3

    def run(
        self, config: schema.Audit, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Run every check; a check that fails is a result, not an error."""
        draft.events.watch("scoring", {"what": f"audit of {inputs.name}", "done": 0.0})
        result = audit.audit(
            inputs.model("input"),
            _corpus(inputs),
            context.runtime.device,
            seed=context.runtime.seed,
            only=config.checks,
            history=_history(inputs.artifacts["input"], context.store),
        )
        write_json(draft.path / "metrics.json", result.to_metrics())
        return {"passed": result.passed}


def _history(artifact: Artifact, store: Store) -> History:
    """Return how a model was made; a `select` stands for the model that it chose."""
    parents = artifact.identity["parents"]
    if artifact.stage == "select":
        made = (_kept(parent, store) for parent in parents.values())
        same = (each for each in made if each is not None and weights(each) == weights(artifact))
        chosen = next(same, None)
        return History(artifact) if chosen is None else _history(chosen, store)
    parent = parents.get("input")
    return History(artifact, None if parent is None else _kept(parent, store))


def _kept(name: str, store: Store) -> Artifact | None:
    """Return an artifact of the runs root, checked; None where it is gone or damaged."""
    try:
        return Artifact.open(store.root / name)
    except FlyweightError:
        return None


class SampleStage(Stage[schema.Sample]):
    """Continuations of prompts."""

    version = 3

    def run(
        self, config: schema.Sample, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Continue every prompt with the stage's seed."""
        texts = stream.texts(
            inputs.model("input"),
            config.prompts,
            context.runtime.device,
            max_new_tokens=config.new_tokens,
            engine="eager",  # the same text on every machine
            temperature=config.temperature,
            top_p=config.top_p,
            seed=context.runtime.seed,
        )
        samples = [
            Continuation(prompt=prompt, text=text)
            for prompt, text in zip(config.prompts, texts, strict=True)
        ]
        write_json(draft.path / "metrics.json", samples_json(samples))
        return {}


class ScoreStage(Stage[schema.Score]):
    """Answers to a task and their scores."""

    version = 1

    def data_fingerprint(self, config: schema.Score, data_dir: Path | None) -> str:
        """Return the checksum of the task's rows, as they are now."""
        return tasks.task_fingerprint(_examples(config, data_dir).rows)

    def run(
        self, config: schema.Score, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Answer every prompt, and write the scores and every context's sums."""
        examples = _examples(config, context.data_dir)
        if tasks.task_fingerprint(examples.rows) != draft.identity.data:
            raise FlyweightError(f"{config.task}: its files have changed meanwhile; start again")
        scored = tasks.score_model(
            inputs.model("input"),
            config,
            context.data_dir,
            context.runtime.device,
            progress=lambda done: draft.events.watch(
                "scoring", {"what": f"{inputs.name} on {config.task}", "done": done}
            ),
            examples=examples,
        )
        write_json(draft.path / "metrics.json", scored.record.to_metrics())
        tokenizer = tokenizer_of(inputs.model("input")).fingerprint
        with disk_errors(draft.path):
            scored.units.labelled(scored.record.fingerprint, tokenizer).save(draft.path / UNITS)
        return {
            "rows": scored.record.rows,
            "origin": scored.record.origin,
            "lossy": scored.units.lossy,
        }


def _examples(config: schema.Score, data_dir: Path | None) -> Examples:
    return read_examples(config.task, config.split, data_dir, config.bad_rows)


class LmEvalStage(Stage[schema.LmEval]):
    """Metrics of lm-eval's tasks, and each question's part of them."""

    version = 1

    def data_fingerprint(self, config: schema.LmEval, data_dir: Path | None) -> str:
        """Return the checksum of lm-eval's version and of one's own task files, as they are now."""
        return harness.fingerprint(config.task_path)

    def run(
        self, config: schema.LmEval, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Ask the model every question, and write the metrics and what each question adds."""
        request = lm_eval_request(config, context.runtime.seed)
        draft.events.watch(
            "scoring", {"what": f"{inputs.name} on {', '.join(config.tasks)}", "done": 0.0}
        )
        raw = harness.run(inputs.model("input"), request, context.runtime.device)
        measured = lm_eval_scores.measured(raw, config.few_shot, harness.version())
        write_json(draft.path / "metrics.json", measured.record.to_metrics())
        with disk_errors(draft.path):
            measured.questions.save(draft.path / lm_eval_scores.QUESTIONS)
        return {"tasks": list(measured.record.tasks)}


def lm_eval_request(config: schema.LmEval, seed: int) -> harness.TaskRequest:
    """Return what a stage asks of lm-eval."""
    return harness.TaskRequest.of(
        config.tasks, config.task_path, config.few_shot, config.limit, config.batch, seed
    )


STAGES: dict[str, Stage[Any]] = {
    "evaluate": EvaluateStage(),
    "floors": FloorsStage(),
    "bench": BenchStage(),
    "profile": ProfileStage(),
    "audit": AuditStage(),
    "sample": SampleStage(),
    "score": ScoreStage(),
    "lm_eval": LmEvalStage(),
}
