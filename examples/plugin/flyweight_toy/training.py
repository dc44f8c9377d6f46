"""A stage that trains with a loss of its own: `{stage: smooth, model: {...}, smoothing: 0.1}`.

The loop, its limits, checkpoints, validation, plans and budgets are flyweight's.
"""

from typing import Annotated, Literal

from pydantic import Field

import flyweight as fw


class Smooth(fw.TrainingStage):
    """Train a new model with label smoothing (Szegedy et al. 2016)."""

    stage: Literal["smooth"]
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def faults(self):
        """Refuse a stage without a model."""
        return [] if self.model is not None else ["needs a model"]


class SmoothStage(fw.Stage[Smooth]):
    """Build the model, choose the objective, and train."""

    version = 1

    def run(self, config, inputs, context, draft):
        """Write `model/` and return what the training spent."""
        from flyweight.model.build import build
        from flyweight.training.stages import train_model

        model = build(config.model, seed=context.runtime.seed).to(context.runtime.device)
        return train_model(config, model, smoothed(config), None, inputs, context, draft)

    def plan(self, config, inputs):
        """Return the model that will be trained."""
        return fw.Outline(config.model)


def smoothed(config):
    """Return the objective: (model, batch) -> sums over the batch's real targets."""
    import torch.nn.functional as F

    from flyweight.data.batch import IGNORE
    from flyweight.training.objectives import LossSum

    def objective(model, batch):
        hidden = model.hidden(batch.inputs, documents=batch.documents)  # (B, T, D)
        logits = model.logits(hidden).float().flatten(0, 1)  # (B * T, V)
        targets = batch.targets.flatten()
        options = {"ignore_index": IGNORE, "reduction": "sum"}
        loss = F.cross_entropy(logits, targets, label_smoothing=config.smoothing, **options)
        nll = F.cross_entropy(logits.detach(), targets, **options)
        return LossSum(loss, nll, batch.real_targets)

    return objective


def register():
    """Add the stage."""
    fw.register_stage(Smooth, STAGE)


STAGE = SmoothStage()
