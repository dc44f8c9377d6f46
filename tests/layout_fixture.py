"""A made-up LightGPT2 run: every role with every measurement, in numbers that are easy to check."""

import math

import report_fixture as made

from flyweight.config.pruning import SparsitySweep
from flyweight.config.schema import TrainingStage
from flyweight.records.bench import BenchResult, PassSeconds
from flyweight.records.profile import GroupTimes, OperatorTime, ProfileResult
from flyweight.records.run_summary import StageSummary
from flyweight.records.sweep import PerplexityCost, Pruning, SweptNll, SweptSparsity
from flyweight.reports.layouts.lightgpt2 import roles

BITS = {
    "teacher": 1.70,
    "baseline": 1.80,
    "baseline-lora": 1.82,
    "baseline-lora-pruned": 1.83,
    "student": 1.84,
    "lora": 1.84,
    "tuned": 1.85,
    "merged": 1.85,
    "nf4": 1.86,
    "alone-nf4": 1.81,
}
"""Bits per byte of the compared models."""

FORWARD_MS = {"baseline": 10.0, "tuned": 9.0, "merged": 5.0, "int8": 4.5, "nf4": 3.0}
PEAK = {"baseline": 200e6, "tuned": 190e6, "merged": 150e6, "int8": 120e6, "nf4": 100e6}
TRAINING_PEAK = {
    "baseline": 1000,
    "baseline-lora": 700,
    "baseline-lora-pruned": 700,
    "teacher": 2000,
    "student": 900,
    "lora": 350,
    "tuned": 350,
}


def bench(model, precision="fp32", attention="auto", batch=1, generate_tokens=5):
    """Return a bench whose forward pass takes as long as FORWARD_MS says, for each sample."""
    forward = FORWARD_MS.get(model, 8.0) * batch * (0.5 if precision == "bf16" else 1.0)
    forward *= 1.2 if attention == "eager" else 1.0
    peak = PEAK.get(model, 160e6)
    return BenchResult(
        **made.speed(forward, 5000, 500, peak, peak / 2).model_dump(),
        generate_ms=made.metric(forward / 2, "ms", "lower", 0.02, 5),
        samples_per_s=made.metric(2e3 * batch / forward, "1/s", "higher", 0.02, 5),
        disk_bytes=made.metric(peak / 2, "bytes"),
        p95={},
        batch=batch,
        prompt=64,
        new_tokens=64,
        repeats=5,
        device="cpu",
        precision=precision,
        generate_tokens=generate_tokens,
        attention=attention,
        kernel="eager" if attention == "eager" else "flash",
        engine="compiled",
        context=128,
        memory="VmHWM",
        baseline_bytes=1,
        kernels={"dense": 4},
        threads=2,
        torch="2.13.0",
        seconds=PassSeconds(forward=(1.0,), prefill=(1.0,), decode=(1.0,), generate=(1.0,)),
    )


def profile(total):
    """Return a profile of 20 tokens in `total` milliseconds."""
    parts = dict.fromkeys(GroupTimes.model_fields, 0.0) | {"mm": total / 2, "attention": total / 4}
    return ProfileResult(
        operators=(OperatorTime(name="aten::mm", calls=9, self_ms=total / 2, device_ms=0.0),),
        groups=GroupTimes(**parts),
        cpu_ms=0.9 * total,
        device_ms=0.0,
        generate_ms=total,
        peak_bytes=123_000_000,
        tokens=20,
        prompt=64,
        kernel="flash",
        attention="auto",
        engine="eager",
        precision="fp32",
        device="cpu",
        threads=2,
        torch="2.13.0",
    )


def pruning():
    """Return a sweep of two sparsities: the larger costs 2 on the whole split and two adapters."""

    def row(sparsity, part, whole, idle=0):
        width = 0.5
        costs = [
            PerplexityCost(value=cost, low=cost - width, high=cost + width)
            for cost in (part, whole)
        ]
        nll = math.log(20 + whole)
        chosen_on = math.log(30 + part)
        return SweptSparsity(
            sparsity=sparsity,
            nll=nll,
            low=nll - 0.1,
            high=nll + 0.1,
            targets=5000,
            perplexity_cost=costs[0],
            whole_cost=costs[1],
            chosen_on=SweptNll(
                nll=chosen_on, low=chosen_on - 0.2, high=chosen_on + 0.2, targets=1000
            ),
            idle_adapters=idle,
        )

    return Pruning(
        sparsity=0.0,
        adapter_sparsity=0.8,
        adapters=3,
        idle_adapters=2,
        sweep=(row(0.5, 0.1, 0.2), row(0.8, 0.9, 2.0, idle=2)),
        chosen=0.8,
        undecided=(0.8,),
        limit=1.0,
    )


