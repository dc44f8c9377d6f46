"""What paid and what did not, in plain words, from a run's numbers.

Names of models stand in backticks. A difference is called better or worse only where its 95 %
interval excludes 0 and the number of comparisons does not explain it; anything else is called
undecided. Models that collapsed, or whose audit fails, are named and never ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from flyweight.config.schema import stage_class
from flyweight.config.units import (
    format_bits,
    format_count,
    format_percent,
    format_rate,
    format_size,
    format_time,
    format_times,
)
from flyweight.records.metric import Metric
from flyweight.records.run_summary import BudgetLine, Summary
from flyweight.reports.findings.distillation import distillations
from flyweight.reports.findings.memory import memory_findings
from flyweight.reports.findings.phrases import (
    FLOOR,
    RunFinding,
    and_list,
    bits,
    change,
    floor_name,
    name,
)
from flyweight.reports.models import ModelGroup, RankedModel, groups, ranked_models
from flyweight.reports.ranking import AXES, decide, paired_difference, strongest_floor, tied_best

__all__ = ["RunFinding", "across", "budget_line", "findings", "plain"]

# Below this share of repeated lines the figures are not worth a warning.
_OVERLAP = 0.01


def findings(
    summary: Summary, grouped: Sequence[ModelGroup] | None = None
) -> tuple[RunFinding, ...]:
    """Return what a run tells beside which model to take: first what paid, then warnings.

    `grouped` are the run's models by text, where they are there already.
    """
    grouped = groups(ranked_models([summary])) if grouped is None else grouped
    models = [each for group in grouped for each in group.models]
    results = [*distillations(models), *_mixtures(models), *_quantizations(models)]
    for group in grouped:
        results += [*_best(group), *_worth(group)]
    for group in grouped:
        results += [*_broken(group.models), *_below_floor(group)]
    results += [*_losses(summary), *_overlaps(summary), *_halved(models), *_budget(summary)]
    results += _idle(summary)
    results += memory_findings(summary)
    return tuple(results)


def across(
    summaries: Sequence[Summary], grouped: Sequence[ModelGroup] | None = None
) -> tuple[RunFinding, ...]:
    """Return what can be said about several runs together."""
    results: list[RunFinding] = []
    grouped = groups(ranked_models(summaries)) if grouped is None else grouped
    models = [each for group in grouped for each in group.models]
    for group in grouped:
        results += [*_best(group), *_worth(group), *_broken(group.models), *_below_floor(group)]
    results += _namesakes(models)
    for summary in summaries:
        results += [*_losses(summary), *_overlaps(summary), *memory_findings(summary)]
    return tuple(dict.fromkeys(results))


def plain(results: Sequence[RunFinding]) -> list[str]:
    """Return findings as lines for a terminal."""
    return [f"{each.mark} {each.title} {each.text}".rstrip().replace("`", "") for each in results]


# --- quantization ---


def _quantizations(models: Sequence[RankedModel]) -> list[RunFinding]:
    known = {each.model.name: each for each in models}
    return [
        _quantization(each, known[each.model.input], models)
        for each in models
        if _compressed(each) and each.model.input and each.standing in ("ok", "unmeasured")
    ]


def _compressed(ranked: RankedModel) -> bool:
    """Return whether a model's stage made its input smaller."""
    config = stage_class(ranked.model.stage)
    return config is not None and config.compresses


def _quantization(
    ranked: RankedModel, base: RankedModel, models: Sequence[RankedModel]
) -> RunFinding:
    """Say what a quantized model saves and what it costs, each with its interval."""
    after, before = ranked.model.disk_bytes, base.model.disk_bytes
    size, smaller = "of unmeasured size", False
    text = []
    if after is not None and before is not None:
        smaller = after < before
        size = (
            f"{format_times(before / after)} smaller than {name(base)}"
            if smaller
            else f"not smaller than {name(base)}"
        )
        text.append(f"{format_size(after)} on disk instead of {format_size(before)}.")
    gap = paired_difference(ranked, base) if base.standing == "ok" else None
    if gap is not None:
        text.append(f"Bits per byte: {bits(ranked)} against {bits(base)}, {change(gap)}.")
    elif base.standing != "ok":
        text.append(f"What that costs in quality cannot be said: {name(base)} is {base.standing}.")
    speed, sentence = _speed(ranked, base)
    text += [sentence] if sentence else []
    better = _beaten_on_disk(ranked, models)
    if better is not None:
        text.append(f"It is not worth having: {name(better)} is both smaller and better.")
    kind: Literal["paid", "not paid"] = "paid" if smaller and better is None else "not paid"
    return RunFinding(kind, f"{name(ranked)} is {size}{speed}.", " ".join(text))


