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
from flyweight.compression.quantize import quantize
from flyweight.config import schema
from flyweight.evaluation import checks, history_checks, scoring_checks
from flyweight.evaluation.checks import History, Subject
from flyweight.model import folder
from flyweight.model.adapters import LoraPart
from flyweight.model.attach import attach
from flyweight.model.decoder import Decoder
from flyweight.model.linear_layer import layers_of
from flyweight.records.audit import Check


def zeroed(model: Decoder, share: float) -> Decoder:
    """Return the model with a share of each block's matrix set to zero, and no mask."""
    with torch.no_grad():
        for name, layer in layers_of(model):
            if name.startswith("blocks."):
                weight = layer.weight  # type: ignore[attr-defined]
                weight[:, : round(share * weight.shape[1])] = 0
    return model


def pruned(lab: Lab, vanishes: bool) -> Check:
    """A model that claims 50 % of zeros; they grew back in the next step."""
    model = zeroed(folder.load(lab.subject.folder).eval(), 0.5)
    if vanishes:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1e-3)
    history = History(lab.artifact("prune", {"sparsity": 0.5}, config={"of": "weights"}))
    return history_checks.sparsity(replace(lab.subject, model=model, history=history))


def adapted_model(lab: Lab) -> Decoder:
    """Return the model with an adapter that does something."""
    model = attach(folder.load(lab.subject.folder), [schema.Lora(r=2)])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".b"):
                parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


def adapters_pruned_at_the_start(lab: Lab, claims: float) -> Check:
    """The adapters' B is all zero, so a claim of a half-pruned adapter says nothing of it."""
    model = attach(folder.load(lab.subject.folder), [schema.Lora(r=2)]).eval()
    history = History(lab.artifact("prune", {"sparsity": claims}, config={"of": "adapters"}))
    return history_checks.sparsity(replace(lab.subject, model=model, history=history))


def share_of_zeros(lab: Lab) -> float:
    model = attach(folder.load(lab.subject.folder), [schema.Lora(r=2)])
    zeros = [tensor for name, tensor in model.named_parameters() if name.endswith((".a", ".b"))]
    return sum(int((each == 0).sum()) for each in zeros) / sum(each.numel() for each in zeros)


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
        lambda lab: pruned(lab, vanishes=True),
        lambda lab: pruned(lab, vanishes=False),
    ),
    Mistake(
        "adapters_pruned_at_the_start",
        "lightgpt2",
        4,
        "LoRA is pruned before training, when its B is all zero anyway",
        "caught",
        "sparsity",
        lambda lab: adapters_pruned_at_the_start(lab, 0.8),
        lambda lab: adapters_pruned_at_the_start(lab, share_of_zeros(lab)),
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
