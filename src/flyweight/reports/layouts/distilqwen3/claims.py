"""The claims of DistilQwen3's poster: reached or not, beside the controls that it lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from flyweight.config.units import format_perplexity, format_size
from flyweight.reports.layouts.bounds import Bound, change_cell, compared, judged
from flyweight.reports.layouts.content import (
    LinkedCell,
    PaperTarget,
    TargetComparison,
    TargetTable,
    first_missing,
    missing_cell,
)
from flyweight.reports.layouts.distilqwen3.experiments import bits_over_seeds
from flyweight.reports.layouts.distilqwen3.models import measured
from flyweight.reports.layouts.distilqwen3.roles import (
    BOTTLENECK,
    COMPARED,
    GPT2,
    INDEPENDENT,
    NONE,
    NONE_FLOPS,
    NONE_PARAMETERS,
    ONCE,
    POSTER,
    QWEN,
    QWEN_SMALL,
    SAME_COMPUTE,
    SAME_TOKENS,
    TASKS,
    TEXT_ALONE,
    TEXT_TOO,
    UNSHARED,
    WITH_TEXT,
    pretrained,
    quantized,
    tuned,
)
from flyweight.reports.layouts.distilqwen3.seeds import first, last, loss_over_seeds, mean
from flyweight.reports.layouts.measured_run import MeasuredRun, perplexity_cell

LOWER = Bound(0.0, "at most", "difference", digits=3)
FEWER = Bound(0.0, "at most", "share")
FASTER = Bound(1.0, "at least", "times")
PRETRAINED = Bound(50.0, "at most", "itself", write=format_perplexity)
TUNED = Bound(40.0, "at most", "itself", write=format_perplexity)
SLICE = Bound(20e9, "at most", "itself", write=format_size)
"""The poster's GPU: a slice of 20 GB."""


def claims(run: MeasuredRun) -> TargetTable:
    """Return the poster's claims with verdicts."""
    notes = (
        "Each comparison says what is equal on both sides. Controls judge nothing.",
        "Of models with several seeds, numbers are means, and the range of a change is that of the "
        "least and the largest seeds. Other differences of bits per byte have the 95 % interval of "
        "the paired difference, where the run has one.",
        "The poster's perplexities are of unshifted targets, which its code scores: no model of "
        "language has them.",
    )
    made = (
        *_bottleneck(run),
        _sharing(run),
        _distillation(run),
        _pretraining(run),
        _fine_tuning(run),
        _parameters(run),
        _speed(run),
        _quantization(run),
        _memory(run),
    )
    return TargetTable("claims", "The poster's claims", made, notes, after="ours")


# --- one factor at a time, by seeds ---


def _bottleneck(run: MeasuredRun) -> list[PaperTarget]:
    parts = {"start": ("starts", first), "fall": ("falls", mean), "end": ("ends", last)}
    asked = {"start": "lower at first", "fall": "a lower mean", "end": "lower at last"}
    claimed = {"start": "starts lower", "fall": "falls faster", "end": "ends lower"}
    return [
        PaperTarget(
            key=f"bottleneck_{key}",
            title=f"bottleneck: the training loss {verb}",
            asked=asked[key],
            claimed=claimed[key],
            judged=(
                _losses(run, NONE_PARAMETERS, read, "no bottleneck, equal parameters and FLOPs"),
                _losses(run, NONE_FLOPS, read, "no bottleneck, equal executed FLOPs"),
            ),
            controls=(
                _losses(run, NONE, read, "as the poster compares, more parameters and FLOPs"),
                *(_tests(run, BOTTLENECK) if key == "end" else ()),
            ),
        )
        for key, (verb, read) in parts.items()
    ]


def _losses(
    run: MeasuredRun, other: str, read: Callable[[Sequence[float]], float], what: str
) -> TargetComparison:
    before, after = (loss_over_seeds(run, each, read) for each in (other, BOTTLENECK))
    return compared(what, before, after, LOWER)


def _tests(run: MeasuredRun, after: str) -> list[TargetComparison]:
    others = {NONE_PARAMETERS: "equal parameters", NONE_FLOPS: "equal executed FLOPs"}
    return [
        compared(f"bits per byte of test text, {equal}", *_bits(run, other, after), LOWER)
        for other, equal in others.items()
    ]


def _bits(run: MeasuredRun, before: str, after: str) -> tuple[LinkedCell, LinkedCell]:
    return bits_over_seeds(run, before), bits_over_seeds(run, after)


def _sharing(run: MeasuredRun) -> PaperTarget:
    shared = run.parameters
    whole = compared(
        "parameters of the model with independent layers",
        shared(INDEPENDENT),
        shared(POSTER),
        FEWER,
    )
    reused = compared("the layer used once, equal parameters", *_bits(run, ONCE, BOTTLENECK), LOWER)
    apart = compared("a layer for each use, equal FLOPs", *_bits(run, UNSHARED, BOTTLENECK), LOWER)
    finished = paired_bits(run, INDEPENDENT, POSTER, "the finished models")
    return PaperTarget(
        key="sharing",
        title="one layer reused",
        asked="fewer parameters, and better than the layer used once",
        claimed="memory-efficient at a low perplexity",
        judged=(whole, reused),
        controls=(apart, finished),
    )


