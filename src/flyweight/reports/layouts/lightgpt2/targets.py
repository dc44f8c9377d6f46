"""The five targets of LightGPT2: reached or not, beside the controls that the paper lacks."""

from __future__ import annotations

import math
from dataclasses import replace

from flyweight.records.difference import Difference
from flyweight.records.likelihood import EvaluatedSplit
from flyweight.reports.layouts.bounds import Bound, change_cell, compared, judged
from flyweight.reports.layouts.content import (
    LinkedCell,
    PaperTarget,
    Printed,
    TargetComparison,
    TargetTable,
    first_missing,
    missing_cell,
)
from flyweight.reports.layouts.lightgpt2.roles import (
    ALONE,
    BASELINE,
    BASELINE_LIGHT,
    BASELINE_LORA,
    BATCH,
    LIGHT,
    LONGER,
    MERGED,
    PIPELINE,
    TUNED,
)
from flyweight.reports.layouts.measured_run import PRECISIONS, MeasuredRun, SpeedSetting

SPLITS: tuple[EvaluatedSplit, ...] = ("validation", "test")
"""The splits that perplexity is judged on."""


LESS_60 = Bound(-0.60, "at most", "share")
LESS_25 = Bound(-0.25, "at most", "share")
TWICE = Bound(2.0, "at least", "times")
ONE_MORE = Bound(1.0, "at most", "difference")


def targets(run: MeasuredRun) -> TargetTable:
    """Return the paper's five targets with verdicts."""
    notes = (
        "Each comparison says what is equal on both sides. Controls judge nothing: they show what "
        "one part of the pipeline, or another way, is worth.",
        "The range of a change of speed or memory is that of the ends of both intervals; that of "
        "perplexity is the 95 % interval of the paired difference, where the run has one.",
    )
    made = (
        _training_memory(run),
        _inference_memory(run),
        _forward_latency(run),
        _forward_throughput(run),
        _perplexity(run),
    )
    return TargetTable("targets", "The paper's targets", made, notes)


# --- the five ---


def _training_memory(run: MeasuredRun) -> PaperTarget:
    before = run.training_memory(BASELINE, Printed(12031.7, "MB"))
    after = run.training_memory(TUNED, Printed(4024.2, "MB"))
    of_lora = run.training_memory(BASELINE_LORA)
    controls = [
        ("the baseline trained whole, its adapters alone", of_lora),
        (
            "the baseline trained whole, the largest training of the pipeline",
            _largest_training(run),
        ),
    ]
    plain = replace(before, printed=None)
    return PaperTarget(
        key="training_memory",
        title="training memory",
        asked="60 % less",
        claimed="66 % less",
        judged=(
            compared("the baseline trained whole, adapters of the student", before, after, LESS_60),
        ),
        controls=tuple(compared(what, plain, other, LESS_60) for what, other in controls),
    )


def _largest_training(run: MeasuredRun) -> LinkedCell:
    """Return the peak memory of the pipeline's largest training; missing where one is unknown."""
    cells = [run.training_memory(role) for role in PIPELINE if role in run.stages]
    known = [cell for cell in cells if cell.number is not None]
    if not known:
        return missing_cell(first_missing(cells) or "the run has no training of the pipeline")
    largest = max(known, key=lambda cell: cell.number or 0.0)
    unknown = [cell.missing for cell in cells if cell.missing]
    return missing_cell(unknown[0]) if unknown else largest


def _inference_memory(run: MeasuredRun) -> PaperTarget:
    setting = run.setting_of((BASELINE, LIGHT), (BATCH, 1))
    return PaperTarget(
        key="inference_memory",
        title="inference memory",
        asked="25 % less",
        claimed="27.3 % less",
        judged=(_benched(run, "peak_bytes", setting, LESS_25, _printed(2112.2, 1537.0, "MB")),),
        controls=_speed_controls(run, "peak_bytes", setting, LESS_25),
    )


def _forward_latency(run: MeasuredRun) -> PaperTarget:
    setting = run.setting_of((BASELINE, LIGHT), (1,))
    return PaperTarget(
        key="forward_latency",
        title="forward latency",
        asked="60 % less",
        claimed="62 % less",
        judged=(_benched(run, "forward_ms", setting, LESS_60, _printed(8.9, 3.0, "ms")),),
        controls=_speed_controls(run, "forward_ms", setting, LESS_60),
    )


def _forward_throughput(run: MeasuredRun) -> PaperTarget:
    setting = run.setting_of((BASELINE, LIGHT), (BATCH,))
    paper = _printed(112.5, 330.4, "/s")
    return PaperTarget(
        key="forward_throughput",
        title="forward throughput",
        asked="2 to 3 times",
        claimed="3 times",
        judged=(_benched(run, "forward_samples_per_s", setting, TWICE, paper),),
        controls=_speed_controls(run, "forward_samples_per_s", setting, TWICE),
    )


def _perplexity(run: MeasuredRun) -> PaperTarget:
    paper = (Printed(7.57), Printed(8.46))
    return PaperTarget(
        key="perplexity",
        title="perplexity",
        asked="at most 1.0 more",
        claimed="0.89 more",
        judged=tuple(
            _scored(run, LIGHT, split, "", paper if split == "validation" else None)
            for split in SPLITS
        ),
        controls=tuple(
            _scored(run, model, split, what)
            for model, what in _QUALITY_CONTROLS.items()
            if model in run.stages or model not in (BASELINE_LIGHT, LONGER)
            for split in SPLITS
        ),
    )


