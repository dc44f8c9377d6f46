import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flyweight.config.schema import AdamW, LinearConfig, LstmConfig, MlpConfig, Muon, Train
from flyweight.model.build import build
from flyweight.planning import memory
from flyweight.spec import flops

LINEAR = LinearConfig(vocab_size=50, context=16, dim=8, history=4)
MLP = MlpConfig(vocab_size=50, context=16, dim=8, history=4, hidden=10)
LSTM = LstmConfig(vocab_size=50, context=16, dim=8, hidden=12, layers=2, tied=False)
ALL = pytest.mark.parametrize("config", [LINEAR, MLP, LSTM], ids=lambda config: config.kind)


def test_parts_by_hand() -> None:
    assert flops.parameters(LINEAR).by_part == {"embedding": 50 * 8 + 8, "head": 50 * 32}
    assert flops.parameters(MLP).by_part == {
        "embedding": 50 * 8 + 8,
        "mlp": 10 * 32 + 10 + 10 * 10 + 10,
        "head": 50 * 10,
    }
    layers = 48 * 8 + 48 + 48 * 12 + 48 * 12 + 48 + 48 * 12
    assert flops.parameters(LSTM).by_part == {"embedding": 50 * 8, "lstm": layers, "head": 50 * 12}
    tied = LstmConfig(vocab_size=50, context=16, dim=8)
    assert flops.parameters(tied).by_part == {
        "embedding": 50 * 8,
        "lstm": 2 * 32 * 8 + 32,
        "head": 0,
    }


def test_flops_by_hand() -> None:
    assert flops.forward_flops(LINEAR, 7) == 2 * 7 * 50 * 32
    assert flops.training_flops(LINEAR, 7) == 3 * flops.forward_flops(LINEAR, 7)
    assert flops.forward_flops(LSTM, 7) == 2 * 7 * (48 * 8 + 3 * 48 * 12 + 50 * 12)
    assert flops.training_flops(LSTM, 7) == 3 * flops.forward_flops(LSTM, 7) - 2 * 2 * 48 * 12


@ALL
def test_adamw_by_hand(config) -> None:
    built = build(config)
    vectors = sum(p.numel() for p in built.parameters() if p.ndim < 2)
    matrices = sum(p.numel() for p in built.parameters() if p.ndim >= 2)
    assert flops.optimizer_flops(config, AdamW(weight_decay=0.1)) == 13 * vectors + 14 * matrices


@ALL
def test_muon_takes_the_blocks_matrices(config) -> None:
    built = build(config)
    inner = [
        p for name, p in built.named_parameters() if name.startswith("blocks.") and p.ndim == 2
    ]
    products = 0
    if inner:
        for parameter in inner:
            parameter.grad = torch.ones_like(parameter)
        with FlopCounterMode(display=False) as counter:
            torch.optim.Muon(inner, ns_steps=3).step()
        products = counter.get_total_flops()
    elements = sum(p.numel() for p in inner)
    rest = 13 * (sum(p.numel() for p in built.parameters()) - elements)
    options = Muon(iterations=3, weight_decay=0.1, rest=AdamW(weight_decay=0))
    assert flops.optimizer_flops(config, options) == products + 12 * elements + rest
    planned = memory.training(config.resolved(), Train(steps=1, optimizer=options), 16)
    states = 2 * sum(p.numel() for p in built.parameters()) - sum(p.numel() for p in inner)
    # Biases of blocks count as matrices in the plan: they are few.
    assert abs(planned.optimizer / 4 - states) <= sum(
        p.numel() for p in built.blocks.parameters() if p.ndim == 1
    )


@ALL
def test_planned_activations_are_about_what_autograd_keeps(config) -> None:
    wide = config.model_copy(
        update={"dim": 64, **({"hidden": 96} if hasattr(config, "hidden") else {})}
    )
    model, tokens = build(wide), torch.zeros(4, 16, dtype=torch.long)
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.hidden(tokens)
    kept = sum(seen.values()) - sum(
        p.nbytes for p in model.parameters() if p.untyped_storage().data_ptr() in seen
    )
    planned = memory.training(wide.resolved(), Train(steps=1, batch=4), 16).activations
    assert 0.5 < planned / (kept + hidden.nbytes) < 2