def _distillation(run: MeasuredRun) -> PaperTarget:
    alone = paired_bits(run, SAME_TOKENS, POSTER, "the same model alone, the same tokens")
    compute = paired_bits(
        run, SAME_COMPUTE, POSTER, "the same model alone, the same total compute, teacher in it"
    )
    seeds = compared("KL alone, by text alone", *_bits(run, TEXT_ALONE, BOTTLENECK), LOWER)
    too = compared("KL alone, by KL with text", *_bits(run, TEXT_TOO, BOTTLENECK), LOWER)
    return PaperTarget(
        key="distillation",
        title="KL from the teacher, without text",
        asked="better than the same model alone",
        claimed="it learns from Qwen3-8B",
        judged=(alone,),
        controls=(
            compute,
            paired_bits(run, WITH_TEXT, POSTER, "KL with text"),
            seeds,
            too,
        ),
    )


def paired_bits(run: MeasuredRun, before: str, after: str, what: str) -> TargetComparison:
    """Compare two models' bits per byte on test text, paired where the run has it."""
    cells = run.bits_per_byte(before, "test"), run.bits_per_byte(after, "test")
    plain = compared(what, *cells, LOWER)
    difference = run.difference(before, after, "test")
    if difference is None or first_missing(cells):
        return plain
    ends = (difference.value, difference.low, difference.high)
    return judged(what, *cells, change_cell(*cells, ends, LOWER), LOWER)


# --- perplexities ---


def _pretraining(run: MeasuredRun) -> PaperTarget:
    judged_ = [_whole_curve(run, pretrained(name), PRETRAINED) for name in (POSTER, INDEPENDENT)]
    return PaperTarget(
        key="pretraining",
        title="perplexity of pretraining",
        asked="at most 50 on validation text",
        claimed="from more than 120 to about 50 in 3 epochs",
        judged=(judged_[0],),
        controls=(judged_[1],),
    )


def _fine_tuning(run: MeasuredRun) -> PaperTarget:
    return PaperTarget(
        key="fine_tuning",
        title="perplexity of fine-tuning",
        asked="below 40 on completions",
        claimed="below 40 by the second epoch",
        judged=tuple(_whole_curve(run, tuned(POSTER, task), TUNED) for task in TASKS),
        controls=tuple(_whole_curve(run, tuned(INDEPENDENT, task), TUNED) for task in TASKS),
    )


def _whole_curve(run: MeasuredRun, name: str, bound: Bound) -> TargetComparison:
    """Compare the first and the last validation of a training."""
    training = run.trained(name)
    what = f"{name}: its first validation, and its last"
    if training is None or not training.curve.validation:
        why = run.absent(name) or f"{name} was not validated while it trained"
        return judged(what, missing_cell(why), missing_cell(why), missing_cell(why), bound)
    ends = (training.curve.validation[0], training.curve.validation[-1])
    cells = [perplexity_cell(each.nll, training.artifact) for each in ends]
    return compared(what, cells[0], cells[1], bound)


# --- size and speed ---


def _parameters(run: MeasuredRun) -> PaperTarget:
    return _against(run, "parameters", FEWER, ("fewer than Qwen3-8B", "a small model"))


def _speed(run: MeasuredRun) -> PaperTarget:
    words = ("faster than Qwen3-8B", "generates faster")
    return _against(run, "decode_tokens_per_s", FASTER, words)


def _against(run: MeasuredRun, measure: str, bound: Bound, words: tuple[str, str]) -> PaperTarget:
    """Hold ours against the models of others, of which Qwen3-8B judges."""
    ours = measured(run, POSTER, measure)
    made = {
        name: compared(f"{COMPARED[name]} and ours", measured(run, name, measure), ours, bound)
        for name in (QWEN, QWEN_SMALL, GPT2)
    }
    titles = {"parameters": "parameters", "decode_tokens_per_s": "new tokens a second"}
    return PaperTarget(
        key=measure,
        title=titles[measure],
        asked=words[0],
        claimed=words[1],
        judged=(made[QWEN],),
        controls=(made[QWEN_SMALL], made[GPT2]),
    )


def _quantization(run: MeasuredRun) -> PaperTarget:
    light = quantized(POSTER)
    sizes = [measured(run, name, "disk_bytes") for name in (POSTER, light)]
    speeds = [measured(run, name, "decode_tokens_per_s") for name in (POSTER, light)]
    return PaperTarget(
        key="quantization",
        title="quantization",
        asked="a smaller file",
        claimed="quantized",
        judged=(compared("the file, before and after", sizes[0], sizes[1], FEWER),),
        controls=(
            paired_bits(run, POSTER, light, "bits per byte, before and after"),
            compared("new tokens a second, before and after", speeds[0], speeds[1], FASTER),
        ),
    )


def _memory(run: MeasuredRun) -> PaperTarget:
    planned, used = _largest_training(run)
    return PaperTarget(
        key="memory",
        title="memory of training",
        asked="at most 20 GB",
        claimed="trained within a slice of 20 GB",
        judged=(compared("the largest training: planned, and used", planned, used, SLICE),),
    )


def _largest_training(run: MeasuredRun) -> tuple[LinkedCell, LinkedCell]:
    """Return planned and used memory of the training that took most, where it was held to 20 GB."""
    limits = {line.name: line.limit for line in run.summary.budget}
    if limits.get("memory") is None:
        why = "the recipe sets no budget.memory, so nothing was held to 20 GB"
        return missing_cell(why), missing_cell(why)
    stages = [each for each in run.summary.stages if each.memory and each.memory.used is not None]
    if not stages:
        why = "no training's memory was watched"
        return missing_cell(why), missing_cell(why)
    largest = max(stages, key=lambda each: (each.memory and each.memory.used) or 0)
    assert largest.memory is not None and largest.memory.used is not None
    numbers = (largest.memory.planned, largest.memory.used)
    cell = LinkedCell(unit="bytes", artifacts=(largest.id,), setting=largest.name)
    planned, used = (
        replace(cell, value=float(number), text=format_size(number)) for number in numbers
    )
    return planned, used
