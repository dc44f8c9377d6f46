"""The audit of a finished run: checks of what its report compares.

Each check takes the `ComparedRun`, the summary with the artifacts behind its numbers, and returns
one `Check`. A pair of numbers may be compared where one thing is different between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from flyweight.errors import FlyweightError
from flyweight.evaluation import run_speed_checks as speed
from flyweight.evaluation.checks import at_most, no_faults, not_applicable
from flyweight.evaluation.compared_run import ComparedRun
from flyweight.evaluation.record_checks import record_faults
from flyweight.evaluation.resampling import UNITS, UnitScores
from flyweight.records.audit import AuditResult, Check
from flyweight.records.likelihood import Likelihood
from flyweight.records.metric import Metric
from flyweight.records.run_summary import CorpusSummary, ModelSummary, Summary
from flyweight.records.verification import Verification
from flyweight.store.artifact import Artifact

ARITHMETIC = 1e-6


def audit_run(run: ComparedRun) -> AuditResult:
    """Run every check of comparisons on a finished run."""
    results = []
    for name, (check, catches) in RUN_CHECKS.items():
        try:
            result = check(run)
        except (FlyweightError, LookupError, TypeError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
            result = Check(name=name, measured=None, bound=None, verdict="fail", why=why)
        results.append(result.model_copy(update={"catches": catches}))
    return AuditResult.of(results)


# --- which text chooses, and which reports ---


def choice_split(run: ComparedRun) -> Check:
    """Check that the split which reports neither trained a model nor chose one."""
    faults = []
    reported = [model for model in run.summary.models if model.evaluate is not None]
    chooses = _choosers(run)
    for model in reported:
        assert model.evaluate is not None
        split = model.evaluate.split
        if split == "train":
            faults.append(f"{model.name} is reported on the split that it was trained on")
        elif split == "validation" and model.name in chooses:
            faults.append(f"{model.name} is reported on validation, which {chooses[model.name]}")
    faults += _task_choices(run)
    if not reported and not faults:
        return not_applicable("choice_split", "no likelihood is reported")
    splits = sorted({model.evaluate.split for model in reported if model.evaluate})
    return no_faults("choice_split", faults, f"reported on {', '.join(splits)}")


def _choosers(run: ComparedRun) -> dict[str, str]:
    """Return what the validation split chose, by the name of the model that it flatters."""
    chosen: dict[str, str] = {}
    for name, artifact in run.models.items():
        facts, config = artifact.facts, artifact.identity["config"]
        if artifact.stage == "select":
            chosen[name] = f"chose it ({facts.get('chosen')}) among several models"
        elif facts.get("best_nll") is not None and config.get("train", {}).get("keep") == "best":
            chosen[name] = f"chose its weights (of step {facts.get('best_step')})"
        elif "sweep" in facts:
            chosen[name] = "chose its sparsity"
    return chosen


def _task_choices(run: ComparedRun) -> Iterator[str]:
    for name, artifact in run.models.items():
        if artifact.stage != "select":
            continue
        task = artifact.identity["config"].get("task")
        if not task:
            continue
        raw = {"task": task} if isinstance(task, str) else task
        for score in run.measured[name].tasks:
            config = score.identity["config"]
            if (
                config["task"] == raw["task"]
                and artifact.identity["data"] == score.identity["data"]
            ):
                yield f"{name} was chosen on the rows of {raw['task']} that report its score"


def whole_split(run: ComparedRun) -> Check:
    """Check that every likelihood is of the whole split, each target counted once."""
    faults, models = [], []
    for model, text in _evaluated(run.summary):
        assert model.evaluate is not None
        parts = text.parts(model.evaluate.split)
        tokens = sum(part.tokens for part in parts)
        least = tokens - 2 * sum(max(1, part.documents) for part in parts)
        found = model.evaluate.nll.n
        models.append(model.name)
        if not least <= found <= tokens:
            faults.append(
                f"{model.name}: {found:,} targets of {tokens:,} tokens of {model.evaluate.split}"
            )
    if not models:
        return not_applicable("whole_split", "no likelihood is reported")
    return no_faults("whole_split", faults, f"{len(models)} models, each on all targets")


def same_text(run: ComparedRun) -> Check:
    """Check that paired likelihoods are of one text, and perplexities of one tokenizer."""
    texts = {model.name: (model, text) for model, text in _evaluated(run.summary)}
    faults = []
    for pair in run.summary.comparisons:
        if pair.a not in texts or pair.b not in texts:
            faults.append(f"{pair.a} and {pair.b} are compared, and one was not evaluated")
            continue
        (a, a_text), (b, b_text) = texts[pair.a], texts[pair.b]
        faults += _unlike(a, a_text, b, b_text, pair.nll is not None)
    if not run.summary.comparisons:
        return not_applicable("same_text", "no likelihoods are compared")
    sound = f"{len(run.summary.comparisons)} pairs, each on one text"
    return no_faults("same_text", faults, sound)


def _evaluated(summary: Summary) -> Iterator[tuple[ModelSummary, CorpusSummary]]:
    for model in summary.models:
        text = summary.corpus_of(model)
        if text is not None:
            yield model, text


def _unlike(
    a: ModelSummary, a_text: CorpusSummary, b: ModelSummary, b_text: CorpusSummary, tokens: bool
) -> Iterator[str]:
    """Yield why two likelihoods cannot be compared; `tokens`: also by token."""
    assert a.evaluate is not None and b.evaluate is not None
    pair = f"{a.name} and {b.name}"
    if a.evaluate.split != b.evaluate.split:
        yield f"{pair}: on {a.evaluate.split} and {b.evaluate.split}"
    if (a_text.source or a_text.name) != (b_text.source or b_text.name):
        yield f"{pair}: on the texts {a_text.name} and {b_text.name}"
    if a_text.fingerprint == b_text.fingerprint:
        if a.evaluate.split == b.evaluate.split and a.evaluate.nll.n != b.evaluate.nll.n:
            yield f"{pair}: on {a.evaluate.nll.n:,} and {b.evaluate.nll.n:,} targets"
    elif tokens:
        yield f"{pair}: NLL by token under the tokenizers {a_text.tokenizer}, {b_text.tokenizer}"


# --- arithmetic ---


def reported_arithmetic(run: ComparedRun) -> Check:
    """Check that reported numbers follow from what was scored and timed.

    Perplexity and bits per byte follow from the NLL of the units, tokens per second from the
    seconds and the tokens of each timed pass.
    """
    worst, where, count = 0.0, "", 0
    for model in run.summary.models:
        for name, found, due in (*_due_metrics(run, model), *_due_rates(run, model)):
            apart = abs(found - due) / max(abs(due), 1e-12)
            count += 1
            if not apart <= worst:
                worst, where = apart, f"{model.name}: {name} {found:.6g}, due {due:.6g}"
    if not count:
        return not_applicable("reported_arithmetic", "no likelihood and no speed is reported")
    sound = f"{count} numbers follow from what was scored and timed"
    return at_most("reported_arithmetic", worst, ARITHMETIC, where or sound)


def _due_rates(run: ComparedRun, model: ModelSummary) -> Iterator[tuple[str, float, float]]:
    """Yield a rate's name, its reported value, and what it has to be by its seconds."""
    benches = (bench for name, bench in run.reported() if name == model.name)
    bench = next(benches, None)
    if bench is None or model.bench is None:
        return
    metrics = bench.metrics()
    tokens = {"prefill": metrics["prompt"], "decode": metrics["new_tokens"]}
    for name, each in tokens.items():
        rates = [metrics["batch"] * each / seconds for seconds in metrics["seconds"][name]]
        found = getattr(model.bench, f"{name}_tokens_per_s").value
        yield f"{name} tokens/s", found, median(rates)


