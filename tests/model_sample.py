"""A pairwise sample of valid decoder configs, and models of them in which nothing is zero or one by initialisation."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import torch
from allpairspy import AllPairs

from flyweight.config.schema import ModelConfig
from flyweight.model.decoder import Decoder
from flyweight.model.packed import Packed

LENGTH = 11
FIELDS: dict[str, list[Any]] = {
    "layers": [1, 2, 3],
    "sharing": [
        "none",
        "repeat",
        {"kind": "repeat", "times": 3, "index": True},
        {"kind": "cycle", "times": 2},
        {"kind": "cycle", "times": 2, "index": True},
        {"kind": "span", "span": "middle", "times": 3},
        {"kind": "span", "span": "first", "loop_from": 0.4, "index": True},
        {"kind": "all", "times": 3},
        {"kind": "all", "times": 4, "index": True},
    ],
    "thinking": [
        "none",
        {"passes": 0},
        {"passes": 1},
        {"passes": 3, "rate": 0.2},
        {"passes": 2, "learned": True},
        {"passes": 0, "memory": "first"},
        {"passes": 2, "memory": "first", "rate": 0.3},
        {"passes": 2, "memory": "first", "input": "embedding", "rate": 0.01},
        {"passes": 2, "memory": "first", "input": "embedding", "learned": True},
    ],
    "final": [True, False],
    "position": [
        "learned",
        "rope",
        "none",
        "sinusoidal",
        {"kind": "sinusoidal", "base": 50},
        {"kind": "rope", "fraction": 0.5},
        {"kind": "rope", "base": 500, "scaling": {"kind": "linear", "factor": 4}},
        {"kind": "rope", "scaling": {"kind": "ntk", "factor": 4}},
        {"kind": "rope", "scaling": {"kind": "llama3", "factor": 8, "original_context": 16}},
        {"kind": "rope", "fraction": 0.5, "scaling": {"kind": "ntk", "factor": 2}},
        {"kind": "rope", "base": 1e6},
    ],
    "mlp": [
        "gelu",
        {"kind": "gelu", "bias": True, "hidden": 13},
        {"kind": "gelu", "approximate": "tanh", "bias": True, "rank": 5},
        "relu",
        {"kind": "relu", "rank": 4, "bias": True},
        "relu2",
        {"kind": "relu2", "hidden": 7, "bias": True},
        "swiglu",
        {"kind": "swiglu", "hidden": 17, "rank": 6},
        {"kind": "swiglu", "hidden": 32, "bias": True},
        "geglu",
        {"kind": "geglu", "approximate": "tanh", "rank": 3},
        {"kind": "double_relu", "bias": True},
        {"kind": "double_silu", "hidden": 19},
    ],
    "heads": [
        {"heads": 3, "kv_heads": 3, "head_dim": 4},
        {"heads": 4, "kv_heads": 2, "head_dim": 8},
        {"heads": 5, "kv_heads": 1, "head_dim": 12},
        {"heads": 1, "kv_heads": 1, "head_dim": 20},
    ],
    "norm": [
        "layernorm",
        {"kind": "layernorm", "bias": False},
        "rmsnorm",
        {"kind": "rmsnorm", "eps": 1e-3},
    ],
    "placement": ["pre", "post"],
    "skips": [(), "unet", "embedding", ("unet", "embedding")],
    "residual": ["add", "alpha", {"kind": "alpha", "start": 0.8}],
    "bigram": [
        "none",
        "exact",
        {"kind": "hashed", "buckets": 37},
        {"kind": "hashed", "buckets": 37, "order": 4},
    ],
    "rank": [None, 3, 2],
    "linears": [
        {},
        {"*": "int8"},
        {"embedding": "int8", "*": {"kind": "nf4", "block": 16}},
        {"blocks.*.mlp": {"kind": "nf4", "double": False}, "blocks.0.*": "int8"},
        {"blocks": {"kind": "int3", "group": 8}, "*": "int4"},
    ],
    "biases": [{}, {"bias": True}, {"out_bias": True}, {"bias": True, "out_bias": False}],
    "dim": [24, 33],
    "vocab": [3, 50],
    "window": [None, (4, 0), (6, 2), (3, 2), (1, 0), (50, 3)],
    "qk_norm": [False, True],
    "gain": [False, True],
    "value_residual": [False, True],
    "gate": [False, True],
    "tied": [True, False],
    "head_bias": [False, True],
    "softcap": [None, 3.0],
    "zero_out": [False, True],
}
NAMES = list(FIELDS)


def _rows(count: int) -> list[list[Any]]:
    """Return rows in which every pair of values occurs, and random ones after them, `count` in all or more."""
    rows = [list(row) for row in AllPairs(list(FIELDS.values()))]
    draw = random.Random(0)
    while len(rows) < count:
        rows.append([draw.choice(values) for values in FIELDS.values()])
    return rows


ROWS = _rows(220)


def config_of(row: list[Any]) -> ModelConfig:
    """Return the config that a row of values stands for."""
    value = dict(zip(NAMES, row, strict=True))
    norm, sharing = value["norm"], value["sharing"]
    norm = {"kind": norm} if isinstance(norm, str) else norm
    thinks = value["thinking"] != "none"
    one = isinstance(sharing, dict) and sharing["kind"] == "all"
    alone = (
        sharing == "none" and value["thinking"] != "none"
    )  # one place that reads the embedding has nothing to think with
    if isinstance(sharing, dict) and sharing["kind"] == "span":
        last = value["layers"] - 1
        sharing = {
            **sharing,
            "span": (0, last // 2) if sharing["span"] == "first" else ((last + 1) // 2, last),
        }
    # Large enough for every part to count. Post-norm stacks that think are chaotic then: float32
    # itself is 4e-4 off float64.
    std = 0.1 if value["placement"] == "post" and thinks else 0.2
    layers = 1 if one else max(2, value["layers"]) if alone else value["layers"]
    stack = {"kind": sharing} if isinstance(sharing, str) else sharing
    uses = layers * (1 if stack["kind"] == "none" else stack.get("times", 2))
    if stack["kind"] == "span":
        first, last = stack["span"]
        uses = layers + (stack.get("times", 2) - 1) * (last + 1 - first)
    skips = [value["skips"]] if isinstance(value["skips"], str) else value["skips"]
    mixes = value["value_residual"] and not thinks and (layers > 1 or sharing != "none")
    return ModelConfig.model_validate(
        {
            "vocab_size": value["vocab"],
            "context": 16,
            "dim": value["dim"],
            "layers": layers,
            "attention": {
                **value["heads"],
                **value["biases"],
                "qk_norm": value["qk_norm"],
                "gain": value["gain"],
                # With one row a product's rounding depends on where the row lies in memory.
                "gate": value["gate"] and value["heads"]["heads"] > 1,
                "value_residual": mixes,
                **dict(zip(("window", "sinks"), value["window"] or (None, 0), strict=True)),
            },
            "position": value["position"],
            "mlp": value["mlp"],
            "sharing": sharing,
            "thinking": value["thinking"],
            "norm": {**norm, "placement": value["placement"], "final": value["final"]},
            "residual": value["residual"],
            "skips": [skip for skip in skips if uses >= {"unet": 3, "embedding": 2}[skip]],
            "embedding": {"tied": value["tied"], "bigram": value["bigram"], "rank": value["rank"]},
            "head": {"softcap": value["softcap"], "bias": value["head_bias"]},
            "init": {"std": std, "zero_out": value["zero_out"]},
            "linears": value["linears"],
        }
    )


def _bare(config: ModelConfig) -> ModelConfig:
    """Return a config without its layers, and without what needs some."""
    plain = {"layers": 0, "sharing": {"kind": "none"}, "thinking": {"kind": "none"}}
    attention = {**config.attention.model_dump(), "window": None, "sinks": 0}
    attention["value_residual"] = False
    plain["attention"] = attention
    plain["skips"] = ()
    return ModelConfig.model_validate(
        {**config.model_dump(), **plain, "norm": {**config.norm.model_dump(), "final": True}}
    )


BLOCKS: list[dict[str, Any]] = [
    {"1": {"mlp": {"hidden": 10}}},
    {"1-2": {"mlp": "relu", "attention": {"heads": 2, "kv_heads": 1, "head_dim": 8}}},
    {"0": {"attention": {"bias": True, "qk_norm": True, "gain": True}}, "2": {"mlp": {"rank": 2}}},
    {"0": {"attention": {"head_dim": 8}, "mlp": {"kind": "geglu", "hidden": 9}}},
    {"0-2": {"mlp": {"kind": "relu2", "bias": True}, "attention": {"heads": 1, "kv_heads": None}}},
]


def _differing(config: ModelConfig, blocks: dict[str, Any]) -> ModelConfig:
    """Return a config with layers that differ, three of them and none shared."""
    fields = {**config.model_dump(), "layers": 3, "sharing": {"kind": "none"}, "blocks": blocks}
    if config.thinking.kind == "deep" and config.thinking.memory == "first":
        fields["thinking"] = {**fields["thinking"], "memory": "own", "input": "previous"}
    if config.thinking.kind == "deep" and config.thinking.passes < 2:
        fields["thinking"] = {**fields["thinking"], "learned": False}
    if any("attention" in block for block in blocks.values()):
        fields["attention"]["value_residual"] = False
    return ModelConfig.model_validate(fields)


CONFIGS = [config_of(row) for row in ROWS]
CONFIGS += [_bare(config) for config in CONFIGS[:12]]
CONFIGS += [
    _differing(config, BLOCKS[index % len(BLOCKS)])
    for index, config in enumerate(CONFIGS[: 12 * len(BLOCKS)])
]


@cache
def model_of(index: int, dtype: torch.dtype) -> Decoder:
    """Return a model in which nothing is zero or one by initialisation, so that every part shows in the logits."""
    model = Decoder(CONFIGS[index], seed=index)
    generator = torch.Generator().manual_seed(index)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Packed):
                module.pack(
                    torch.randn(module.out_features, module.in_features, generator=generator) * 0.2
                )
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.to(dtype).eval()


def tokens_of(index: int, rows: int = 2) -> torch.Tensor:
    """Return random tokens (rows, LENGTH) of a config's vocabulary."""
    generator = torch.Generator().manual_seed(1000 + index)
    return torch.randint(CONFIGS[index].vocab_size or 0, (rows, LENGTH), generator=generator)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest expected value (at least 1)."""
    scale = max(1.0, expected.abs().max().item())
    return (found - expected).abs().max().item() / scale
