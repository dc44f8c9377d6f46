"""Pruning by a layer's inputs: against plain references, and against pruning without them."""

from functools import cache

import pytest
import torch
from torch import Tensor

from flyweight.compression.kept import largest, largest_of_rows, two_of_four
from flyweight.compression.prune import prune
from flyweight.compression.sparsegpt import AT_ONCE, prune_by_inputs
from flyweight.config.schema import ModelConfig, Prune
from flyweight.model.decoder import Decoder
from flyweight.model.linear_layer import layers_of
from flyweight.model.masked import MaskedLinear

DAMPING = 0.01


def reference(weight: Tensor, gram: Tensor, sparsity: float, pattern: bool) -> Tensor:
    """Return a weight pruned as Algorithm 1 of the paper has it, one row and column at a time.

    The inverse of what is left of the Hessian is computed anew for every column, and no factor
    of it is used.
    """
    weight, count = weight.double().clone(), weight.shape[1]
    hessian = gram.double()
    hessian = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(count, dtype=torch.float64)
    kept = torch.ones_like(weight, dtype=torch.bool)
    for column in range(count):
        width = 4 if pattern else AT_ONCE
        if column % width == 0:
            places = range(column, min(column + width, count))
            losses = []
            for place in places:  # as if the columns before were finished
                inverse = torch.linalg.inv(hessian[place:, place:])
                losses.append(weight[:, place].square() / inverse[0, 0])
            score = torch.stack(losses, 1).float()
            chosen = two_of_four(score) if pattern else largest([score], sparsity)[0]
            kept[:, column : column + width] = chosen
        inverse = torch.linalg.inv(hessian[column:, column:])
        error = torch.where(kept[:, column], 0, weight[:, column]) / inverse[0, 0]
        weight[:, column:] -= error[:, None] * inverse[0][None]
        weight[:, column] = torch.where(kept[:, column], weight[:, column], 0)
    return weight.float()


def layer_and_inputs(out: int, in_: int) -> tuple[Tensor, Tensor]:
    """Return a weight, and the gram of correlated inputs of it."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(in_, in_, generator=generator)
    inputs = torch.randn(4 * in_, in_, generator=generator) @ mixing
    return torch.randn(out, in_, generator=generator), inputs.T @ inputs / len(inputs)


@pytest.mark.parametrize("in_", [24, 160])
@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_it_is_the_algorithm_of_the_paper(in_, pattern):
    weight, gram = layer_and_inputs(6, in_)
    whole = torch.ones_like(weight, dtype=torch.bool)
    pruned, kept = prune_by_inputs(weight, gram, 0.5, pattern, whole, DAMPING)
    expected = reference(weight, gram, 0.5, pattern is not None)
    assert pruned[~kept].count_nonzero() == 0
    assert (kept == (expected != 0)).float().mean() > 0.99
    same = kept == (expected != 0)
    assert torch.allclose(error(weight, pruned, gram), error(weight, expected, gram), rtol=1e-3)
    assert same.all() or in_ > 24


def error(weight: Tensor, pruned: Tensor, gram: Tensor) -> Tensor:
    """Return the squared length of the change of a layer's output."""
    difference = (pruned - weight).double()
    return (difference @ gram.double() * difference).sum()


def test_what_was_pruned_before_stays_so():
    weight, gram = layer_and_inputs(6, 40)
    before = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    _, kept = prune_by_inputs(weight * before, gram, 0.6, None, before, DAMPING)
    assert not (kept & ~before).any()
    assert int((~kept).sum()) == round(0.6 * weight.numel())


def test_an_input_that_is_always_zero():
    weight, gram = layer_and_inputs(4, 12)
    gram[3], gram[:, 3] = 0, 0
    pruned, _ = prune_by_inputs(
        weight, gram, 0.5, None, torch.ones_like(weight, dtype=torch.bool), DAMPING
    )
    assert torch.isfinite(pruned).all()


