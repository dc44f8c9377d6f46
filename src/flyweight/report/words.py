"""What paid and what did not, in plain words, from a run's numbers.

Names of models stand in backticks. A difference is called better or worse only where its 95 % interval excludes 0 and
the number of comparisons does not explain it; anything else is called undecided. Models that collapsed, or whose audit fails,
are named and never ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from flyweight.config.units import format_count, format_size, format_time
from flyweight.report.distillation import distillations
from flyweight.report.phrases import Finding, and_list, bits, change, name, percent, times
from flyweight.report.standing import AXES, Entry, Group, contrast, entries, groups, leaders
from flyweight.report.summary import BudgetLine, Summary

__all__ = ["Finding", "across", "budget_line", "findings", "plain"]

# Below this share of repeated lines the figures are not worth a warning.
_OVERLAP = 0.01


def findings(summary: Summary) -> tuple[Finding, ...]:
    """Return everything worth saying about a run; the first finding is the headline."""
    found = entries([summary])
    said = [*distillations(found), *_quantizations(found)]
    for group in groups(found):
        said += [*_best(group), *_worth(group)]
    for group in groups(found):
        said += [*_broken(group.entries), *_below_floor(group)]
    said += [*_losses(summary), *_overlaps(summary), *_budget(summary)]
    return tuple(said)


def across(summaries: Sequence[Summary]) -> tuple[Finding, ...]:
    """Return what can be said about several runs together; the first finding is the headline."""
    said: list[Finding] = []
    found = entries(summaries)
    for group in groups(found):
        said += [*_best(group), *_worth(group), *_broken(group.entries), *_below_floor(group)]
    said += _namesakes(found)
    for summary in summaries:
        said += [*_losses(summary), *_overlaps(summary)]
    return tuple(dict.fromkeys(said))


def plain(said: Sequence[Finding]) -> list[str]:
    """Return findings as lines for a terminal."""
    return [f"{each.mark} {each.title} {each.text}".rstrip().replace("`", "") for each in said]


# --- quantization ---


def _quantizations(found: Sequence[Entry]) -> list[Finding]:
    known = {each.model.name: each for each in found}
    return [
        _quantization(each, known[each.model.input], found)
        for each in found
        if each.model.stage == "quantize" and each.model.input and each.standing in ("ok", "unmeasured")
    ]


def _quantization(entry: Entry, base: Entry, found: Sequence[Entry]) -> Finding:
    """Say what a quantized model saves and what it costs, each with its interval."""
    after, before = entry.model.disk_bytes, base.model.disk_bytes
    size, smaller = "of unmeasured size", False
    text = []
    if after is not None and before is not None:
        smaller = after < before
        size = f"{times(before / after)} smaller than {name(base)}" if smaller else f"not smaller than {name(base)}"
        text.append(f"{format_size(after)} on disk instead of {format_size(before)}.")
    gap = contrast(entry, base) if base.standing == "ok" else None
    if gap is not None:
        text.append(f"Bits per byte: {bits(entry)} against {bits(base)}, {change(gap)}.")
    elif base.standing != "ok":
        text.append(f"What that costs in quality cannot be said: {name(base)} is {base.standing}.")
    speed, sentence = _speed(entry, base)
    text += [sentence] if sentence else []
    better = _beaten_on_disk(entry, found)
    if better is not None:
        text.append(f"It is not worth having: {name(better)} is both smaller and better.")
    kind: Literal["paid", "not paid"] = "paid" if smaller and better is None else "not paid"
    return Finding(kind, f"{name(entry)} is {size}{speed}.", " ".join(text))


def _speed(entry: Entry, base: Entry) -> tuple[str, str]:
    """Return how generation changed, as a clause for a title and as a sentence."""
    metric = AXES["speed"].metric
    after, before = metric(entry), metric(base)
    if after is None or before is None or not before.value:
        return "", ""
    figures = f"{after.value:,.0f} tokens/s against {before.value:,.0f}"
    ratio = f"{times(after.value / before.value)} as fast"
    if after.high < before.low:
        return ", and slower", f"Generation is slower: {figures}, {ratio}."
    if after.low > before.high:
        return ", and faster", f"Generation is faster: {figures}, {ratio}."
    return "", f"Whether generation became faster or slower is undecided: {figures}."


def _beaten_on_disk(entry: Entry, found: Sequence[Entry]) -> Entry | None:
    """Return a model that is smaller on disk and decidedly better, if there is one."""
    size = entry.model.disk_bytes
    for other in found:
        gap = contrast(other, entry) if other is not entry and other.standing == "ok" else None
        if gap and gap.verdict == "better" and size and other.model.disk_bytes and other.model.disk_bytes <= size:
            return other
    return None


# --- the best, and what is worth its cost ---


def _best(group: Group) -> list[Finding]:
    """Name the best model, or those that cannot be told apart, beside the strongest floor."""
    sound = group.sound
    if not sound:
        measured = [each for each in group.entries if each.bits]
        return [Finding("warning", "Nothing here can be ranked.", _unsound(measured))] if measured else []
    first, tied = sound[0], leaders(sound)
    floor = _strongest_floor(group)
    below = ""
    if floor is not None:
        label, value = floor
        share = 1 - (first.bits.value if first.bits else value) / value
        way = f"{percent(abs(share))} {'below' if share > 0 else 'above'}"
        below = f", {way} the {label} floor ({value:.3f})"
    where = f" on the {group.text.split} split of {group.text.name}" if group.text else ""
    if len(tied) > 1:
        names = and_list([f"{name(each)} ({bits(each)})" for each in tied])
        text = f"The best by a hair, {name(first)}, reaches {bits(first)} bits per byte{where}{below}."
        return [Finding("undecided", f"Which model is best is undecided between {names}.", text)]
    if len(sound) == 1:
        return [Finding("note", f"{name(first)} reaches {bits(first)} bits per byte{below}.", _alone(first, where))]
    gap = contrast(first, sound[1])
    text = f"Next is {name(sound[1])}" + (f": {name(first)} is {change(gap)}." if gap else ".")
    return [Finding("note", f"{name(first)} is the best model here: {bits(first)} bits per byte{below}.", text)]


def _unsound(measured: Sequence[Entry]) -> str:
    if all(each.standing == "too short" for each in measured):
        return "The run was too short."
    return "No model is sound."


def _alone(entry: Entry, where: str) -> str:
    """Describe a model that stands alone: its interval, and what it took."""
    text = [f"The 95 % interval{where} is {entry.bits.low:.3f} to {entry.bits.high:.3f}." if entry.bits else ""]
    if (training := entry.model.training) is not None:
        text.append(f"It was trained for {format_time(training.seconds)} on {format_count(training.tokens)} tokens.")
    if entry.model.disk_bytes is not None:
        text.append(
            f"It has {format_count(entry.model.parameters.unique)} parameters and takes {format_size(entry.model.disk_bytes)}."
        )
    return " ".join(text)


def _strongest_floor(group: Group) -> tuple[str, float] | None:
    values = {label: floor.bits_per_byte for label, floor in group.floors.items() if label not in group.flattered}
    return min(values.items(), key=lambda item: item[1]) if values else None


def _worth(group: Group) -> list[Finding]:
    """Name the models on the Pareto fronts, and those that are beaten on disk."""
    sound = [each for each in group.sound if each.model.disk_bytes is not None]
    if len(sound) < 3:
        return []
    front = AXES["disk"].front(sound)
    text = []
    beaten = [f"{name(each)} ({format_size(each.model.disk_bytes or 0)}, {bits(each)})" for each in sound if each not in front]
    if beaten:
        verb = "is" if len(beaten) == 1 else "are each"
        text.append(f"{and_list(beaten)} {verb} no smaller than one of these, and worse.")
    if fast := AXES["speed"].front(sound):
        text.append(f"Against generation speed it is {and_list([name(each) for each in fast], 'or')}.")
    chosen = and_list([f"{name(each)} ({format_size(each.model.disk_bytes or 0)}, {bits(each)})" for each in front], "or")
    return [Finding("note", f"For bits per byte against bytes on disk the choice is {chosen}.", " ".join(text))]


# --- warnings ---


def _broken(members: Sequence[Entry]) -> list[Finding]:
    """Name the models that may not be ranked, and why."""
    titles = {
        "collapsed": "{} collapsed and is not ranked.",
        "too short": "{} was trained too shortly to be ranked.",
        "invalid": "The numbers of {} cannot be believed and are not ranked.",
    }
    return [
        Finding("warning", titles[each.standing].format(name(each)), f"The reason: {_reason(each)}.")
        for each in members
        if each.standing in titles
    ]


def _reason(entry: Entry) -> str:
    """Return why a model is not ranked, and for one that was trained too shortly what to do."""
    reasons = and_list([fault.text for fault in entry.faults])
    training = entry.training
    if entry.standing != "too short" or training is None:
        return reasons
    took = f"{training.steps:,} step{'s' * (training.steps != 1)} in {format_time(training.seconds)}"
    return f"{reasons}, after {took}. Give it more time or steps, or a smaller model"


def _below_floor(group: Group) -> list[Finding]:
    """Name the models that counting n-grams beats decidedly."""
    floor = _strongest_floor(group)
    beaten = [each for each in group.sound if floor and each.bits and each.bits.low > floor[1]]
    if floor is None or not beaten:
        return []
    names = and_list([f"{name(each)} ({bits(each)})" for each in beaten])
    title = f"Counting does better: the {floor[0]} floor ({floor[1]:.3f} bits per byte) beats {names}."
    return [Finding("warning", title, "Counting n-grams needs no training: a model has to beat it to be worth its cost.")]


def _namesakes(found: Sequence[Entry]) -> list[Finding]:
    """Name the texts of several runs that are called the same and are not."""
    texts = dict.fromkeys((each.text.name, each.text.content) for each in found if each.text)
    names = [name for name, _ in texts]
    title = "Different texts are called {}."
    text = "Models that were measured on one of them are not compared with those of another."
    return [Finding("warning", title.format(each), text) for each in dict.fromkeys(names) if names.count(each) > 1]


def _losses(summary: Summary) -> list[Finding]:
    """Name the tokenizers under which bits per byte are too good."""
    said = []
    for corpus in summary.corpus:
        splits = dict.fromkeys(
            m.evaluate.split for m in summary.models if m.evaluate and m.evaluate.corpus == corpus.fingerprint
        )
        for split in (split for split in splits if corpus.lossy(split)):
            lost = sum(size.lost or 0 for size in corpus.parts(split))
            title = f"The tokens of {corpus.name}, {corpus.tokenizer}, do not give the text back."
            lines = f"{lost:,} line{'s' * (lost != 1)}" if lost else "Lines"
            end = "come back changed: bits per byte are too good, and rank models of this tokenizer alone."
            text = f"{lines} of the {split} split {end}"
            said.append(Finding("warning", title, text))
    return said


def _overlaps(summary: Summary) -> list[Finding]:
    said = []
    for corpus in summary.corpus:
        share = corpus.overlap.get("test", 0.0)
        if share >= _OVERLAP:
            title = f"{percent(share)} of the test lines of {corpus.name} also stand in its training text."
            text = "All figures on it are flattered by them: compare models with each other here, not with other texts."
            said.append(Finding("warning", title, text))
    return said


def budget_line(line: BudgetLine) -> str:
    """Return one line of the budget as a clause: used, limit, planned."""
    form = {"s": format_time, "bytes": format_size}.get(line.unit, lambda value: f"{format_count(value)} {line.unit}".strip())
    used = "not measured" if line.used is None else f"{form(line.used)} used"
    limit = "no limit" if line.limit is None else f"of {form(line.limit)}"
    planned = "" if line.planned is None else f" (planned {form(line.planned)})"
    return f"{line.name}: {used}{', ' if line.limit is None else ' '}{limit}{planned}"


def _budget(summary: Summary) -> list[Finding]:
    over = [line for line in summary.budget if not line.ok]
    if over:
        return [Finding("warning", "The budget was exceeded.", _sentence([budget_line(line) for line in over]))]
    held = [line for line in summary.budget if line.limit is not None]
    if held:
        return [Finding("note", "The budget was kept.", _sentence([budget_line(line) for line in held]))]
    return []


def _sentence(clauses: Sequence[str]) -> str:
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."
