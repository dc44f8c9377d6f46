"""A run read by roles: what was measured of a stage, as linked cells, or why it was not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Literal

from flyweight.config.units import (
    format_bits,
    format_count,
    format_perplexity,
    format_rate,
    format_short,
    format_short_time,
    format_size,
)
from flyweight.records.bench import BenchResult
from flyweight.records.difference import Difference
from flyweight.records.likelihood import EvaluatedSplit, Evaluation
from flyweight.records.metric import Metric
from flyweight.records.profile import ProfileResult
from flyweight.records.run_summary import (
    Curve,
    ModelSummary,
    PairedComparison,
    StageSummary,
    Summary,
    Training,
)
from flyweight.records.scores import SCORED, TaskScores
from flyweight.reports.layouts.content import LinkedCell, Printed, missing_cell
from flyweight.visible import visible

AttentionClass = Literal["flash", "eager", "math", "efficient"]
PRECISIONS = ("fp32", "bf16", "fp16")
"""Float types of products, the first one preferred where several are measured alike."""
DASH = "\N{EN DASH}"
SIGMA = "\N{GREEK CAPITAL LETTER SIGMA}"
MOST_NLL = 700.0
"""NLL whose perplexity still is a number."""


@dataclass(frozen=True)
class SpeedSetting:
    """How a speed was measured; attention that torch chooses (`auto`) counts as flash."""

    precision: str
    attention: AttentionClass
    batch: int

    @classmethod
    def of(cls, bench: BenchResult) -> SpeedSetting:
        """Return the setting of a bench."""
        return cls(bench.precision, attention_class(bench.attention), bench.batch)

    def __str__(self) -> str:
        return f"{self.precision}, {self.attention} attention, batch {self.batch}"


def attention_class(asked: str) -> AttentionClass:
    """Return the kernel that was asked for; torch's own choice counts as flash."""
    return _ASKED.get(asked, "flash")


_ASKED: dict[str, AttentionClass] = {
    "eager": "eager",
    "math": "math",
    "efficient": "efficient",
}


@dataclass(frozen=True)
class BenchFigure:
    """A number of a bench: how it is read, its unit, and how it is written."""

    read: Callable[[BenchResult], Metric]
    unit: str
    write: Callable[[float], str]


def _forward_rate(bench: BenchResult) -> Metric:
    """Return the samples a second of forward passes, from the time of a batch."""
    time, per_ms = bench.forward_ms, bench.batch * 1e3
    low, high = per_ms / time.high, per_ms / time.low
    return Metric(per_ms / time.value, "samples/s", "higher", time.n, low, high)


BENCH_FIGURES: dict[str, BenchFigure] = {
    "forward_ms": BenchFigure(lambda bench: bench.forward_ms, "ms", format_short),
    "forward_samples_per_s": BenchFigure(_forward_rate, "samples/s", format_rate),
    "generate_ms": BenchFigure(lambda bench: bench.generate_ms, "ms", format_short),
    "generate_samples_per_s": BenchFigure(
        lambda bench: bench.samples_per_s, "samples/s", format_rate
    ),
    "peak_bytes": BenchFigure(lambda bench: bench.peak_bytes, "bytes", format_size),
    "weight_bytes": BenchFigure(lambda bench: bench.weight_bytes, "bytes", format_size),
    "disk_bytes": BenchFigure(lambda bench: bench.disk_bytes, "bytes", format_size),
    "decode_tokens_per_s": BenchFigure(
        lambda bench: bench.decode_tokens_per_s, "tokens/s", format_rate
    ),
}
"""The numbers of a bench that layouts show."""


@dataclass(frozen=True)
class MeasuredBench:
    """A bench of a run: its artifact, what it is called there, its model and its result."""

    artifact: str
    name: str
    model: str
    result: BenchResult

    @property
    def setting(self) -> SpeedSetting:
        """How it was measured."""
        return SpeedSetting.of(self.result)


@dataclass(frozen=True)
class MeasuredTraining:
    """A training of a run: its artifact, what it cost, and its curve."""

    artifact: str
    cost: Training
    curve: Curve


