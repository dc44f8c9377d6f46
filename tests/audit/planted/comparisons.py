"""Mistakes of comparing: which text chooses and reports, speeds, sizes, numbers without a source."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import report_fixture as made
from audit.planted.mistake import Mistake
from audit_fixture import Lab

from flyweight.core.files import write_sealed
from flyweight.evaluation import run_checks, run_speed_checks
from flyweight.evaluation.compare import paired
from flyweight.evaluation.compared_run import ComparedRun
from flyweight.evaluation.resampling import UnitScores
from flyweight.records.audit import AuditResult, Check
from flyweight.records.bench import BenchResult, PassSeconds
from flyweight.records.metric import Metric
from flyweight.records.run_summary import Evaluation, ModelSummary
from flyweight.records.verification import Verification, VerifiedExport
from flyweight.store.artifact import Artifact, Identity
from flyweight.store.measurements import Measurements

TOKENS = 150_220
"""Tokens of the test split of the made-up corpus."""
SECONDS = (0.010, 0.011, 0.012)


def evaluation(nats: float = 4.0, **changes: Any) -> Evaluation:
    """Return a sound likelihood of the whole test split."""

    def metric(value: float, unit: str) -> Metric:
        return Metric(value, unit, "lower", TOKENS - 1, value, value)

    fields: dict[str, Any] = {
        "corpus": made.FINGERPRINT,
        "split": "test",
        "window": 256,
        "stride": 256,
        "nll": metric(nats, "nats/token"),
        "perplexity": metric(math.exp(nats), "perplexity/token"),
        "bits_per_byte": metric(nats / math.log(2) / made.BYTES_PER_TOKEN, "bits/byte"),
    }
    return Evaluation(**{**fields, **changes})


def bench(**changes: Any) -> BenchResult:
    """Return a sound bench of three timed passes."""

    def rate(tokens: int) -> Metric:
        values = sorted(tokens / seconds for seconds in SECONDS)
        return Metric(values[1], "tokens/s", "higher", 3, values[0], values[2])

    fields: dict[str, Any] = {
        "forward_ms": Metric(11.0, "ms", "lower", 3, 10.0, 12.0),
        "prefill_tokens_per_s": rate(64),
        "decode_tokens_per_s": rate(64),
        "peak_bytes": Metric.exact(1e6, "bytes"),
        "weight_bytes": Metric.exact(5e5, "bytes"),
        "disk_bytes": Metric.exact(5e5, "bytes"),
        "p95": {},
        "batch": 1,
        "prompt": 64,
        "new_tokens": 64,
        "repeats": None,
        "generate_ms": Metric(11.0, "ms", "lower", 3, 10.0, 12.0),
        "samples_per_s": Metric(90.0, "samples/s", "higher", 3, 80.0, 100.0),
        "generate_tokens": 5,
        "attention": "auto",
        "kernel": "flash",
        "engine": "torch",
        "device": "cpu",
        "precision": "fp32",
        "context": 256,
        "memory": "rss",
        "baseline_bytes": 370_000_000,
        "kernels": {},
        "threads": 1,
        "torch": "2",
        "seconds": PassSeconds(forward=SECONDS, prefill=SECONDS, decode=SECONDS, generate=SECONDS),
    }
    return BenchResult(**{**fields, **changes})


def artifact(place: Path, stage: str, metrics: Mapping[str, Any], **identity: Any) -> Artifact:
    """Write a made-up measurement and return it."""
    place.mkdir(parents=True)
    (place / "metrics.json").write_text(json.dumps(metrics))
    fields = {"stage": stage, "config": {"split": "test"}, "parents": {}, "data": None}
    fields |= {"machine": "a processor", "libraries": {"torch": "2"}, **identity}
    facts = {"corpus_fingerprint": made.FINGERPRINT}
    manifest = {"id": f"{stage}-00000000", "identity": fields, "facts": facts, "files": {}}
    return Artifact(place, manifest)


class Made:
    """A run of made-up models, each with an evaluation, a bench and an audit; it is sound."""

    def __init__(self, lab: Lab) -> None:
        self.place = lab.place
        self.models: dict[str, ModelSummary] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.measured: dict[str, Measurements] = {}

    def model(
        self,
        name: str,
        evaluated: Evaluation | None = None,
        benched: BenchResult | None = None,
        facts: Mapping[str, Any] | None = None,
        stage: str = "pretrain",
        config: Mapping[str, Any] | None = None,
        asked: str | None = None,
        seen: str | None = None,
        **bench_identity: Any,
    ) -> Made:
        """Add a model; what is left out is sound."""
        evaluated = evaluated or evaluation()
        benched = benched or bench()
        identity = {"stage": stage, "config": dict(config or {}), "parents": {}, "data": None}
        manifest = {"id": f"{stage}-{name}", "identity": identity, "facts": dict(facts or {})}
        self.artifacts[name] = Artifact(self.place / name, {**manifest, "files": {}})
        content = json.loads(evaluated.model_dump_json(exclude={"corpus"}))
        speeds = benched.to_metrics()
        if asked is not None:
            speeds |= {"attention": asked, "kernel": seen}
        scored = artifact(self.place / name / "e", "evaluate", content)
        timed = artifact(self.place / name / "b", "bench", speeds, **bench_identity)
        audited = artifact(self.place / name / "a", "audit", made.audit(1.9).to_metrics())
        self.measured[name] = Measurements((scored,), (timed,), (audited,))
        fields = {key: getattr(benched, key) for key in made.Speed.model_fields}
        self.models[name] = made.model(
            name, evaluate=evaluated, bench=made.Speed(**fields), id=f"{stage}-{name}"
        )
        return self

    def control(self, name: str, benched: BenchResult, **identity: Any) -> Made:
        """Add another bench of a model, which the table does not show."""
        place = self.place / name / f"b{len(self.measured[name].benches)}"
        timed = artifact(place, "bench", benched.to_metrics(), **identity)
        measured = self.measured[name]
        self.measured[name] = replace(measured, benches=(*measured.benches, timed))
        return self

    def run(self, **changes: Any) -> ComparedRun:
        """Return the run; fields of its summary may be replaced."""
        names = list(self.models)
        pairs = [made.compare(a, b, 0.1) for a, b in pairwise(names)]
        fields: dict[str, Any] = {
            "models": tuple(self.models.values()),
            "comparisons": tuple(pairs),
            "stages": (),
            **changes,
        }
        return ComparedRun(made.quickstart(**fields), self.artifacts, self.measured)


def two(lab: Lab, **second: Any) -> Made:
    return Made(lab).model("a").model("b", **second)


def sound(check):
    return lambda lab: check(two(lab).run())


def planted(check, **second: Any):
    return lambda lab: check(two(lab, **second).run())


HALF = bench(precision="fp16")


def controlled(lab: Lab) -> Check:
    """fp32 against NF4 in fp16 with the fp32 model in fp16 beside them."""
    return run_speed_checks.one_factor(two(lab, benched=HALF).control("a", HALF).run())


def two_tokenizers(lab: Lab, by_token: bool) -> Check:
    """Two models of one text under two tokenizers, compared by token or by byte alone."""
    other = made.corpus(fingerprint="another", tokenizer="char", source="s")
    run = two(lab, evaluated=evaluation(corpus="another")).run(
        corpus=(made.corpus(source="s"), other)
    )
    pairs = run.summary.comparisons
    if not by_token:
        pairs = tuple(pair.model_copy(update={"nll": None}) for pair in pairs)
    summary = run.summary.model_copy(update={"comparisons": pairs})
    return run_checks.same_text(replace(run, summary=summary))


def stored(root: Path, stage: str, **identity: Any) -> Path:
    """Write a made-up artifact of a runs root and return its folder."""
    known = Identity(stage=stage, version=1, config={}, **identity)
    fields = {"format": 1, "id": known.id, "identity": asdict(known), "facts": {}, "files": {}}
    (root / known.id).mkdir()
    write_sealed(root / known.id / "manifest.json", fields)
    return root / known.id


def taught(lab: Lab, text: str = "a text", aligned: float = 0.5) -> Check:
    """A student of a teacher with another tokenizer, told half of its positions."""
    made_up = two(lab, facts={"aligned": aligned})
    corpus = stored(lab.place, "corpus", data="a text", tokenizer="one")
    other = stored(lab.place, "corpus", data=text, tokenizer="other")
    parents = {"corpus": corpus.name, "corpus.teacher": other.name}
    record = stored(lab.place, "teach", parents=parents)
    told = np.zeros((3, 4, 2), np.float16)
    told[:, ::2] = -np.inf
    (record / "told").mkdir()
    np.save(record / "told" / "log_probs.npy", told)
    own = {"told": record.name, "corpus": corpus.name}
    made_up.artifacts["b"].manifest["identity"]["parents"] = own
    return run_checks.taught_text(made_up.run())


def numbers_of_no_measurement(lab: Lab) -> Check:
    made_up = two(lab)
    measured = {**made_up.measured, "b": Measurements(made_up.measured["b"].evaluations)}
    return run_checks.figures_measured(replace(made_up.run(), measured=measured))


def unmerged(lab: Lab, merge: bool) -> Check:
    made_up = Made(lab).model("base").model("adapted")
    folder = made_up.artifacts["adapted"].path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"adapters": [{"kind": "lora"}]}))
    if merge:
        made_up.model("merged", stage="merge")
        parents = made_up.artifacts["merged"].identity["parents"]
        parents["input"] = made_up.artifacts["adapted"].id
    return run_speed_checks.merged_speed(made_up.run())


def a_failed_audit(lab: Lab) -> Check:
    made_up = two(lab)
    failed = made.audit(1.9, causality="later tokens show").to_metrics()
    audit = artifact(lab.place / "failed", "audit", failed)
    assert not AuditResult.from_metrics(failed).passed
    measured = replace(made_up.measured["b"], audits=(audit,))
    return run_checks.models_audited(
        replace(made_up.run(), measured={**made_up.measured, "b": measured})
    )


def verified(lab: Lab, verdict: Literal["pass", "fail"]) -> Check:
    """A model of which an export was verified, and is it or is not."""
    made_up = two(lab)
    export = VerifiedExport(
        export="folder", format="Hugging Face", program="transformers", verdict=verdict, why=""
    )
    metrics = Verification.of([export]).to_metrics()
    others = (artifact(lab.place / "verified", "verify", metrics),)
    measured = {**made_up.measured, "b": replace(made_up.measured["b"], others=others)}
    return run_checks.exports_verified(replace(made_up.run(), measured=measured))


def padded_rates(lab: Lab) -> Check:
    """Tokens per second that count the padding of prompts, twice as many as were read."""
    rate = bench().prefill_tokens_per_s
    twice = replace(rate, value=2 * rate.value)
    return run_checks.reported_arithmetic(two(lab, benched=bench(prefill_tokens_per_s=twice)).run())


def a_gain_that_is_noise(lab: Lab) -> None:
    """The word `better` comes from a paired interval: two equal functions are undecided."""
    rng = np.random.default_rng(0)
    nll, counts = rng.normal(400, 40, 60), np.full(60, 100)
    first = UnitScores("document", nll, counts, np.full(60, 300.0), "test", "text", "tokens")
    second = replace(first, nll=nll + rng.normal(0, 1, 60))
    assert paired(first, second).verdict == "undecided"


MISTAKES = (
    Mistake(
        "reported_on_the_training_split",
        "lightgpt2",
        3,
        "evaluation reads the training loader",
        "caught",
        "choice_split",
        planted(run_checks.choice_split, evaluated=evaluation(split="train")),
        sound(run_checks.choice_split),
    ),
    Mistake(
        "memory_of_leaked_copies",
        "lightgpt2",
        5,
        "memory is read in a process that still holds other models",
        "caught",
        "same_conditions",
        planted(run_speed_checks.same_conditions, benched=bench(baseline_bytes=0)),
        sound(run_speed_checks.same_conditions),
    ),
    Mistake(
        "two_factors_at_once",
        "lightgpt2",
        7,
        "a speed-up of fp32 to fp16 with NF4, without fp16 alone",
        "caught",
        "one_factor",
        planted(run_speed_checks.one_factor, benched=HALF),
        controlled,
    ),
    Mistake(
        "adapters_not_merged",
        "lightgpt2",
        8,
        "LoRA is never merged where speed is measured",
        "caught",
        "merged_speed",
        lambda lab: unmerged(lab, merge=False),
        lambda lab: unmerged(lab, merge=True),
    ),
    Mistake(
        "unequal_lengths",
        "lightgpt2",
        9,
        "20 new tokens of one model are compared with 10 of another",
        "caught",
        "same_conditions",
        planted(run_speed_checks.same_conditions, benched=bench(new_tokens=10)),
        sound(run_speed_checks.same_conditions),
    ),
    Mistake(
        "padded_throughput",
        "lightgpt2",
        9,
        "tokens per second count padding, or batch time is divided by the batch",
        "caught",
        "reported_arithmetic",
        padded_rates,
        sound(run_checks.reported_arithmetic),
    ),
    Mistake(
        "chosen_on_what_reports",
        "lightgpt2",
        10,
        "the split that chose the model also reports it, and there is no test score",
        "caught",
        "choice_split",
        planted(
            run_checks.choice_split,
            evaluated=evaluation(split="validation"),
            facts={"best_nll": 4.0, "best_step": 8},
            config={"train": {"keep": "best"}},
        ),
        sound(run_checks.choice_split),
    ),
    Mistake(
        "no_benchmark",
        "distilqwen3",
        6,
        "speeds are printed, and nothing measured them",
        "caught",
        "figures_measured",
        numbers_of_no_measurement,
        sound(run_checks.figures_measured),
    ),
    Mistake(
        "hundred_lines",
        "compact-ladder",
        1,
        "the first hundred lines are scored, and called the test score",
        "caught",
        "whole_split",
        planted(
            run_checks.whole_split,
            evaluated=evaluation(nll=Metric(4.0, "nats/token", "lower", 2_700, 3.9, 4.1)),
        ),
        sound(run_checks.whole_split),
    ),
    Mistake(
        "a_residual_without_power",
        "compact-ladder",
        7,
        "a change that cannot add anything is credited with a gain inside the noise",
        "impossible",
        "`better` is the verdict of a paired interval, corrected for all pairs",
        a_gain_that_is_noise,
    ),
    Mistake(
        "two_tokenizers",
        "others",
        6,
        "perplexities of two tokenizers are compared",
        "caught",
        "same_text",
        lambda lab: two_tokenizers(lab, by_token=True),
        lambda lab: two_tokenizers(lab, by_token=False),
    ),
    Mistake(
        "two_machines",
        "others",
        7,
        "speeds of two machines stand in one table",
        "caught",
        "same_conditions",
        planted(run_speed_checks.same_conditions, machine="another processor"),
        sound(run_speed_checks.same_conditions),
    ),
    Mistake(
        "another_kernel",
        "others",
        8,
        "a bench names a kernel of attention, and another one ran",
        "caught",
        "attention_asked",
        planted(run_speed_checks.attention_asked, asked="flash", seen="math"),
        planted(run_speed_checks.attention_asked, asked="flash", seen="flash"),
    ),
    Mistake(
        "an_export_of_another_model",
        "others",
        10,
        "the exported file is not the model that was measured",
        "caught",
        "exports_verified",
        lambda lab: verified(lab, "fail"),
        lambda lab: verified(lab, "pass"),
    ),
    Mistake(
        "a_teacher_of_another_text",
        "others",
        11,
        "a teacher with another tokenizer reads another text than its student",
        "caught",
        "taught_text",
        lambda lab: taught(lab, text="another text"),
        taught,
    ),
    Mistake(
        "more_told_than_was",
        "others",
        12,
        "a teacher with another tokenizer told fewer positions than are reported",
        "caught",
        "taught_text",
        lambda lab: taught(lab, aligned=0.9),
        taught,
    ),
    Mistake(
        "a_broken_model_compared",
        "others",
        9,
        "a model that fails its own audit is compared",
        "caught",
        "models_audited",
        a_failed_audit,
        sound(run_checks.models_audited),
    ),
)
