"""A plan's memory against what training takes in a fresh process.

benchmarks/bench_plan_memory.py has a sample of sixty.
"""

import sys

import pytest
import torch

import flyweight as fw
from flyweight.config.schema import ModelConfig, Train
from flyweight.model import masks
from flyweight.model.attach import freeze
from flyweight.model.build import build
from flyweight.planning import memory
from flyweight.store.budget import LIBRARIES

MODEL = {"dim": 64, "layers": 2}
MEASURED = {
    "50 k": {"dim": 32, "layers": 2},
    "dropout, bf16": {"dim": 128, "layers": 4, "dropout": 0.1},
    "lstm, bf16, dropout": {"kind": "lstm", "dim": 128, "layers": 2, "dropout": 0.1},
}


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux can reset the high-water mark of a process"
)
@pytest.mark.parametrize("name", MEASURED)
def test_the_plan_is_within_a_factor_of_two_of_what_is_used(name, text_file):
    precision = "bf16" if "bf16" in name else "fp32"
    stage = {
        "stage": "pretrain",
        "model": MEASURED[name],
        "data": {"corpus": str(text_file), "tokenizer": "byte", "context": 128},
        "train": {"steps": 2, "batch": 8, "precision": precision},
    }
    recipe = {"name": "memory", "budget": {"memory": "1TB"}, "stages": {"one": stage}}
    (found,) = fw.plan(recipe, check=True).stages
    assert found.measured and 0.5 < found.memory.total / found.measured < 2


def kept(context=64, itemsize=4, **fields):
    config = ModelConfig.model_validate({**MODEL, **fields}).resolved(1000, context)
    return memory.kept_bytes(config, context, itemsize, cpu=True)


def test_what_autograd_keeps_follows_the_config():
    plain = kept()
    assert kept(dropout={"residual": 0.1}) - plain == 2 * 2 * 64  # a byte for each number
    assert kept(dropout={"attention": 0.1}) - plain == 2 * 2 * 64 * (
        4 + 4 + 1
    )  # two heads in two layers, 64 scores: the weights, what is left of them, and the mask
    assert kept(layers=4) - plain == plain - kept(layers=0)
    assert kept(layers=1, sharing={"kind": "all", "times": 12}) - kept(layers=1) == 11 * (
        kept(layers=2) - kept(layers=1)
    )
    assert kept(mlp="relu") < kept(mlp="gelu") < kept(mlp="swiglu")
    assert kept(thinking={"passes": 2}) > 2.5 * plain


def test_in_bfloat16_attention_keeps_its_scores_on_short_windows():
    long, short = kept(context=1024, itemsize=2), kept(context=512, itemsize=2)
    assert short - long == 2 * 2 * 512 * 2
    assert (
        memory.kept_bytes(ModelConfig(dim=64, layers=2).resolved(1000, 512), 512, 2, cpu=False)
        == long
    )


def test_libraries_are_a_processors_alone():
    model = ModelConfig(dim=64, layers=2).resolved(1000, 64)
    here, there = (memory.training(model, Train(), 64, device=device) for device in ("cpu", "cuda"))
    assert (here.libraries, there.libraries) == (LIBRARIES, 0)
    assert here.total - there.total == LIBRARIES
    assert here.total == sum(here.parts.values())
    assert memory.training(model, Train(), 64, itemsize=2).copies == 2 * here.weights // 4


PREFIX = {"adapters": [{"kind": "prefix", "length": 24, "softmax": "shared"}]}


def bytes_by_storage(tensors):
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def tensors_of(mask):
    """Yield the tensors of an attention mask and of its blocks."""
    if mask.mask is not None:
        yield mask.mask
    yield from mask._additive.values()
    for block in mask.blocks:
        yield from tensors_of(block.mask)


def allocated(config, rows, context, dtype, isolated, monkeypatch, trains="full"):
    """Return the bytes that a forward pass keeps for backward, and those of its masks."""
    model = build(config, seed=0).train()
    freeze(model, config, trains)
    spans, saved = [], []

    class Span(masks.TokenSpan):
        def __init__(self, *fields):
            super().__init__(*fields)
            spans.append(self)

    def pack(tensor):
        saved.append(tensor)
        return tensor

    monkeypatch.setattr("flyweight.model.decoder.TokenSpan", Span)
    tokens = torch.randint(300, (rows, context))
    documents = None
    if isolated:
        documents = (torch.arange(context) // 17).expand(rows, -1).contiguous()
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
    ):
        model.hidden(tokens, documents=documents)
    mask_storages = bytes_by_storage(
        tensor for span in spans for mask in span._masks.values() for tensor in tensors_of(mask)
    )
    others = {**mask_storages, **bytes_by_storage(model.parameters())}
    kept = {at: size for at, size in bytes_by_storage(saved).items() if at not in others}
    return sum(kept.values()), sum(mask_storages.values())