@dataclass(frozen=True)
class MeasuredRun:
    """A finished run, asked by the names of its stages."""

    summary: Summary

    @cached_property
    def stages(self) -> dict[str, StageSummary]:
        """The recipe's stages by name."""
        return {stage.name: stage for stage in self.summary.stages}

    @cached_property
    def models(self) -> dict[str, ModelSummary]:
        """The compared models by name."""
        return {model.name: model for model in self.summary.models}

    def absent(self, name: str) -> str:
        """Return why a stage is not in the run; empty where it is."""
        if name in self.stages:
            return ""
        if name in self.summary.unmade:
            return f"the budget was spent before stage {name} was made"
        return f"there is no stage {name}: it is not in the recipe, or was left out"

    def of_kind(self, kind: str) -> list[StageSummary]:
        """Return the stages of one kind, in the recipe's order."""
        return [stage for stage in self.summary.stages if stage.stage == kind]

    # --- speed ---

    @cached_property
    def benches(self) -> tuple[MeasuredBench, ...]:
        """Every bench, each once: of the compared models, then of the recipe's own stages."""
        stages = [
            MeasuredBench(stage.id, stage.name, stage.input, stage.bench)
            for stage in self.summary.stages
            if stage.bench is not None and stage.input is not None
        ]
        models = [
            MeasuredBench(
                model.measured["bench"], f"bench of {model.name}", model.name, model.bench
            )
            for model in self.summary.models
            if isinstance(model.bench, BenchResult) and "bench" in model.measured
        ]
        return tuple({each.artifact: each for each in [*models, *stages]}.values())

    def bench(self, name: str, setting: SpeedSetting) -> MeasuredBench | None:
        """Return the bench of a model in a setting; a kernel asked for comes before torch's own."""
        alike = [each for each in self.benches if (each.model, each.setting) == (name, setting)]
        alike.sort(key=lambda each: each.result.attention == "auto")
        return alike[0] if alike else None

    def speed(
        self, name: str, setting: SpeedSetting, figure: str, printed: Printed | None = None
    ) -> LinkedCell:
        """Return a number of the bench of a model in a setting."""
        found = self.bench(name, setting)
        if found is None:
            return missing_cell(self.not_benched(name, setting), printed)
        return replace(bench_cell(found, figure), printed=printed)

    def not_benched(self, name: str, setting: SpeedSetting) -> str:
        """Return why there is no bench of a model in a setting."""
        if why := self.absent(name):
            return why
        if not any(each.model == name for each in self.benches):
            return f"no bench measures {name}"
        return f"{name} was not measured in {setting}"

    def setting_of(
        self,
        names: Iterable[str],
        batches: Sequence[int],
        attentions: Sequence[AttentionClass] = ("flash", "eager"),
    ) -> SpeedSetting:
        """Return the setting in which most of some models were measured; the first one of equals.

        The order is that of `PRECISIONS`, of `attentions`, then of `batches`.
        """
        wanted = set(names)
        measured = {(each.model, each.setting) for each in self.benches if each.model in wanted}
        settings = [SpeedSetting(*each) for each in product(PRECISIONS, attentions, batches)]
        return max(settings, key=lambda setting: sum(each == setting for _, each in measured))

    # --- quality ---

    def evaluation(self, name: str, split: EvaluatedSplit) -> tuple[Evaluation, str] | None:
        """Return the likelihood of a model on a split, and its artifact."""
        for stage in self.summary.stages:
            if stage.input == name and stage.evaluate and stage.evaluate.split == split:
                return stage.evaluate, stage.id
        model = self.models.get(name)
        if model is None or model.evaluate is None or model.evaluate.split != split:
            return None
        return model.evaluate, model.measured.get("evaluate", model.id)

    def perplexity(
        self, name: str, split: EvaluatedSplit, printed: Printed | None = None
    ) -> LinkedCell:
        """Return the perplexity of a model on a split, with its interval."""
        found = self.evaluation(name, split)
        if found is None:
            return missing_cell(self.absent(name) or _not_evaluated(name, split), printed)
        evaluation, artifact = found
        setting = f"{split} split, windows of {evaluation.window} tokens"
        cell = metric_cell(evaluation.perplexity, "1/token", format_perplexity, artifact, setting)
        return replace(cell, printed=printed)

    def difference(
        self,
        before: str,
        after: str,
        split: EvaluatedSplit,
        by: Literal["nll", "bits_per_byte"] = "bits_per_byte",
    ) -> Difference | None:
        """Return the paired difference of two models on a split, after minus before.

        None where the run has no such pair.
        """
        for pair in self._pairs(before, after, split):
            found = getattr(pair, by)
            if found is None or {pair.a, pair.b} != {before, after}:
                continue
            if pair.a == after:
                return found
            turned = {"value": -found.value, "low": -found.high, "high": -found.low}
            return found.model_copy(update=turned)
        return None

    def _pairs(
        self, before: str, after: str, split: EvaluatedSplit
    ) -> tuple[PairedComparison, ...]:
        """Return the run's paired comparisons on a split."""
        if split == "validation":
            return self.summary.validation
        models = [self.models.get(name) for name in (before, after)]
        splits = {each.evaluate.split for each in models if each and each.evaluate}
        return self.summary.comparisons if splits == {split} else ()

    def bits_per_byte(self, name: str, split: EvaluatedSplit) -> LinkedCell:
        """Return the bits per byte of a model on a split, with their interval."""
        found = self.evaluation(name, split)
        if found is None:
            return missing_cell(self.absent(name) or _not_evaluated(name, split))
        evaluation, artifact = found
        setting = f"{split} split, windows of {evaluation.window} tokens"
        return metric_cell(evaluation.bits_per_byte, "bits/byte", format_bits, artifact, setting)

    def scores(self, name: str, kind: str) -> tuple[TaskScores, str] | None:
        """Return the scores of a model on a kind of task, and their artifact."""
        for stage in self.summary.stages:
            if stage.input == name and stage.scores and stage.scores.kind == kind:
                return stage.scores, stage.id
        model = self.models.get(name)
        for place, scores in enumerate(() if model is None else model.scores):
            if model is not None and scores.kind == kind:
                return scores, model.measured.get(f"{SCORED}{place}", model.id)
        return None

    # --- models ---

    def parameters(self, name: str, count: Literal["unique", "total"] = "unique") -> LinkedCell:
        """Return the parameters of a model: `unique` as stored, `total` as executed."""
        model, stage = self.models.get(name), self.stages.get(name)
        found = stage.parameters if model is None and stage is not None else None
        identifier = "" if stage is None else stage.id
        if model is not None:
            found, identifier = model.parameters, model.id
        if found is None:
            return missing_cell(self.absent(name) or f"{name} makes no model with parameters")
        number = getattr(found, count)
        setting = "a shared matrix counts once"
        if count == "total":
            setting = "a shared matrix counts at each of its uses"
        text = format_count(number)
        return LinkedCell(number, "parameters", text, artifacts=(identifier,), setting=setting)

    # --- training ---

    def trained(self, name: str) -> MeasuredTraining | None:
        """Return the training that made a model, compared or not; None where there is none."""
        model, stage = self.models.get(name), self.stages.get(name)
        if model is not None and model.training is not None and model.curve is not None:
            return MeasuredTraining(model.id, model.training, model.curve)
        if stage is not None and stage.trained is not None:
            return MeasuredTraining(stage.id, stage.trained.training, stage.trained.curve)
        return None

    def _training(self, name: str) -> str:
        """Return why the cost of training a model is not known; empty where it is."""
        if why := self.absent(name):
            return why
        if name not in self.models:
            return f"{name} is not among the compared models (report.compare)"
        return "" if self.models[name].training else f"{name} was made without training"

    def training_steps(self, name: str) -> LinkedCell:
        """Return the steps of a training."""
        if why := self._training(name):
            return missing_cell(why)
        model = self.models[name]
        assert model.training is not None
        steps = model.training.steps
        return LinkedCell(steps, "steps", f"{steps:,}", artifacts=(model.id,))

    def training_hours(self, name: str, printed: Printed | None = None) -> LinkedCell:
        """Return the hours of a training, over those with every teacher and parent."""
        if why := self._training(name):
            return missing_cell(why, printed)
        model = self.models[name]
        assert model.training is not None
        own, total = model.training.seconds, model.training.total_seconds
        return LinkedCell(
            value=own / 3600,
            unit="h",
            text=format_short_time(own),
            sub="" if total == own else f"{SIGMA} {format_short_time(total)}",
            artifacts=(model.id,),
            printed=printed,
        )

    def training_memory(self, name: str, printed: Printed | None = None) -> LinkedCell:
        """Return the peak memory of a training's first steps in a fresh process."""
        if why := self._training(name):
            return missing_cell(why, printed)
        model = self.models[name]
        assert model.training is not None
        peak = model.training.peak_bytes
        if peak is None:
            why = f"the training memory of {name} was not measured (report.measure: memory)"
            return missing_cell(why, printed)
        artifact = model.measured.get("memory", model.id)
        return LinkedCell(
            float(peak), "bytes", format_size(peak), artifacts=(artifact,), printed=printed
        )

    # --- profiles ---

    def profiles(self, name: str) -> list[tuple[StageSummary, ProfileResult]]:
        """Return the profiles of a model."""
        return [
            (stage, stage.profile)
            for stage in self.summary.stages
            if stage.profile is not None and stage.input == name
        ]

    def profile(self, name: str, among: Sequence[str]) -> tuple[StageSummary, ProfileResult] | None:
        """Return the profile of a model, in the setting in which most of `among` were profiled."""
        settings = [
            _profile_setting(profile) for other in among for _, profile in self.profiles(other)
        ]
        if not settings:
            return None
        most = max(settings, key=settings.count)
        alike = [each for each in self.profiles(name) if _profile_setting(each[1]) == most]
        return next(iter([*alike, *self.profiles(name)]), None)

    def not_profiled(self, name: str) -> str:
        """Return why there is no profile of a model."""
        return self.absent(name) or f"no stage profile measures {name}"


