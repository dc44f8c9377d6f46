"""Mistakes of pruning, merging and quantizing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from audit.planted.mistake import Mistake
from audit.planted.training import replace_place
from audit_fixture import Lab
from safetensors.torch import load_file, save_file

from flyweight.compression.merge import merge
from flyweight.compression.prune import prune
from flyweight.compression.quantize import quantize
from flyweight.config import schema
from flyweight.evaluation import checks, history_checks, scoring_checks
from flyweight.evaluation.checks import History, Subject
from flyweight.model import folder
from flyweight.model.adapters import LoraPart
from flyweight.model.attach import attach
from flyweight.model.decoder import Decoder
from flyweight.model.linear_layer import layers_of
from flyweight.model.masked import apply_mask, masks_of
from flyweight.model.sparsity import sparsity_facts
from flyweight.records.audit import Check


def pruned_model(lab: Lab) -> Decoder:
    config = schema.Prune(stage="prune", input="", sparsity=0.5)
    model = prune(folder.load(lab.subject.folder), config, 0.5)
    assert isinstance(model, Decoder)
    return model.eval()


def fine_tuned(lab: Lab, keeps_masks: bool) -> Check:
    """A model trained further after pruning; without its masks the weights grow back."""
    model, parent = pruned_model(lab), replace_place(lab)
    folder.save(model, parent.path / "model")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3)
    if keeps_masks:
        for weight, mask in masks_of(model):
            apply_mask(weight, mask)
    child = lab.place / "model"
    child.mkdir()
    folder.save(model, child)
    parent.facts.update(sparsity_facts(pruned_model(lab)))
    artifact = lab.artifact("finetune", sparsity_facts(model))
    history = History(artifact, parent)
    return history_checks.sparsity(replace(lab.subject, folder=child, model=model, history=history))


def claimed(lab: Lab, share: float) -> Check:
    """A stage that says it pruned such a share."""
    artifact = lab.artifact("prune", {"sparsity": share}, config={"sparsity": share})
    history = History(artifact, None)
    return history_checks.sparsity(replace(lab.subject, model=pruned_model(lab), history=history))


def adapters_pruned_at_the_start(lab: Lab) -> None:
    """B is all zero before training, so that half of an adapter counts as pruned."""
    model = attach(folder.load(lab.subject.folder), [schema.Lora(r=2)])
    config = schema.Prune(stage="prune", input="", of="adapters", sparsity=0.8)
    prune(model, config, 0.8)


def adapted_model(lab: Lab) -> Decoder:
    """Return the model with an adapter that does something."""
    model = attach(folder.load(lab.subject.folder), [schema.Lora(r=2)])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".b"):
                parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


def merged_again(lab: Lab, times: int) -> Check:
    """A merged model beside the one with adapters; merged twice, their part counts twice."""
    adapted = adapted_model(lab)
    plain = folder.load(lab.subject.folder)
    once = merge(adapted)
    with torch.no_grad():
        for name, tensor in once.state_dict().items():
            tensor += (times - 1) * (tensor - plain.state_dict()[name])
    parent = replace_place(lab)
    folder.save(adapted, parent.path / "model")
    history = History(lab.artifact("merge"), parent)
    return history_checks.merge_of_parent(replace(lab.subject, model=once.eval(), history=history))


class Forgotten(LoraPart):
    """An adapter that is left out where its layer is merged."""

    def folded(self, weight, bias):
        return weight, bias


def unlike_its_merge(lab: Lab, wrong: bool) -> Check:
    model = adapted_model(lab)
    if wrong:
        for _, layer in layers_of(model):
            for adapter in layer.adapters:
                object.__setattr__(adapter, "__class__", Forgotten)
    return scoring_checks.merged(replace(lab.subject, model=model))


def in_nf4(lab: Lab, place: Path, scales: bool) -> Subject:
    model = quantize(folder.load(lab.subject.folder), schema.NF4(block=32), schema.Int8())
    folder.save(model, place)
    if not scales:
        tensors = load_file(place / folder.WEIGHTS)
        codes = {name: each for name, each in tensors.items() if "scale" not in name}
        save_file(codes, place / folder.WEIGHTS)
    return replace(lab.subject, model=model.eval(), folder=place)


MISTAKES = (
    Mistake(
        "masks_that_vanish",
        "lightgpt2",
        4,
        "the mask is removed before training, and 80 % of zeros become 0 % in two steps",
        "caught",
        "sparsity",
        lambda lab: fine_tuned(lab, keeps_masks=False),
        lambda lab: fine_tuned(lab, keeps_masks=True),
    ),
    Mistake(
        "zeros_that_are_claimed",
        "lightgpt2",
        4,
        "80 % of zeros are claimed, and the file has fewer",
        "caught",
        "sparsity",
        lambda lab: claimed(lab, 0.8),
        lambda lab: claimed(lab, 0.5),
    ),
    Mistake(
        "adapters_pruned_at_the_start",
        "lightgpt2",
        4,
        "LoRA is pruned before training, when its B is all zero anyway",
        "refused",
        "the stage `prune`: an adapter that was never trained",
        adapters_pruned_at_the_start,
    ),
    Mistake(
        "merged_twice",
        "others",
        3,
        "an adapter is added to its matrix twice",
        "caught",
        "merge_of_parent",
        lambda lab: merged_again(lab, 2),
        lambda lab: merged_again(lab, 1),
    ),
    Mistake(
        "merged_to_something_else",
        "others",
        4,
        "a layer computes something else than the matrix that it is merged into",
        "caught",
        "merged",
        lambda lab: unlike_its_merge(lab, wrong=True),
        lambda lab: unlike_its_merge(lab, wrong=False),
    ),
    Mistake(
        "size_without_scales",
        "others",
        5,
        "the size of a 4-bit model is counted without its scales",
        "caught",
        "stored_bytes",
        lambda lab: checks.stored_bytes(in_nf4(lab, lab.place, scales=False)),
        lambda lab: checks.stored_bytes(in_nf4(lab, lab.place, scales=True)),
    ),
)
