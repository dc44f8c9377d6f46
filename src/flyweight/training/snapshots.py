"""Snapshots of a training: its weights at points on the way, kept in its artifact.

    pretrain-3fa91c02/snapshots/0.5.safetensors   the tensors that train, as they would be kept then

They are written into the resume point first. A checkpoint that is written right behind knows their
checksums, so a resumed training has the same snapshots as one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flyweight.checkpoints import load_any
from flyweight.checkpoints.convert import copy_tokenizer
from flyweight.config import schema
from flyweight.core.files import copy_file, disk_errors
from flyweight.errors import RequestError
from flyweight.model import folder
from flyweight.model.sparsity import sparsity_facts
from flyweight.store.artifact import Artifact, Draft, Identity
from flyweight.store.stage import (
    Context,
    Inputs,
    Outline,
    PlannedInputs,
    Stage,
    identity_config,
)
from flyweight.training.checkpoint import SNAPSHOTS, Snapshot, copy_weights, snapshot_file


def publish(draft: Draft, taken: Sequence[Snapshot]) -> dict[str, Any]:
    """Copy the snapshots of a training into its artifact; return the fact of what they are."""
    if not taken:
        return {}
    with disk_errors(draft.path):
        out = draft.new_folder(SNAPSHOTS)
        for snapshot in taken:
            source = snapshot_file(draft.state, snapshot.at)
            copy_file(source, out / source.name)
    return {
        SNAPSHOTS: [{"at": each.at, "step": each.step, "nll": each.nll} for each in taken],
    }


class SnapshotStage(Stage[schema.Snapshot]):
    """A model with the weights of one of its training's snapshots."""

    version = 1

    def run(
        self, config: schema.Snapshot, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Write `model/` and return the facts."""
        return write_snapshot(config, inputs, draft)

    def plan(self, config: schema.Snapshot, inputs: PlannedInputs) -> Outline:
        """Return the model of the training."""
        return Outline(inputs.models.get("input"))


def snapshot_identity(config: schema.Snapshot, trained: Artifact) -> Identity:
    """Return the identity of a snapshot: the one that a recipe gives it where it was trained."""
    of = trained.identity
    return Identity(
        stage=config.stage,
        version=SnapshotStage.version,
        config=identity_config(config),
        parents={"input": trained.id},
        seed=of["seed"],
        threads=of["threads"],
        device=of["device"],
    )


def write_snapshot(config: schema.Snapshot, inputs: Inputs, draft: Draft) -> dict[str, Any]:
    """Write the `model/` of a snapshot and return its facts.

    Raises RequestError for a model whose training kept none there.
    """
    trained, source = inputs.artifacts["input"], inputs.model("input")
    taken = {entry["at"]: entry for entry in trained.facts.get(SNAPSHOTS, ())}
    file = snapshot_file(trained.path, config.at)
    if config.at not in taken or not file.is_file():
        there = [at for at in taken if snapshot_file(trained.path, at).is_file()]
        raise RequestError(f"{inputs.name}: {trained.id} {_keeps_none(trained, there, config.at)}")
    model = load_any.decoder(source, what=inputs.name)
    copy_weights(file, dict(model.named_parameters()))
    with disk_errors(draft.path):
        folder.save(model, draft.new_folder("model"))
        copy_tokenizer(source, draft.path / "model")
    facts = {key: inputs.spent(key) for key in ("total_flops", "total_seconds")}
    kept = {name: trained.facts[name] for name in ("documents", "corpus") if name in trained.facts}
    entry = taken[config.at]
    point = {"step": entry["step"], "best_nll": entry["nll"]}
    return {**facts, **kept, **point, **sparsity_facts(model)}


def _keeps_none(trained: Artifact, there: Sequence[float], at: float) -> str:
    """Return why an artifact has no snapshot at a point, and what makes one."""
    stage = trained.identity["stage"]
    kind = schema.stage_class(stage)
    if kind is not None and not issubclass(kind, schema.TrainingStage):
        return f"comes from a stage {stage}, which does not train"
    kept = ", ".join(f"{point:g}" for point in there)
    keeps = f"keeps snapshots at {kept}, and none at {at:g}" if there else "keeps no snapshots"
    points = ", ".join(f"{point:g}" for point in sorted({*there, at}))
    return f"{keeps}; train it with train.snapshots=[{points}]"