_QUALITY_CONTROLS = {
    MERGED: "before quantization",
    BASELINE_LIGHT: "the baseline in NF4, and nothing else",
    ALONE: "a small model trained alone for all the compute, in NF4",
    LONGER: "the baseline given all the compute",
}
"""Models beside the light one, and what each shows."""

Pair = tuple[Printed, Printed]
"""The paper's numbers of the baseline and the light model."""


def _printed(before: float, after: float, unit: str) -> Pair:
    return Printed(before, unit), Printed(after, unit)


# --- comparisons ---


def _benched(
    run: MeasuredRun,
    figure: str,
    setting: SpeedSetting,
    bound: Bound,
    paper: Pair | tuple[None, None] = (None, None),
    light: str = LIGHT,
    what: str = "",
) -> TargetComparison:
    """Compare a bench's figure of the baseline and another model in one setting."""
    control = ": ".join(filter(None, [what, f"both in {setting}"]))
    before = _with_unit(run.speed(BASELINE, setting, figure, paper[0]))
    after = _with_unit(run.speed(light, setting, figure, paper[1]))
    return compared(control, before, after, bound)


def _with_unit(cell: LinkedCell) -> LinkedCell:
    """Return a cell whose text has its unit: the cells of a column differ in theirs."""
    unit = {"ms": " ms", "samples/s": "/s"}.get(cell.unit, "")
    return replace(cell, text=f"{cell.text}{unit}") if cell.text else cell


def _speed_controls(
    run: MeasuredRun, figure: str, setting: SpeedSetting, bound: Bound
) -> tuple[TargetComparison, ...]:
    """Compare other models in the same setting, and the light one as the paper compares it."""
    others = {
        MERGED: "before quantization",
        BASELINE_LIGHT: "the baseline in NF4, and nothing else",
        ALONE: "a small model trained alone, in NF4",
    }
    same = tuple(
        _benched(run, figure, setting, bound, light=model, what=what)
        for model, what in others.items()
        if model in run.stages or model != BASELINE_LIGHT
    )
    papers = _as_the_paper(run, figure, setting, bound)
    return same if papers is None else (papers, *same)


def _as_the_paper(
    run: MeasuredRun, figure: str, setting: SpeedSetting, bound: Bound
) -> TargetComparison | None:
    """Compare the baseline in fp32 with eager attention, the light model in the fewest bits.

    None where neither precision nor attention would differ: that comparison judges already.
    """
    if figure == "peak_bytes" and not run.bench(BASELINE, _plain(setting)):
        setting = replace(setting, batch=1)
    plain = _plain(setting)
    fewest = next(
        replace(setting, precision=precision, attention="flash")
        for precision in reversed(PRECISIONS)
        if precision == "fp32"
        or run.bench(LIGHT, replace(setting, precision=precision, attention="flash"))
    )
    if plain == fewest:
        return None
    what = f"as the paper compares, several factors at once: {plain} against {fewest}"
    before, after = run.speed(BASELINE, plain, figure), run.speed(LIGHT, fewest, figure)
    return compared(what, _with_unit(before), _with_unit(after), bound)


def _plain(setting: SpeedSetting) -> SpeedSetting:
    """Return how the paper measures its baseline."""
    return replace(setting, precision="fp32", attention="eager")


# --- perplexity ---


def _scored(
    run: MeasuredRun,
    model: str,
    split: EvaluatedSplit,
    what: str,
    paper: Pair | None = None,
) -> TargetComparison:
    """Compare a model's perplexity with the baseline's on a split, paired where the run has it."""
    printed = paper or (None, None)
    before = run.perplexity(BASELINE, split, printed[0])
    after = run.perplexity(model, split, printed[1])
    control = ": ".join(filter(None, [what, f"both on the {split} split, by the same tokens"]))
    why = first_missing([before, after]) or _unlike(run, model, split)
    if why:
        return judged(control, before, after, missing_cell(why), ONE_MORE)
    assert before.number is not None and after.number is not None
    ends = _paired_ends(before.number, run.difference(BASELINE, model, split, "nll"))
    value = after.number - before.number
    low, high = ends or (value, value)
    change = change_cell(before, after, (value, low, high), ONE_MORE)
    if ends is None:
        change = replace(change, low=None, high=None)
    return judged(control, before, after, change, ONE_MORE)


def _unlike(run: MeasuredRun, model: str, split: EvaluatedSplit) -> str:
    """Return why two perplexities cannot be compared; empty where they can."""
    first, second = run.evaluation(BASELINE, split), run.evaluation(model, split)
    assert first is not None and second is not None
    if first[0].corpus != second[0].corpus:
        return f"{model} and {BASELINE} read other tokens: their perplexities do not compare"
    read = [(each.window, each.stride) for each, _ in (first, second)]
    if read[0] != read[1]:
        return (
            f"{model} and {BASELINE} were read in other windows: their perplexities do not compare"
        )
    return ""


def _paired_ends(before: float, difference: Difference | None) -> tuple[float, float] | None:
    """Return the ends of the change of a perplexity, from those of the paired NLL difference."""
    if difference is None:
        return None
    return before * math.expm1(difference.low), before * math.expm1(difference.high)