def _units(run: ComparedRun, model: ModelSummary) -> UnitScores | None:
    """Return the scored units behind a model's likelihood, or None where they are gone."""
    assert model.evaluate is not None
    measured = run.measured.get(model.name)
    for artifact in measured.evaluations if measured else ():
        same_text = artifact.facts.get("corpus_fingerprint") == model.evaluate.corpus
        same_split = artifact.identity["config"]["split"] == model.evaluate.split
        if same_text and same_split and (artifact.path / UNITS).is_file():
            return UnitScores.load(artifact.path / UNITS)
    return None


def _due_metrics(run: ComparedRun, model: ModelSummary) -> Iterator[tuple[str, float, float]]:
    """Yield a metric's name, its reported value, and what it has to be."""
    if model.evaluate is None:
        return
    units = _units(run, model)
    nll, perplexity, bits = (
        model.evaluate.nll.value,
        model.evaluate.perplexity.value,
        model.evaluate.bits_per_byte.value,
    )
    yield "perplexity", perplexity, math.exp(nll) if nll < 700 else math.inf
    if units is not None and math.isfinite(nll):
        yield "nll", nll, float(units.nll.sum() / units.counts.sum())
        yield "bits_per_byte", bits, float(units.text.sum() / math.log(2) / units.bytes.sum())


