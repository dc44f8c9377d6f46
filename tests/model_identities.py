"""What must hold for every decoder, each as a number that has to be zero or tiny: tests and `results/identities.csv`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from model_sample import CONFIGS, LENGTH, difference, model_of, tokens_of
from torch.utils.flop_counter import FlopCounterMode

from flyweight.model import folder
from flyweight.model.decoder import Decoder
from flyweight.model.packed import Packed
from flyweight.spec import flops

PIECES = ((0, 4), (4, 5), (5, 6), (6, 9), (9, LENGTH))


def parameters(index: int, place: Path) -> float:
    """Return by how much counted and built parameters, and claimed and built bytes, differ."""
    config = CONFIGS[index]
    with torch.device("meta"):
        model = Decoder(config)
    packed = [module for module in model.modules() if isinstance(module, Packed)]
    built = sum(p.numel() for p in model.parameters()) + sum(
        layer.in_features * layer.out_features for layer in packed
    )
    found = flops.parameters(config)
    held = sum(tensor.nbytes for tensor in model.state_dict().values())
    faults = (
        found.unique - built,
        sum(found.by_part.values()) - built,
        flops.weight_bytes(config, 4) - held,
    )
    return float(max(map(abs, faults)))


def forward_flops(index: int, place: Path) -> float:
    """Return by how much the forward FLOPs differ from those that torch counts on the meta device."""
    config = CONFIGS[index]
    with torch.device("meta"):
        model, tokens = Decoder(config), torch.zeros(1, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(tokens)
    return float(abs(counter.get_total_flops() - flops.forward_flops(config, LENGTH)))


def training_flops(index: int, place: Path) -> float:
    """Return the same for a step of training, without the optimizer.

    For a late loop also before it is switched on.
    """
    config, worst = CONFIGS[index], 0
    for looped in (True, False) if config.sharing.kind == "span" else (True,):
        with torch.device("meta"):
            model, tokens = Decoder(config), torch.zeros(1, LENGTH, dtype=torch.long)
        model.loop(looped)
        # Packed layers multiply their gradients in place, which the counter does not know by
        # itself.
        in_place = {torch.ops.aten.addmm_: lambda _, a, b, **others: 2 * a[0] * a[1] * b[1]}
        with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
            F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        worst = max(
            worst, abs(counter.get_total_flops() - flops.training_flops(config, LENGTH, looped))
        )
    return float(worst)


@torch.no_grad()
def causality(index: int, place: Path) -> float:
    """Return how much logits change when only later tokens do.

    Infinite where not even their own position's do.
    """
    model, tokens = model_of(index, torch.float32), tokens_of(index)
    vocab, before, worst = CONFIGS[index].vocab_size or 0, model(tokens), 0.0
    for cut in (1, 6, LENGTH - 1):
        changed = tokens.clone()
        changed[:, cut:] = (changed[:, cut:] + 1) % vocab
        after = model(changed)
        worst = max(worst, (after[:, :cut] - before[:, :cut]).abs().max().item())
        if torch.equal(after[:, cut], before[:, cut]):
            return math.inf
    return worst


@torch.no_grad()
def cached(index: int, place: Path, dtype: torch.dtype = torch.float64) -> float:
    """Return the relative difference of logits read in pieces through the cache, the last ones token by token."""
    model, tokens = model_of(index, dtype), tokens_of(index)
    cache = model.new_cache(2, LENGTH)
    parts = [model(tokens[:, start:stop], cache) for start, stop in PIECES]
    return difference(torch.cat(parts, 1), model(tokens))


@torch.no_grad()
def padded(index: int, place: Path) -> float:
    """Return the relative difference of the logits of a row padded on the left, cached and not, in float64."""
    model, tokens = model_of(index, torch.float64), tokens_of(index)
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[0, :3] = False
    expected = torch.cat((model(tokens[:1, 3:]), model(tokens[1:])[:, 3:]))
    cache = model.new_cache(2, LENGTH)
    edges = ((0, 2), (2, 5), (5, 6), (6, LENGTH))
    parts = [model(tokens[:, start:stop], cache, mask[:, :stop]) for start, stop in edges]
    whole = model(tokens, mask=mask)
    return max(difference(whole[:, 3:], expected), difference(torch.cat(parts, 1)[:, 3:], expected))


@torch.no_grad()
def saved(index: int, place: Path) -> float:
    """Return the largest difference of logits after saving and loading.

    Infinite where a tensor or the config changed.
    """
    model, tokens = model_of(index, torch.float32), tokens_of(index)
    folder.save(model, place)
    loaded = folder.load(place).eval()
    before, after = model.state_dict(), loaded.state_dict()
    if loaded.config != model.config or before.keys() != after.keys():
        return math.inf
    if not all(torch.equal(before[name], after[name]) for name in before):
        return math.inf
    header = (place / folder.WEIGHTS).stat().st_size - flops.weight_bytes(CONFIGS[index], 4)
    if not 0 < header < 200 * (len(before) + 1):
        return math.inf
    return (loaded(tokens) - model(tokens)).abs().max().item()


IDENTITIES: dict[str, tuple[Callable[[int, Path], float], float]] = {
    "parameters and bytes": (parameters, 0),
    "forward FLOPs": (forward_flops, 0),
    "training FLOPs": (training_flops, 0),
    "causality": (causality, 0),
    "cached logits, float64": (cached, 1e-12),
    "left padding, float64": (padded, 1e-12),
    "saved and loaded": (saved, 0),
}
"""Each with the largest value that it may have."""
