"""The stages that measure: each writes one `metrics.json` and belongs to the machine it ran on."""

from __future__ import annotations

from typing import Any

from flyweight.checkpoints import load_any
from flyweight.config import schema
from flyweight.core.files import disk_errors, write_json
from flyweight.data.corpus import Corpus
from flyweight.data.document import SPLITS
from flyweight.decode import stream
from flyweight.evaluation import audit, bench, floors, likelihood
from flyweight.evaluation.resampling import UNITS
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs, Stage


def _corpus(inputs: Inputs) -> Corpus | None:
    return None if inputs.corpus is None else Corpus.open(inputs.text(), verify=False)


def _documents(config: schema.Evaluate, inputs: Inputs) -> str:
    """Return how the text's documents are read: as the config says, or as the model was trained."""
    if config.data is not None:
        return config.data.documents
    return inputs.artifacts["input"].facts.get("documents", "joined")


class Evaluate(Stage[schema.Evaluate]):
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
        result = likelihood.evaluate(
            model,
            corpus.held_out() if config.split == "validation+test" else corpus.split(config.split),
            window=window,
            stride=config.stride or window,
            batch=config.batch,
            device=device,
            metrics=config.metrics,
            progress=lambda done: draft.events.watch(
                "scoring", {"what": inputs.name, "done": done}
            ),
            isolated=_documents(config, inputs) == "isolated",
        )
        write_json(draft.path / "metrics.json", result.json())
        with disk_errors(draft.path):
            result.units.labelled(draft.identity.data or "", draft.identity.tokenizer or "").save(
                draft.path / UNITS
            )
        return {"corpus_fingerprint": corpus.meta.fingerprint}


class Floors(Stage[schema.Floors]):
    """Unigram, bigram and Kneser-Ney 5-gram on one split."""

    version = 3

    def run(
        self, config: schema.Floors, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Count the training split and score the named one."""
        corpus = _corpus(inputs)
        assert corpus is not None
        draft.events.watch("scoring", {"what": "n-gram floors", "done": 0.0})
        write_json(draft.path / "metrics.json", floors.floors(corpus, config.split).json())
        return {"corpus_fingerprint": corpus.meta.fingerprint}


class Bench(Stage[schema.Bench]):
    """Speed and memory in a fresh process."""

    version = 2

    def run(
        self, config: schema.Bench, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Time the model in a child process of its own."""
        runtime = context.runtime
        draft.events.watch("scoring", {"what": f"speed of {inputs.name}", "done": 0.0})
        result = bench.bench(inputs.model("input"), config, runtime.device, threads=runtime.threads)
        write_json(draft.path / "metrics.json", result.json())
        return {}


class Audit(Stage[schema.Audit]):
    """The checks without which a number is worth nothing."""

    version = 2

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
        )
        write_json(draft.path / "metrics.json", result.json())
        return {"passed": result.passed}


class Sample(Stage[schema.Sample]):
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
            temperature=config.temperature,
            top_p=config.top_p,
            seed=context.runtime.seed,
        )
        samples = [
            {"prompt": prompt, "text": text}
            for prompt, text in zip(config.prompts, texts, strict=True)
        ]
        write_json(draft.path / "metrics.json", {"samples": samples})
        return {}


STAGES: dict[str, Stage[Any]] = {
    "evaluate": Evaluate(),
    "floors": Floors(),
    "bench": Bench(),
    "audit": Audit(),
    "sample": Sample(),
}