def _not_evaluated(name: str, split: EvaluatedSplit) -> str:
    """Return what would have measured the perplexity of a model on a split."""
    advice = f"a stage evaluate with split: {split}"
    if split == "test":
        advice += ", or report.compare and report.measure: evaluate"
    return f"the {split} perplexity of {name} was not measured; needs {advice}"


def _profile_setting(profile: ProfileResult) -> tuple[str, str, int]:
    return profile.precision, attention_class(profile.attention), profile.tokens


def bench_cell(measured: MeasuredBench, figure: str) -> LinkedCell:
    """Return a number of a bench, with how it was measured."""
    known, bench = BENCH_FIGURES[figure], measured.result
    setting = f"{measured.setting}, kernel {visible(bench.kernel)}, engine {bench.engine}"
    return metric_cell(known.read(bench), known.unit, known.write, measured.artifact, setting)


def metric_cell(
    metric: Metric, unit: str, write: Callable[[float], str], artifact: str, setting: str = ""
) -> LinkedCell:
    """Return a metric as a cell; its interval stands below it where it is not exact."""
    interval = ""
    if metric.low < metric.high:
        interval = f"{write(metric.low)}{DASH}{write(metric.high)}"
    return LinkedCell(
        value=metric.value,
        unit=unit,
        text=write(metric.value),
        sub=interval,
        low=metric.low,
        high=metric.high,
        artifacts=(artifact,),
        setting=setting,
    )


def perplexity_cell(nll: float, artifact: str) -> LinkedCell:
    """Return the perplexity of a mean NLL in nats per token."""
    value = math.exp(nll) if nll < MOST_NLL else math.inf
    return LinkedCell(value, "1/token", format_perplexity(value), artifacts=(artifact,))