def _mixtures(models: Sequence[RankedModel]) -> list[RunFinding]:
    """Say of every mixture what counts and pointer brought to its network, and what they cost."""
    known = {each.model.name: each for each in models if each.standing == "ok"}
    return [
        _mixture(each, known[each.model.input])
        for each in models
        if each.model.stage == "mix" and each.model.input in known and each.standing == "ok"
    ]


def _mixture(ranked: RankedModel, base: RankedModel) -> RunFinding:
    gap = paired_difference(ranked, base)
    text = (
        []
        if gap is None
        else [f"Bits per byte: {bits(ranked)} against {bits(base)}, {change(gap)}."]
    )
    after, before = ranked.model.disk_bytes, base.model.disk_bytes
    if after is not None and before is not None:
        text.append(f"{format_size(after)} on disk instead of {format_size(before)}.")
    _, sentence = _speed(ranked, base)
    text += [sentence] if sentence else []
    paid = gap is not None and gap.verdict == "better"
    title = (
        f"Mixing {name(base)} with counts and a pointer {'paid' if paid else 'did not pay'}: "
        f"{name(ranked)}."
    )
    return RunFinding("paid" if paid else "not paid", title, " ".join(text))


def _speed(ranked: RankedModel, base: RankedModel) -> tuple[str, str]:
    """Return how generation changed, as a clause for a title and as a sentence."""
    metric = AXES["speed"].metric
    after, before = metric(ranked), metric(base)
    if after is None or before is None or not before.value:
        return "", ""
    figures = f"{format_rate(after.value)} tokens/s against {format_rate(before.value)}"
    ratio = f"{format_times(after.value / before.value)} as fast"
    verdict = decide(after, before)
    if verdict == "worse":
        return ", and slower", f"Generation is slower: {figures}, {ratio}."
    if verdict == "better":
        return ", and faster", f"Generation is faster: {figures}, {ratio}."
    return "", f"Whether generation became faster or slower is undecided: {figures}."


def _beaten_on_disk(ranked: RankedModel, models: Sequence[RankedModel]) -> RankedModel | None:
    """Return a model that is smaller on disk and decidedly better, if there is one."""
    size = ranked.model.disk_bytes
    for other in models:
        gap = (
            paired_difference(other, ranked)
            if other is not ranked and other.standing == "ok"
            else None
        )
        if (
            gap
            and gap.verdict == "better"
            and size
            and other.model.disk_bytes
            and other.model.disk_bytes <= size
        ):
            return other
    return None


# --- the best, and what is worth its cost ---


def _best(group: ModelGroup) -> list[RunFinding]:
    """Name the best model, or those that cannot be told apart, beside the strongest floor."""
    rankable = group.rankable
    if not rankable:
        return []
    first, tied = rankable[0], tied_best(rankable)
    floor = strongest_floor(group)
    below = ""
    if floor is not None and first.bits is not None:
        share = 1 - first.bits.value / floor.value
        way = f"{format_percent(abs(share))} {'below' if share > 0 else 'above'}"
        below = f", {way} the {floor_name(floor.name)} floor ({format_bits(floor.value)})"
    where = f" on the {group.text.split} split of {group.text.name}" if group.text else ""
    if len(tied) > 1:
        names = and_list([f"{name(each)} ({bits(each)})" for each in tied])
        text = f"The lowest, that of {name(first)}, is {bits(first)} bits per byte{where}{below}."
        return [RunFinding("undecided", f"Which model is best is undecided between {names}.", text)]
    if len(rankable) == 1:
        return [
            RunFinding(
                "note",
                f"{name(first)} reaches {bits(first)} bits per byte{below}.",
                _alone(first, where),
            )
        ]
    gap = paired_difference(first, rankable[1])
    text = f"Next is {name(rankable[1])}" + (f": {name(first)} is {change(gap)}." if gap else ".")
    return [
        RunFinding(
            "note",
            f"{name(first)} is the best model here: {bits(first)} bits per byte{below}.",
            text,
        )
    ]