@cache
def trained() -> tuple[Decoder, list[Tensor]]:
    """Return a toy model that has learned a text, and a part of the text as batches."""
    words = ["stone", "river", "cloud", "field", "small", "bright", "over", "under"]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, len(words), (4000,), generator=generator).tolist()
    text = " ".join(f"{words[n]} {words[(n * 3 + 1) % 8]}" for n in drawn)
    tokens = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long()
    rows = tokens[: len(tokens) // 33 * 33].view(-1, 33)
    config = ModelConfig(vocab_size=256, context=32, dim=32, layers=2)
    model = Decoder(config, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(150):
        batch = rows[step * 16 % 1000 :][:16]
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    return model.eval(), [rows[:64, :-1], rows[64:128, :-1]]


def loss(model: Decoder, rows: Tensor) -> Tensor:
    logits = model(rows[:, :-1])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def pruned(method: str, **fields: object) -> tuple[Decoder, float]:
    """Return the toy model pruned by a method, and its loss on text that nothing has read."""
    model, batches = trained()
    settings = Prune.model_validate({"stage": "prune", "input": "m", "method": method, **fields})
    result = prune(model, settings, settings.share, seed=3, batches=batches)
    assert isinstance(result, Decoder)
    with torch.no_grad():
        held = torch.cat(batches)
        return result, float(loss(result, held))


def output_errors(model: Decoder, small: Decoder) -> dict[str, float]:
    """Return the change of each layer's output on the text, given the same inputs."""
    reads = dict[str, list[Tensor]]()
    layers = dict(layers_of(model.blocks))
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, x, name=name: reads.setdefault(name, []).append(x[0].flatten(0, -2))
        )
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        for batch in trained()[1]:
            model(batch)
    for hook in hooks:
        hook.remove()
    found = {}
    for name, layer in layers_of(small.blocks):
        change = layers[name].dense() - layer.dense()
        found[name] = float((torch.cat(reads[name]) @ change.T).norm().detach())
    return found


def test_sparsegpt_changes_the_outputs_of_a_trained_model_least():
    model, _ = trained()
    results = {name: pruned(name, sparsity=0.5) for name in ("sparsegpt", "magnitude", "random")}
    errors = {name: output_errors(model, small) for name, (small, _) in results.items()}
    first = [name for name in errors["random"] if name.startswith("0.attention.")]
    first = [name for name in first if not name.endswith("out")]
    for name in first:  # these read the same in all three models
        assert errors["sparsegpt"][name] <= errors["magnitude"][name] < errors["random"][name]
    total = {name: sum(each.values()) for name, each in errors.items()}
    assert total["sparsegpt"] < total["magnitude"] < total["random"]
    losses = {name: value for name, (_, value) in results.items()}
    assert losses["sparsegpt"] < losses["magnitude"] < losses["random"]


def test_wanda_weighs_by_inputs_and_compares_the_weights_of_one_output():
    small, value = pruned("wanda", sparsity=0.5)
    assert value < pruned("random", sparsity=0.5)[1]
    model, batches = trained()
    block = model.get_submodule("blocks.0.attention.q")
    reads = list[Tensor]()
    hook = block.register_forward_pre_hook(lambda _, x: reads.append(x[0].flatten(0, -2)))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    hook.remove()
    q = small.get_submodule("blocks.0.attention.q")
    assert isinstance(q, MaskedLinear)
    score = model.get_parameter("blocks.0.attention.q.weight").abs() * torch.cat(reads).norm(dim=0)
    assert torch.equal(q.kept(), largest_of_rows(score, 0.5))
    assert (q.kept().sum(1) == 16).all()


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_two_of_four_by_inputs(method):
    small, _ = pruned(method, pattern="2:4")
    for _, layer in layers_of(small.blocks):
        assert isinstance(layer, MaskedLinear)
        assert (layer.kept().view(layer.out_features, -1, 4).sum(-1) == 2).all()
        assert layer.weight[~layer.kept()].count_nonzero() == 0
