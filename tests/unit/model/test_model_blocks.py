"""Layers that differ in window, sinks, heads and MLP: counted, costed and cached as they are."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from flyweight.config.schema import ModelConfig
from flyweight.model.decoder import Decoder
from flyweight.spec import flops

TOKENS = 60
CONFIG = ModelConfig.model_validate(
    {
        "vocab_size": 50,
        "context": 64,
        "dim": 32,
        "layers": 4,
        "attention": {"heads": 4, "kv_heads": 2},
        "blocks": {
            "1-2": {"attention": {"window": 8, "sinks": 2}},
            "3": {"mlp": {"hidden": 48}, "attention": {"heads": 2}},
        },
    }
).resolved()


def test_a_cache_holds_what_each_layer_needs_and_changes_nothing():
    model = Decoder(CONFIG, seed=0).eval()
    tokens = torch.randint(50, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(tokens)
        cache = model.new_cache(2, TOKENS)
        pieces = [model(tokens[:, :20], cache)]
        pieces += [model(tokens[:, at : at + 1], cache) for at in range(20, TOKENS)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-5)
    assert [keys.shape[2] for keys in cache.keys] == [TOKENS, 10, 10, TOKENS]
    assert [keys.shape[1] for keys in cache.keys] == [2, 2, 2, 1]
    held = sum(keys.numel() * keys.element_size() for keys in (*cache.keys, *cache.values))
    assert flops.kv_bytes(CONFIG, TOKENS) * 2 == held


def test_parameters_and_flops_are_those_of_the_built_layers():
    model = Decoder(CONFIG, seed=0)
    assert flops.parameters(CONFIG).unique == sum(p.numel() for p in model.parameters())
    with torch.device("meta"):
        outline = Decoder(CONFIG, seed=0)
    with FlopCounterMode(display=False) as counter:
        outline(torch.zeros(1, TOKENS, dtype=torch.long, device="meta"))
    assert counter.get_total_flops() == flops.forward_flops(CONFIG, TOKENS)