def stage(kind, name, model=None, **fields):
    """Return a stage of a kind; its artifact is named after it."""
    return StageSummary(
        name=name,
        id=made.model(name, stage=kind).id,
        stage=kind,
        seconds=1.0,
        reused=False,
        input=model,
        **fields,
    )


def compared(name, bits):
    """Return a compared model with the ids of what measured it."""
    each = made.model(
        name,
        bits,
        bench=None,
        measured={"evaluate": f"evaluate-{len(name):08x}", "memory": f"memory-{len(name):08x}"},
    )
    peak = TRAINING_PEAK.get(name)
    if peak is None:
        return each.model_copy(update={"training": None, "curve": None})
    return each.model_copy(update={"training": made.training(each, peak_bytes=peak * 10**6)})


def stages():
    """Return the stages of the run in order: the models, then what measures them."""
    kinds = {"pruned": "prune", "nf4": "quantize", "int8": "quantize", "merged": "merge"}
    names = [*BITS, "int8"]
    models = [stage(kinds.get(name, "finetune"), name) for name in names]
    models.append(stage("prune", "pruned", "lora", pruning=pruning()))
    sizes = [stage("init", f"size-{size}") for size in ("small", "large")]
    evaluations = [
        stage(
            "evaluate",
            f"validation-{name}",
            name,
            evaluate=made.evaluation(bits + 0.02).model_copy(update={"split": "validation"}),
        )
        for name, bits in BITS.items()
    ]
    speeds = [
        stage(
            "bench",
            f"b-{name}-{attention}-{batch}",
            name,
            bench=bench(name, "fp32", attention, batch),
        )
        for name in (
            "baseline",
            "tuned",
            "merged",
            "int8",
            "nf4",
            "size-small",
            "size-large",
            "teacher",
            "student",
        )
        for attention in ("eager", "auto")
        for batch in (1, roles.BATCH)
    ]
    fast = stage("bench", "nf4-fast", "nf4", bench=bench("nf4", "bf16"))
    profiles = [
        stage("profile", f"operators-{name}", name, profile=profile(total))
        for name, total in (("baseline", 40.0), ("nf4", 25.0))
    ]
    return [*models, *sizes, *evaluations, *speeds, fast, *profiles]


def lightgpt2(**changes):
    """Return the summary of the run; any field can be replaced."""
    models = tuple(compared(name, bits) for name, bits in BITS.items())
    fields = {
        "name": "lightgpt2",
        "models": models,
        "stages": tuple(stages()),
        "comparisons": (made.compare("baseline", "nf4", BITS["baseline"] - BITS["nf4"], 0.02),),
        "layout": "lightgpt2",
    }
    return made.quickstart(**{**fields, **changes})


def of_recipe(recipe):
    """Return the summary that a recipe's run would have, with made-up numbers for all it measures."""
    measures = {
        "bench": lambda config: {
            "bench": bench(config.input, config.precision, config.attention, config.batch)
        },
        "profile": lambda config: {"profile": profile(40.0)},
        "evaluate": lambda config: {
            "evaluate": made.evaluation(1.8).model_copy(update={"split": config.split})
        },
        "prune": lambda config: {
            "pruning": pruning() if isinstance(config.sparsity, SparsitySweep) else None
        },
    }
    stages = [
        stage(
            config.stage,
            name,
            config.dependencies().get("input"),
            **measures.get(config.stage, lambda config: {})(config),
        )
        for name, config in recipe.stages.items()
    ]
    asked = {kind: kind in recipe.report.measure for kind in ("evaluate", "bench", "memory")}
    models = []
    for name in recipe.report.compare:
        each = made.model(name, 1.8, measured={kind: f"{kind}-{len(models):08x}" for kind in asked})
        trains = isinstance(recipe.stages[name], TrainingStage)
        training = made.training(each, peak_bytes=10**6 if asked["memory"] else None)
        fields = {
            "evaluate": each.evaluate if asked["evaluate"] else None,
            "bench": bench(name) if asked["bench"] else None,
            "training": training if trains else None,
            "curve": each.curve if trains else None,
        }
        models.append(each.model_copy(update=fields))
    return lightgpt2(
        name=recipe.name,
        models=tuple(models),
        stages=tuple(stages),
        comparisons=(),
        layout=recipe.report.layout,
    )


def without(*names):
    """Return the run without some stages, and without what they measured."""
    kept = [each for each in stages() if not {each.name, each.input} & set(names)]
    models = [compared(name, bits) for name, bits in BITS.items() if name not in names]
    return lightgpt2(stages=tuple(kept), models=tuple(models), comparisons=())