@pytest.mark.parametrize("isolated", [False, True], ids=["joined", "isolated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"position": "learned"},
        {"attention": {"window": 32}},
        {"attention": {"window": 100, "sinks": 2}},
        {"attention": {"heads": 4, "kv_heads": 2, "window": 32, "sinks": 4}},
        {"attention": {"heads": 4, "kv_heads": 1}},
        {"dropout": {"attention": 0.1}},
        {"dropout": {"attention": 0.1}, "attention": {"window": 32}},
        {"attention": {"heads": 4, "gate": True}},
        {"layers": 4, "skips": "unet"},
        {"layers": 4, "skips": ["unet", "embedding"]},
        {"attention": {"heads": 4, "kv_heads": 4, "value_residual": True}},
        {"thinking": {"passes": 2}},
        {"thinking": {"passes": 2}, "attention": {"window": 32, "sinks": 4}},
        {"blocks": {"1": {"attention": {"window": 64}}}},
        PREFIX,
        {**PREFIX, "attention": {"heads": 4, "kv_heads": 2, "window": 32, "sinks": 4}},
        {**PREFIX, "attention": {"window": 32}, "dropout": {"attention": 0.1}},
        {**PREFIX, "thinking": {"passes": 2}},
    ],
    ids=str,
)
def test_masks_and_activations_are_those_that_a_forward_pass_holds(
    fields, dtype, isolated, monkeypatch
):
    rows, context = 4, 192
    config = ModelConfig.model_validate({**MODEL, **fields}).resolved(300, context)
    kept, held = allocated(config, rows, context, dtype, isolated, monkeypatch)
    size = dtype.itemsize
    assert memory.mask_bytes(config, rows, context, size, isolated) == held
    planned = rows * context * memory.kept_bytes(config, context, size, True, isolated)
    assert 0.93 < planned / kept < 1.15


def test_masks_are_a_part_of_the_memory_of_a_training_and_of_its_teacher():
    model = ModelConfig(dim=64, layers=2).resolved(1000, 256)
    joined, isolated = (
        memory.training(model, Train(batch=8), 256, teacher=model, isolated=isolated)
        for isolated in (False, True)
    )
    assert (joined.masks, isolated.masks) == (0, 8 * 256**2 * 5)
    assert isolated.teacher - joined.teacher == isolated.masks
    assert isolated.total > joined.total + 2 * isolated.masks


@pytest.mark.parametrize("shape", [{}, {"mlp": "gelu", "norm": "layernorm"}, {"position": "none"}])
@pytest.mark.parametrize(
    "adapters",
    [
        ["lora"],
        [{"kind": "lora", "targets": "*"}],
        [{"kind": "lora", "dropout": 0.1}],
        [{"kind": "lora", "targets": "blocks.1.mlp.down"}],
        ["dora"],
        ["ia3"],
        ["bottleneck"],
        ["prefix"],
        [{"kind": "prefix", "softmax": "shared"}],
    ],
    ids=str,
)
def test_what_adapters_keep_is_what_is_allocated(adapters, shape, monkeypatch):
    fields = {**MODEL, **shape, "layers": 8, "adapters": adapters}
    config = ModelConfig.model_validate(fields).resolved(300, 64)
    used, _ = allocated(config, 2, 64, torch.float32, False, monkeypatch, "adapters")
    planned = memory.kept_bytes(config, 64, 4, True, trains="adapters") * 2 * 64
    late = 0.3 if "blocks.1" in str(adapters) else 0  # the block of the first one counts whole
    assert 0.9 < planned / used < 1.25 + late


def test_adapters_need_less_memory_than_all_tensors():
    config = ModelConfig.model_validate({**MODEL, "adapters": ["lora"]}).resolved(8000, 64)
    train = Train(batch=4, validations=0)
    whole, part = (memory.training(config, train, 64, trains=trains) for trains in PARTS)
    assert part.head == whole.head  # the head's gradient becomes that of its tensor
    train = Train(batch=4, accumulate=2, validations=0)
    again, less = (memory.training(config, train, 64, trains=trains) for trains in PARTS)
    assert again.head - less.head == 4 * 8000 * 64  # one beside that of the first half
    assert part.activations < whole.activations
    assert part.optimizer == 2 * part.gradients < whole.optimizer / 20
    assert part.weights == whole.weights


PARTS = ("full", "adapters")
