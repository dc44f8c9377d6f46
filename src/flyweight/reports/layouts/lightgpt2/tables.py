"""Tables I to VI of LightGPT2, and the table of all measured factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flyweight.config.units import format_rate, format_short, format_size
from flyweight.records.bench import BenchResult
from flyweight.records.profile import ProfileResult
from flyweight.records.run_summary import StageSummary
from flyweight.reports.layouts.content import (
    LinkedCell,
    LinkedRow,
    LinkedTable,
    first_missing,
    missing_cell,
)
from flyweight.reports.layouts.lightgpt2 import printed
from flyweight.reports.layouts.lightgpt2.roles import (
    ANSWER_TOKENS,
    BASELINE,
    BATCH,
    LIGHT,
    MERGED,
    STUDENT,
    TEACHER,
    TRAINED,
    WEIGHTS,
)
from flyweight.reports.layouts.measured_run import (
    AttentionClass,
    MeasuredBench,
    MeasuredRun,
    SpeedSetting,
    attention_class,
    bench_cell,
)

PROFILED = {BASELINE: "Baseline", LIGHT: "Light (NF4)"}
"""The models of Tables I and II."""

GROUPS = {
    "addmm": "addmm",
    "mm": "mm",
    "matmul": "matmul",
    "attention": "attention",
    "other_gemm": "other GEMM",
    "step": "compiled step",
}
"""Groups of operators: titles by the names of `GroupTimes`."""

SPEED_COLUMNS = {
    "forward_ms": "forward ms",
    "forward_samples_per_s": "forward samples/s",
    "generate_ms": f"+{ANSWER_TOKENS} tokens ms",
    "generate_samples_per_s": f"+{ANSWER_TOKENS} tokens samples/s",
}


# --- Tables I and II: profiles ---


def profile_summary(run: MeasuredRun) -> LinkedTable:
    """Return Table I: what one generation takes, of the baseline and the light model."""
    columns = {
        "generate_ms": "generation ms",
        "tokens": "tokens",
        "tokens_per_s": "tokens/s",
        "peak_bytes": "memory",
        "device_ms": "device ms",
        "cpu_ms": "CPU ms",
        "kernel": "attention kernel",
    }
    rows = [_profile_row(run, role, label, list(columns)) for role, label in PROFILED.items()]
    note = "Generation by the clock, without a profiler; device and CPU: sums over operators."
    return LinkedTable(
        "table_1", "Table I: profile of one generation", columns, tuple(rows), (note,)
    )


def operator_groups(run: MeasuredRun) -> LinkedTable:
    """Return Table II: the time of the main operators, of the same two models."""
    rows = []
    for role, label in PROFILED.items():
        found = run.profile(role, list(PROFILED))
        cells = {name: missing_cell(run.not_profiled(role)) for name in GROUPS}
        if found is not None:
            times = found[1].groups.model_dump()
            cells = {name: _profiled(found, times[name], "ms", "ms") for name in GROUPS}
        rows.append(LinkedRow(label, role, cells))
    note = (
        "Milliseconds on the device where one computes, else on the processor. A compiled step is "
        "one token through all layers: what it multiplies is in no other group."
    )
    return LinkedTable("table_2", "Table II: operators, ms", GROUPS, tuple(rows), (note,))


def _profile_row(run: MeasuredRun, role: str, label: str, columns: list[str]) -> LinkedRow:
    found = run.profile(role, list(PROFILED))
    if found is None:
        why = run.not_profiled(role)
        return LinkedRow(label, role, {name: missing_cell(why) for name in columns})
    profile = found[1]
    device = missing_cell("the run computed on the processor, without a device")
    if profile.device != "cpu":
        device = _profiled(found, profile.device_ms, "ms", "ms")
    rate = profile.tokens / profile.generate_ms * 1e3
    return LinkedRow(
        label,
        role,
        {
            "generate_ms": _profiled(found, profile.generate_ms, "ms", "ms"),
            "tokens": replace(
                _profiled(found, profile.tokens, "tokens", "count"), text=f"{profile.tokens:,}"
            ),
            "tokens_per_s": _profiled(found, rate, "tokens/s", "rate"),
            "peak_bytes": _profiled(found, float(profile.peak_bytes), "bytes", "size"),
            "device_ms": device,
            "cpu_ms": _profiled(found, profile.cpu_ms, "ms", "ms"),
            "kernel": _word(profile.kernel, found[0].id, _profile_setting(profile)),
        },
    )


_WRITE = {"ms": format_short, "count": format_short, "rate": format_rate, "size": format_size}


def _profiled(
    found: tuple[StageSummary, ProfileResult], value: float, unit: str, form: str
) -> LinkedCell:
    stage, profile = found
    text = _WRITE[form](value)
    setting = _profile_setting(profile)
    return LinkedCell(value, unit, text, artifacts=(stage.id,), setting=setting)


def _profile_setting(profile: ProfileResult) -> str:
    return (
        f"{profile.precision}, {attention_class(profile.attention)} attention, "
        f"kernel {profile.kernel}, engine {profile.engine}, {profile.prompt} prompt tokens"
    )


def _word(word: str, artifact: str, setting: str) -> LinkedCell:
    return LinkedCell(word, text=word, artifacts=(artifact,), setting=setting)


# --- Table III: every benched model ---


def every_model(run: MeasuredRun) -> LinkedTable:
    """Return Table III: throughput and latency of every benched model, medians."""
    settings = dict.fromkeys((each.model, replace(each.setting, batch=1)) for each in run.benches)
    rows = []
    for model, single in settings:
        many = replace(single, batch=BATCH)
        cells = {
            "forward_samples_per_s": missing_cell(f"not measured in batch {BATCH}"),
            "generate_ms": missing_cell("not measured in batch 1"),
        }
        if run.bench(model, many):
            cells["forward_samples_per_s"] = run.speed(model, many, "forward_samples_per_s")
        if run.bench(model, single):
            cells["generate_ms"] = _answer(run, model, single)
        levels: dict[str, str | int] = {
            "precision": single.precision,
            "attention": single.attention,
        }
        label = f"{model}, {single.precision}, {single.attention}"
        rows.append(LinkedRow(label, model, cells, levels))
    columns = {
        "forward_samples_per_s": f"forward samples/s, batch {BATCH}",
        "generate_ms": f"+{ANSWER_TOKENS} tokens ms, batch 1",
    }
    title = "Table III: throughput and latency of every benched model"
    empty = "" if rows else "the run has no bench"
    return LinkedTable("table_3", title, columns, tuple(rows), ("Medians.",), empty)


def _answer(
    run: MeasuredRun, model: str, setting: SpeedSetting, figure: str = "generate_ms"
) -> LinkedCell:
    """Return a figure of short answers; missing where answers of another length were timed."""
    found = run.bench(model, setting)
    if found is not None and found.result.generate_tokens != ANSWER_TOKENS:
        return missing_cell(_other_length(found.result))
    return run.speed(model, setting, figure)


def _other_length(bench: BenchResult) -> str:
    return f"answers of {bench.generate_tokens} tokens were timed, not of {ANSWER_TOKENS}"


# --- Tables IV to VI ---


def quality(run: MeasuredRun) -> LinkedTable:
    """Return Table IV: perplexity and inference memory of teacher, baseline and student."""
    labels = {TEACHER: "Teacher", BASELINE: "Baseline", STUDENT: "Distilled student"}
    setting = run.setting_of(labels, (1,))
    rows = [
        LinkedRow(
            label,
            role,
            {
                "validation": run.perplexity(
                    role, "validation", printed.TABLE_4[role]["validation"]
                ),
                "test": run.perplexity(role, "test"),
                "peak_bytes": run.speed(
                    role, setting, "peak_bytes", printed.TABLE_4[role]["peak_bytes"]
                ),
            },
        )
        for role, label in labels.items()
    ]
    return LinkedTable(
        "table_4",
        "Table IV: perplexity and inference memory",
        {"validation": "validation ppl", "test": "test ppl", "peak_bytes": "memory"},
        tuple(rows),
        (f"Memory: peak in {setting}.", printed.NOTE, printed.SCALED),
    )


def training_methods(run: MeasuredRun) -> LinkedTable:
    """Return Table V: what each way to train costs and reaches."""
    setting = run.setting_of(TRAINED, (1, BATCH))
    rows = []
    for role, label in TRAINED.items():
        paper = printed.TABLE_5[role]
        cells = {
            "steps": run.training_steps(role),
            "hours": run.training_hours(role, paper["hours"]),
            "peak_bytes": run.training_memory(role, paper["peak_bytes"]),
            "validation": run.perplexity(role, "validation", paper["validation"]),
            **_speeds(run, role, setting),
        }
        cells = {name: replace(cell, printed=paper.get(name)) for name, cell in cells.items()}
        rows.append(LinkedRow(label, role, cells))
    columns = {
        "steps": "steps",
        "hours": "time",
        "peak_bytes": "training memory",
        "validation": "validation ppl",
        **SPEED_COLUMNS,
    }
    notes = (_speed_note(setting), "\N{GREEK CAPITAL LETTER SIGMA}: with every teacher and parent.")
    return LinkedTable(
        "table_5", "Table V: ways to train", columns, tuple(rows), (*notes, printed.NOTE)
    )


def _speeds(run: MeasuredRun, model: str, setting: SpeedSetting) -> dict[str, LinkedCell]:
    """Return latencies of one sample, and throughputs of a batch."""
    one, many = replace(setting, batch=1), replace(setting, batch=BATCH)
    return {
        "forward_ms": run.speed(model, one, "forward_ms"),
        "forward_samples_per_s": run.speed(model, many, "forward_samples_per_s"),
        "generate_ms": _answer(run, model, one),
        "generate_samples_per_s": _answer(run, model, many, "generate_samples_per_s"),
    }


def _speed_note(setting: SpeedSetting, attention: str = "") -> str:
    how = attention or f", {setting.attention} attention"
    return f"Speeds: {setting.precision}{how}; ms of batch 1, samples/s of batch {BATCH}; medians."


@dataclass(frozen=True)
class InferenceRow:
    """A row of Table VI: a model, with or without flash attention."""

    label: str
    role: str
    attention: AttentionClass


INFERENCE = (
    InferenceRow("Baseline", BASELINE, "eager"),
    InferenceRow("Distilled LoRA pruned", MERGED, "eager"),
    InferenceRow("+ NF4", LIGHT, "eager"),
    InferenceRow("+ Flash", MERGED, "flash"),
    InferenceRow("+ Flash + NF4", LIGHT, "flash"),
)
"""The rows of Table VI."""


def inference(run: MeasuredRun) -> LinkedTable:
    """Return Table VI: quality, memory and speed of the finished models."""
    precision = run.setting_of({row.role for row in INFERENCE}, (1, BATCH)).precision
    batch = _most_measured(run, precision)
    rows = []
    for row in INFERENCE:
        setting = SpeedSetting(precision, row.attention, BATCH)
        cells = {
            "validation": run.perplexity(row.role, "validation"),
            "peak_bytes": run.speed(row.role, replace(setting, batch=batch), "peak_bytes"),
            **_speeds(run, row.role, setting),
        }
        paper = printed.TABLE_6[row.label]
        cells = {name: replace(cell, printed=paper.get(name)) for name, cell in cells.items()}
        cells["kernel"] = _kernel(run, row.role, setting)
        rows.append(LinkedRow(row.label, row.role, cells))
    columns = {
        "validation": "validation ppl",
        "peak_bytes": f"memory, batch {batch}",
        **SPEED_COLUMNS,
        "kernel": "kernel seen",
    }
    notes = (
        _speed_note(SpeedSetting(precision, "eager", 1), ", attention as the row says"),
        "Adapters are merged. Perplexity does not depend on the attention kernel. "
        "A compiled kernel belongs to a compiled step, which generates faster by more than that.",
        printed.NOTE,
    )
    return LinkedTable("table_6", "Table VI: inference", columns, tuple(rows), notes)


def _most_measured(run: MeasuredRun, precision: str) -> int:
    """Return the batch in which most rows of Table VI were measured."""

    def rows(batch: int) -> int:
        settings = [(row.role, SpeedSetting(precision, row.attention, batch)) for row in INFERENCE]
        return sum(run.bench(*each) is not None for each in settings)

    return max((BATCH, 1), key=rows)


def _kernel(run: MeasuredRun, model: str, setting: SpeedSetting) -> LinkedCell:
    """Return the attention kernel that a profiler saw."""
    one = replace(setting, batch=1)
    found = run.bench(model, one) or run.bench(model, setting)
    if found is None:
        return missing_cell(run.not_benched(model, one))
    return _word(found.result.kernel, found.artifact, f"asked for {found.result.attention}")


# --- every combination of factors ---


def factors(run: MeasuredRun) -> LinkedTable:
    """Return every measured combination of weights, precision and attention.

    The last three columns change one factor each: the time of a forward pass against that with
    merged weights, in fp32, with eager attention, all else equal.
    """
    columns = {
        "kernel": "kernel seen",
        "forward_ms": "forward ms",
        "generate_ms": f"+{ANSWER_TOKENS} tokens ms",
        "peak_bytes": "peak memory",
        "weight_bytes": "weights",
        "by_weights": "vs merged",
        "by_precision": "vs fp32",
        "by_attention": "vs eager",
    }
    rows = [
        _factor_row(run, level, each)
        for level, model in WEIGHTS.items()
        for each in run.benches
        if each.model == model
    ]
    absent = [why for model in WEIGHTS.values() if (why := run.absent(model))]
    notes = (
        "vs: forward time over that of the same row with one factor changed; below 1 is faster. "
        "Memory: peak, and of the weights.",
        *(f"Not here: {why}." for why in absent),
    )
    empty = "" if rows else "no bench measures a form of the light model"
    title = "Factors: weights, precision and attention, each alone"
    return LinkedTable("factors", title, columns, tuple(rows), notes, empty)


def _factor_row(run: MeasuredRun, level: str, measured: MeasuredBench) -> LinkedRow:
    bench, setting, model = measured.result, measured.setting, measured.model
    names = ("forward_ms", "generate_ms", "peak_bytes", "weight_bytes")
    cells = {name: bench_cell(measured, name) for name in names}
    if bench.generate_tokens != ANSWER_TOKENS:
        cells["generate_ms"] = missing_cell(_other_length(bench))
    levels: dict[str, str | int] = {
        "weights": level,
        "precision": bench.precision,
        "attention": bench.attention,
        "batch": bench.batch,
        "engine": bench.engine,
    }
    cells["kernel"] = _word(bench.kernel, measured.artifact, f"asked for {bench.attention}")
    against = {
        "by_weights": run.speed(MERGED, setting, "forward_ms"),
        "by_precision": run.speed(model, replace(setting, precision="fp32"), "forward_ms"),
        "by_attention": run.speed(model, replace(setting, attention="eager"), "forward_ms"),
    }
    ratios = {name: _over(cells["forward_ms"], other) for name, other in against.items()}
    label = f"{level}, {bench.precision}, {bench.attention}, batch {bench.batch}"
    return LinkedRow(label, model, {**cells, **ratios}, levels)


def _over(cell: LinkedCell, other: LinkedCell) -> LinkedCell:
    """Return a time over another; 1 where both are the same measurement."""
    if why := first_missing([cell, other]):
        return missing_cell(why)
    assert cell.number is not None and other.number is not None
    ratio = cell.number / other.number
    artifacts = tuple(dict.fromkeys((*cell.artifacts, *other.artifacts)))
    return LinkedCell(ratio, "times", f"{ratio:.2f}", artifacts=artifacts)


def tables(run: MeasuredRun) -> Sequence[LinkedTable]:
    """Return Tables I to VI."""
    makers = (profile_summary, operator_groups, every_model, quality, training_methods, inference)
    return [make(run) for make in makers]
