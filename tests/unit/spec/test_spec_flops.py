import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flyweight.config.schema import AdamW, ModelConfig, Muon
from flyweight.model.decoder import Decoder
from flyweight.spec import flops


def config(**fields: Any) -> ModelConfig:
    return ModelConfig.model_validate(
        {"vocab_size": 50, "context": 16, "dim": 24, "layers": 3, **fields}
    )


def test_parts_of_a_small_model_by_hand() -> None:
    found = flops.parameters(
        config(
            attention={
                "heads": 4,
                "kv_heads": 2,
                "bias": True,
                "out_bias": False,
                "gain": True,
                "qk_norm": True,
            },
            position="learned",
            mlp={"kind": "gelu", "hidden": 10, "bias": True},
            norm="layernorm",
            embedding={"tied": False, "bigram": {"kind": "hashed", "buckets": 7}},
        )
    )
    assert found.by_part == {
        "embedding": 50 * 24,
        "positions": 16 * 24,
        "bigram": 7 * 24,
        "index": 0,
        "attention": 3 * (24 * 24 + 24 + 2 * (12 * 24 + 12) + 24 * 24 + 4),
        "mlp": 3 * (10 * 24 + 10 + 24 * 10 + 24),
        "norms": 3 * (4 * 24 + 2 * 6) + 2 * 24,
        "residual": 0,
        "thinking": 0,
        "head": 50 * 24,
    }
    assert found.unique == found.total == sum(found.by_part.values())


def test_flops_by_hand() -> None:
    plain = config(attention={"heads": 4, "kv_heads": 2}, mlp={"kind": "swiglu", "hidden": 10})
    matrices = 3 * (2 * 24 * 24 + 2 * 12 * 24 + 3 * 24 * 10) + 50 * 24
    assert flops.forward_flops(plain, 7) == 2 * 7 * matrices + 3 * 4 * 24 * 7 * 7
    assert flops.training_flops(plain, 7) == 3 * flops.forward_flops(plain, 7)


def test_untying_changes_parameters_but_not_flops() -> None:
    tied, untied = config(), config(embedding={"tied": False})
    assert flops.parameters(untied).unique - flops.parameters(tied).unique == 50 * 24
    assert flops.forward_flops(untied, 9) == flops.forward_flops(tied, 9)


def test_frozen_weights_save_their_gradients_product() -> None:
    dense, packed = config(), config(linears={"*": "int8"})
    attention = 3 * 4 * 24 * 9 * 9
    assert flops.forward_flops(packed, 9) == flops.forward_flops(dense, 9)
    assert flops.training_flops(packed, 9) - 3 * attention == 2 * (
        flops.forward_flops(dense, 9) - attention
    )


def test_adamw_by_hand() -> None:
    model = config(position="learned", attention={"heads": 4, "bias": True, "gain": True})
    built = Decoder(model)
    vectors = sum(p.numel() for p in built.parameters() if p.ndim < 2)
    matrices = sum(p.numel() for p in built.parameters() if p.ndim >= 2)
    assert flops.optimizer_flops(model, AdamW(weight_decay=0.1)) == 13 * vectors + 14 * matrices
    assert flops.optimizer_flops(model, AdamW(weight_decay=0)) == 13 * (vectors + matrices)


def test_muon_products_are_those_of_torchs_own_step() -> None:
    model = config(attention={"heads": 4, "kv_heads": 2}, mlp={"kind": "relu2", "hidden": 40})
    built = Decoder(model)
    matrices = [
        p for name, p in built.named_parameters() if name.startswith("blocks.") and p.ndim == 2
    ]
    for parameter in matrices:
        parameter.grad = torch.ones_like(parameter)
    with FlopCounterMode(display=False) as counter:
        torch.optim.Muon(matrices, ns_steps=3).step()
    options = Muon(iterations=3, weight_decay=0.1, rest=AdamW(weight_decay=0))
    elements = sum(p.numel() for p in matrices)
    rest = 13 * (sum(p.numel() for p in built.parameters()) - elements)
    assert counter.get_total_flops() > 0
    assert flops.optimizer_flops(model, options) == counter.get_total_flops() + 12 * elements + rest


def test_the_optimizer_does_nothing_to_packed_weights() -> None:
    packed = config(linears={"*": "nf4"})
    norms = flops.parameters(packed).by_part["norms"]
    assert (
        flops.optimizer_flops(packed, Muon())
        == flops.optimizer_flops(packed, AdamW())
        == 13 * norms
    )


def test_cache_bytes_are_those_of_a_cache() -> None:
    model = config(attention={"heads": 4, "kv_heads": 2, "head_dim": 10})
    assert flops.kv_bytes_per_token(model, 4) == Decoder(model).new_cache(1, 1).nbytes()
    assert flops.kv_bytes_per_token(model, 2) == 2 * 3 * 2 * 10 * 2


def test_weight_bytes_follow_the_dtype() -> None:
    for linears in ({}, {"blocks.*": {"kind": "nf4", "block": 10}, "*": "int8"}):
        built = Decoder(config(linears=linears)).bfloat16()
        assert flops.weight_bytes(built.config, 2) == sum(
            tensor.nbytes for tensor in built.state_dict().values()
        )


def test_costing_imports_no_torch() -> None:
    code = (
        "import sys, flyweight.spec.flops, flyweight.config.catalogue; sys.exit('torch' in "
        "sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_open_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size and context"):
        flops.parameters(ModelConfig(dim=24, layers=1))


def test_scalars_and_gates_of_layers_that_read_more_by_hand() -> None:
    plain = flops.parameters(config(attention={"heads": 4})).by_part
    more = config(
        attention={"heads": 4, "gate": True, "value_residual": True}, skips=["unet", "embedding"]
    )
    found = flops.parameters(more).by_part
    layers, dim = more.layers, more.dim
    assert found["attention"] - plain["attention"] == layers * 4 * dim + (layers - 1) * 2
    assert found["residual"] == 1 + 2 * (layers - 1), "3 layers have one pair of mirrors"
    assert layers == 3
    length = 5
    gates = 2 * length * layers * 4 * dim
    forward = flops.forward_flops(config(attention={"heads": 4}), length)
    assert flops.forward_flops(more, length) - forward == gates
