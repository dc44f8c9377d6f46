"""What head and loss hold: one gradient of the head, none where it is frozen, no unpacked table."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flyweight.config import schema
from flyweight.config.schema import ModelConfig
from flyweight.data.batch import IGNORE, Batch
from flyweight.model import packed
from flyweight.model.decoder import Decoder
from flyweight.training import objectives
from flyweight.training.objectives import DistillationObjective, NextTokenObjective

VOCAB, BATCH, LENGTH, DIM = 499, 3, 8, 20


def decoder(seed=0, **fields):
    config = {"dim": DIM, "layers": 1, "attention": {"heads": 2}, **fields}
    return Decoder(ModelConfig.model_validate(config).resolved(VOCAB, 16), seed=seed)


def batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randint(30, (2, BATCH, LENGTH), generator=generator)
    return Batch.from_tensors(inputs, targets)


def distillation():
    teacher = decoder(seed=5).requires_grad_(False)
    return DistillationObjective(schema.Distillation(temperature=2.0, weight=0.6), teacher)


OBJECTIVES = {"next_token": lambda: NextTokenObjective(schema.NextToken()), "kl": distillation}


class LargeTensors(TorchDispatchMode):
    """Counts the new float tensors of at least a head's size, and keeps none of them."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        def tensors(tree):
            return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]

        before = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in tensors(result):
            new = tensor.untyped_storage().data_ptr() not in before
            if new and tensor.is_floating_point() and tensor.numel() >= VOCAB * DIM:
                self.found.append((str(func), tensor.dtype))
        return result


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(objectives, "chunk_rows", lambda vocab: 5)
    monkeypatch.setattr(packed, "_PIECE_CPU", 40 * DIM)


def large_tensors(model, objective, autocast=False, micro_batches=1):
    with LargeTensors() as large:
        for micro in range(micro_batches):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = objective(model, batch(micro)).loss
            (loss / (BATCH * LENGTH)).backward()
    return large.found


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("tied", [True, False])
def test_one_gradient_of_the_head_exists(objective, tied):
    model, objective = decoder(embedding={"tied": tied}), OBJECTIVES[objective]()
    found = large_tensors(model, objective, micro_batches=2)
    assert len(found) == (2 if tied else 4), found  # an embedding apart has a gradient of its own
    model.zero_grad()
    found = large_tensors(model, objective, autocast=True)
    assert [dtype for _, dtype in found].count(torch.float32) == (1 if tied else 2), found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_the_head_becomes_that_of_the_parameter(monkeypatch, dtype):
    made = []

    class Recorded(objectives._HeadGradient):
        def __init__(self, weight):
            super().__init__(weight)
            made.append(self.parts[0].data_ptr())

    monkeypatch.setattr(objectives, "_HeadGradient", Recorded)
    model = decoder().to(dtype)
    objective = OBJECTIVES["next_token"]()
    (objective(model, batch()).loss / 7).backward()
    assert model.embedding.tokens.weight.grad.data_ptr() == made[0]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_frozen_head_has_no_gradient(objective, tied):
    model, objective = decoder(embedding={"tied": tied}), OBJECTIVES[objective]()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("blocks."))
    assert large_tensors(model, objective) == []
    assert model.blocks[0].mlp.down.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("tokens", [None, VOCAB - 7])
@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("part", ["embedding", "head"])
def test_a_packed_head_is_never_unpacked_whole(kind, part, tokens):
    tied = part == "embedding"
    fields = {"embedding": {"tied": tied}, "head": {"bias": True, "softcap": 4.0}}
    model = decoder(linears={part: kind}, init={"std": 0.3}, **fields)
    objective = NextTokenObjective(schema.NextToken(), tokens)
    found = large_tensors(model, objective)
    assert found == ([] if tied else [found[0]]), found  # the gradient of an embedding apart
    dense = decoder(init={"std": 0.3}, **fields)
    state = {name: tensor for name, tensor in model.state_dict().items() if "codes" not in name}
    dense.load_state_dict(state, strict=False)
    with torch.no_grad():
        source = model.embedding.tokens if tied else model.head.linear
        target = dense.embedding.tokens if tied else dense.head.linear
        target.weight.copy_(source.dense())
    loss = objective(dense, batch(0)).loss / (BATCH * LENGTH)
    loss.backward()
    expected = dict(dense.named_parameters())
    for name, parameter in model.named_parameters():
        gradient = expected[name].grad
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6, msg=name)
    packed_loss = objective(model, batch(0)).loss / (BATCH * LENGTH)
    assert packed_loss.item() == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_size_of_a_piece_changes_nothing(monkeypatch, objective):
    results = []
    for elements in (1, 2 * VOCAB, 10**9):
        monkeypatch.setattr(objectives, "PIECE_CPU", elements)
        model = decoder(head={"softcap": 3.0})
        loss = OBJECTIVES[objective]()(model, batch()).loss
        loss.backward()
        results.append((loss, [parameter.grad for parameter in model.parameters()]))
    for loss, gradients in results[1:]:
        assert torch.equal(loss, results[0][0])
        for one, other in zip(gradients, results[0][1], strict=True):
            assert torch.equal(one, other)


def test_a_second_backward_is_refused():
    loss = OBJECTIVES["next_token"]()(decoder(), batch()).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()


@pytest.mark.parametrize("linears", [{}, {"embedding": "int8"}, {"embedding": "nf4"}])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_dry_run_without_values_passes(objective, masked, linears):
    inputs = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    targets = inputs.clone()
    if masked:
        targets[1] = IGNORE
    weights = torch.rand(BATCH, LENGTH) if masked else None
    sample = Batch.from_tensors(inputs, targets, weights)
    model, objective = decoder(linears=linears), OBJECTIVES[objective]()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in (model, getattr(objective, "teacher", model)):
            for name, tensor in module.state_dict(keep_vars=True).items():
                owner, _, field = name.rpartition(".")
                fake = mode.from_tensor(tensor)
                group = "_parameters" if isinstance(tensor, torch.nn.Parameter) else "_buffers"
                getattr(module.get_submodule(owner), group)[field] = fake
        fields = {"inputs": inputs, "targets": targets, "weights": weights}
        fake_fields = {
            name: None if tensor is None else mode.from_tensor(tensor)
            for name, tensor in fields.items()
        }
        loss = objective(model, Batch(real_targets=sample.real_targets, **fake_fields)).loss
        loss.backward()
    gradients = [tensor.grad for tensor in model.parameters()]
    assert all(gradient is not None for gradient in gradients)