def _alone(ranked: RankedModel, where: str) -> str:
    """Describe a model that stands alone: its interval, and what it took."""
    text: list[str] = []
    if ranked.bits:
        low, high = format_bits(ranked.bits.low), format_bits(ranked.bits.high)
        text.append(f"The 95 % interval{where} is {low} to {high}.")
    if (training := ranked.model.training) is not None:
        text.append(
            f"It was trained for {format_time(training.seconds)} on "
            f"{format_count(training.tokens)} tokens."
        )
    if ranked.model.disk_bytes is not None:
        text.append(
            f"It has {format_count(ranked.model.parameters.unique)} parameters and takes "
            f"{format_size(ranked.model.disk_bytes)}."
        )
    return " ".join(text)


def _worth(group: ModelGroup) -> list[RunFinding]:
    """Name the models on the Pareto fronts, and those that are beaten on disk."""
    rankable = [each for each in group.rankable if each.model.disk_bytes is not None]
    if len(rankable) < 3:
        return []
    front = AXES["disk"].front(rankable)
    text = []
    if beaten := [_sized(each) for each in rankable if each not in front]:
        verb = "is" if len(beaten) == 1 else "are each"
        doing = "beaten in size or quality by another that is not significantly worse in the other"
        text.append(f"{and_list(beaten)} {verb} {doing}.")
    if fast := AXES["speed"].front(rankable):
        names = and_list([name(each) for each in fast], "or")
        text.append(f"Against generation speed it is {names}.")
    chosen = and_list([_sized(each) for each in front], "or")
    title = f"For bits per byte against bytes on disk the choice is {chosen}."
    return [RunFinding("note", title, " ".join(text))]


def _sized(ranked: RankedModel) -> str:
    """Return a model's name with its size and quality."""
    return f"{name(ranked)} ({format_size(ranked.model.disk_bytes or 0)}, {bits(ranked)})"


# --- warnings ---


def _broken(members: Sequence[RankedModel]) -> list[RunFinding]:
    """Name the models that may not be ranked, and why."""
    titles = {
        "collapsed": "{} collapsed and is not ranked.",
        "too short": "{} was not trained long enough to be ranked.",
        "invalid": "The numbers of {} cannot be believed and are not ranked.",
    }
    return [
        RunFinding(
            "warning", titles[each.standing].format(name(each)), f"The reason: {_reason(each)}."
        )
        for each in members
        if each.standing in titles
    ]


def _reason(ranked: RankedModel) -> str:
    """Return why a model is not ranked, and for one that was trained too briefly what to do."""
    reasons = and_list([fault.text for fault in ranked.faults])
    training = ranked.training
    if ranked.standing != "too short" or training is None:
        return reasons
    took = (
        f"{training.steps:,} step{'s' * (training.steps != 1)} in {format_time(training.seconds)}"
    )
    return f"{reasons}, after {took}. Give it more time or steps, or a smaller model"


def _below_floor(group: ModelGroup) -> list[RunFinding]:
    """Name the models that counting n-grams beats decidedly."""
    floor = strongest_floor(group)
    if floor is None:
        return []
    limit = Metric.exact(floor.value, "bits/byte")
    beaten = [each for each in group.rankable if each.bits and decide(each.bits, limit) == "worse"]
    if not beaten:
        return []
    names = and_list([f"{name(each)} ({bits(each)})" for each in beaten])
    floor_text = f"the {floor_name(floor.name)} floor ({format_bits(floor.value)} bits per byte)"
    return [RunFinding("warning", f"Counting does better: {floor_text} beats {names}.", FLOOR)]