def figures_measured(run: ComparedRun) -> Check:
    """Check that each number of the summary stands in a measurement of the runs root."""
    faults, count = [], 0
    for model in run.summary.models:
        measured = run.measured.get(model.name)
        if measured is None:
            faults.append(f"{model.name} ({model.id}) is not in the runs root")
            continue
        if model.evaluate is not None:
            count += 1
            if model.evaluate.nll not in list(_nlls(measured.evaluations)):
                faults.append(f"{model.name}: no evaluation has its NLL")
        if model.bench is not None:
            count += 1
            figures = [bench.metrics()["metrics"]["forward_ms"] for bench in measured.benches]
            if model.bench.forward_ms.json() not in figures:
                faults.append(f"{model.name}: no bench has its speed")
    return no_faults("figures_measured", faults, f"{count} results, each with its artifact")


def _nlls(evaluations: Sequence[Artifact]) -> Iterator[Metric]:
    for artifact in evaluations:
        yield Likelihood.from_metrics(artifact.metrics()).nll


# --- the models ---


def models_audited(run: ComparedRun) -> Check:
    """Check that each compared model passed its own audit."""
    faults, count = [], 0
    for model in run.summary.models:
        measured = run.measured.get(model.name)
        for audit in measured.audits if measured else ():
            count += 1
            failed = [
                check.name
                for check in AuditResult.from_metrics(audit.metrics()).checks
                if check.verdict == "fail"
            ]
            faults += [f"{model.name} fails {name}" for name in failed]
    if not count:
        return not_applicable("models_audited", "no compared model was audited")
    return no_faults("models_audited", faults, f"{count} models passed")


def exports_verified(run: ComparedRun) -> Check:
    """Check that no export of a compared model is another model."""
    faults, count = [], 0
    for name, measured in run.measured.items():
        for artifact in measured.others:
            if artifact.stage != "verify":
                continue
            for each in Verification.from_metrics(artifact.metrics()).exports:
                count += 1
                if each.verdict == "fail":
                    faults.append(f"{name}: {each.export} is not the model ({each.why})")
    if not count:
        return not_applicable("exports_verified", "no export was verified (flyweight verify)")
    return no_faults("exports_verified", faults, f"{count} exports")


def taught_text(run: ComparedRun) -> Check:
    """Check that teachers with other tokenizers read the text of their students."""
    faults, count = [], 0
    for name, student in run.models.items():
        told = student.identity["parents"].get("told")
        folder = student.path.parent / str(told)
        if "aligned" not in student.facts or not (folder / "manifest.json").is_file():
            continue
        count += 1
        faults += [f"{name}: {why}" for why in record_faults(student, Artifact.glance(folder))]
    if not count:
        return not_applicable("taught_text", "no teacher has another tokenizer than its student")
    return no_faults("taught_text", faults, f"{count} records of the students' own text")


RUN_CHECKS: dict[str, tuple[Callable[[ComparedRun], Check], str]] = {
    "choice_split": (choice_split, "the split that trained or chose a model also reports it"),
    "whole_split": (whole_split, "a score of a part of the text, or with padding counted"),
    "same_text": (same_text, "likelihoods of different texts or tokenizers compared"),
    "reported_arithmetic": (reported_arithmetic, "reported numbers that were scaled"),
    "figures_measured": (figures_measured, "numbers without a measurement"),
    "one_factor": (speed.one_factor, "a speed-up of two changes at once, without a control"),
    "same_conditions": (speed.same_conditions, "speeds of different machines, loads or processes"),
    "attention_asked": (speed.attention_asked, "a bench that ran another kernel than it names"),
    "merged_speed": (speed.merged_speed, "the speed of adapters that should have been merged"),
    "exports_verified": (exports_verified, "an export that is not the model that was measured"),
    "taught_text": (taught_text, "a teacher across tokenizers that read another text"),
    "models_audited": (models_audited, "a compared model that fails its own audit"),
}
