"""Checks of a finished run's speeds: one factor apart, under the same conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from flyweight.config.adapters import MERGEABLE
from flyweight.core.files import read_json
from flyweight.evaluation.checks import no_faults, not_applicable
from flyweight.evaluation.compared_run import ComparedRun
from flyweight.records.audit import Check
from flyweight.store.artifact import Artifact

CONDITIONS = ("machine", "device", "threads", "batch", "prompt", "new_tokens", "libraries")
"""What has to be equal between speeds in one table."""
FACTORS = ("model", "precision", "attention", *CONDITIONS)
"""What may make one model faster than another."""


def one_factor(run: ComparedRun) -> Check:
    """Check that no speed-up is claimed where two factors changed at once.

    Two models' speeds may differ in one of FACTORS. Where they differ in more, other benches of the
    run must lead from one to the other, one factor at a time: the controls.
    """
    reported = list(run.reported())
    if len(reported) < 2:
        return not_applicable("one_factor", "no speeds are compared")
    nodes = [_factors(name, bench) for name, bench in run.benches()]
    faults = []
    for (a, a_bench), (b, b_bench) in combinations(reported, 2):
        start, end = _factors(a, a_bench), _factors(b, b_bench)
        if not _connected(start, end, nodes):
            changed = ", ".join(_changed(start, end))
            faults.append(f"{a} and {b} differ in {changed}, and no control has one of them alone")
    return no_faults(
        "one_factor", faults, f"{len(reported)} speeds, one factor apart or controlled"
    )


def _factors(name: str, bench: Artifact) -> dict[str, object]:
    """Return what a speed was measured with."""
    identity, metrics = bench.identity, bench.metrics()
    of_bench = {key: metrics.get(key) for key in ("precision", "attention", "batch", "prompt")}
    return {
        "model": name,
        **of_bench,
        "new_tokens": metrics.get("new_tokens"),
        "threads": metrics.get("threads"),
        "device": metrics.get("device"),
        "machine": identity["machine"],
        "libraries": str(sorted((identity["libraries"] or {}).items())),
    }


def _changed(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    return [name for name in FACTORS if a[name] != b[name]]


def _connected(
    start: Mapping[str, object], end: Mapping[str, object], nodes: Sequence[Mapping[str, object]]
) -> bool:
    """Return whether single-factor steps lead from one bench to another."""
    reached, new = [start], [start]
    while new:
        if any(len(_changed(node, end)) <= 1 for node in new):
            return True
        new = [
            node
            for node in nodes
            if node not in reached and any(len(_changed(node, each)) <= 1 for each in new)
        ]
        reached += new
    return False


def same_conditions(run: ComparedRun) -> Check:
    """Check that the speeds of a table were measured on one machine, under one load.

    The benches' machine, device, threads, batch, lengths and libraries are equal, and each is of a
    fresh process whose memory before the model is told.
    """
    reported = list(run.reported())
    if not reported:
        return not_applicable("same_conditions", "no speed is reported")
    faults = []
    first_name, first = reported[0]
    for name, bench in reported:
        changed = [
            key
            for key in CONDITIONS
            if _factors(name, bench)[key] != _factors(first_name, first)[key]
        ]
        if changed:
            faults.append(f"{first_name} and {name} were measured with another {changed[0]}")
        if not bench.metrics().get("baseline_bytes"):
            faults.append(f"{name}: what its process held before the model is not known")
    return no_faults("same_conditions", faults, f"{len(reported)} speeds under the same conditions")


def attention_asked(run: ComparedRun) -> Check:
    """Check that a bench which asks for a kernel of attention has seen it run."""
    asked: list[str] = []
    faults = []
    for name, bench in run.benches():
        wanted, seen = bench.metrics().get("attention"), bench.metrics().get("kernel")
        if wanted in (None, "auto"):
            continue
        asked.append(name)
        if wanted != seen:
            faults.append(f"{name}: {wanted} was asked for and {seen or 'no kernel'} was seen")
    if not asked:
        return not_applicable("attention_asked", "no bench asks for a kernel")
    return no_faults("attention_asked", faults, f"{len(asked)} benches saw what they asked for")


def merged_speed(run: ComparedRun) -> Check:
    """Check that adapters which can become part of their matrices are merged where speed counts."""
    adapted, faults = [], []
    merges = {
        artifact.identity["parents"].get("input")
        for name, artifact in run.models.items()
        if artifact.stage == "merge" and run.measured[name].benches
    }
    for name, artifact in run.models.items():
        kinds = {each["kind"] for each in _adapters(artifact)}
        if not kinds or not kinds <= set(MERGEABLE) or not run.measured[name].benches:
            continue
        adapted.append(name)
        if artifact.id not in merges:
            faults.append(f"{name}: its adapters are not merged, and no merge of it is benched")
    if not adapted:
        return not_applicable("merged_speed", "no benched model has adapters that can be merged")
    return no_faults("merged_speed", faults, f"{len(adapted)} adapted models beside their merges")


def _adapters(artifact: Artifact) -> list[dict[str, Any]]:
    path = artifact.path / "model" / "config.json"
    return list(read_json(path).get("adapters") or ()) if path.is_file() else []