def _namesakes(models: Sequence[RankedModel]) -> list[RunFinding]:
    """Name the texts of several runs that are called the same and are not."""
    texts = dict.fromkeys((each.text.name, each.text.content) for each in models if each.text)
    names = [name for name, _ in texts]
    title = "Different texts are called {}."
    text = "Models that were measured on one of them are not compared with those of another."
    return [
        RunFinding("warning", title.format(each), text)
        for each in dict.fromkeys(names)
        if names.count(each) > 1
    ]


def _halved(models: Sequence[RankedModel]) -> list[RunFinding]:
    """Name the trainings whose micro-batches were halved because memory ran out."""
    results = []
    for each in models:
        training = each.training
        if training is None or training.pieces in (None, training.asked_pieces):
            continue
        title = (
            f"{name(each)} was computed in {training.pieces} pieces a step instead of "
            f"{training.asked_pieces}, because memory ran out."
        )
        text = f"Its updates are the same. train.accumulate={training.pieces} asks for it at once."
        results.append(RunFinding("note", title, text))
    return results


def _idle(summary: Summary) -> list[RunFinding]:
    """Name the prunings that left nothing of adapters."""
    results = []
    for stage in summary.stages:
        pruning = stage.pruning
        if pruning is None or not pruning.idle_adapters:
            continue
        title = (
            f"`{stage.name}` has pruned {pruning.idle_adapters} of {pruning.adapters} adapters "
            f"whole: they add nothing any more."
        )
        text = (
            "No further training brings them back. With scope: global one threshold is for A and "
            "B, and B is usually smaller, so it goes first; scope: layer keeps a share of each."
        )
        results.append(RunFinding("warning", title, text))
    return results


def _losses(summary: Summary) -> list[RunFinding]:
    """Name the tokenizers under which bits per byte are too good."""
    results = []
    for corpus in summary.corpus:
        splits = dict.fromkeys(
            m.evaluate.split
            for m in summary.models
            if m.evaluate and m.evaluate.corpus == corpus.fingerprint
        )
        for split in (split for split in splits if corpus.lossy(split)):
            lost = sum(size.lost or 0 for size in corpus.parts(split))
            title = f"The tokens of {corpus.name}, {corpus.tokenizer}, do not give the text back."
            lines = f"{lost:,} line{'s' * (lost != 1)}" if lost else "Lines"
            end = (
                "come back changed: bits per byte are too good, and rank models of this "
                "tokenizer alone."
            )
            text = f"{lines} of the {split} split {end}"
            results.append(RunFinding("warning", title, text))
    return results


def _overlaps(summary: Summary) -> list[RunFinding]:
    results = []
    for corpus in summary.corpus:
        share = corpus.overlap.get("test", 0.0)
        if share >= _OVERLAP:
            unit = {
                "pieces": "test text of {}, in pieces of 50 characters,",
                "lines": "test lines of {}",
            }
            also = {"pieces": "also occurs", "lines": "also occur"}[corpus.overlap_unit]
            of = unit[corpus.overlap_unit].format(corpus.name)
            title = f"{format_percent(share)} of the {of} {also} in its training text."
            text = (
                "All its figures are too good for that reason: compare models with each other "
                "here, not with other texts."
            )
            results.append(RunFinding("warning", title, text))
    return results


def budget_line(line: BudgetLine) -> str:
    """Return one line of the budget as a clause: used, limit, planned."""
    form = {"s": format_time, "bytes": format_size}.get(
        line.unit, lambda value: f"{format_count(value)} {line.unit}".strip()
    )
    used = "not measured" if line.used is None else f"{form(line.used)} used"
    limit = "no limit" if line.limit is None else f"of {form(line.limit)}"
    planned = "" if line.planned is None else f" (planned {form(line.planned)})"
    return f"{line.name}: {used}{', ' if line.limit is None else ' '}{limit}{planned}"


def _budget(summary: Summary) -> list[RunFinding]:
    over = [line for line in summary.budget if not line.ok]
    if over:
        return [
            RunFinding(
                "warning",
                "The budget was exceeded.",
                _sentence([budget_line(line) for line in over]),
            )
        ]
    held = [line for line in summary.budget if line.limit is not None]
    if held:
        return [
            RunFinding(
                "note", "The budget was kept.", _sentence([budget_line(line) for line in held])
            )
        ]
    return []


def _sentence(clauses: Sequence[str]) -> str:
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."
