"""Trainings whose memory is planned and measured: a pairwise sample of what a recipe can ask for.

`sampled` returns named configs. Every two choices that can stand together do so in one of them.
Seeds draw the order in which choices are tried, and nothing is picked by hand.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from allpairspy import AllPairs

SEEDS = (16, 17)
TOKENS = 2048
"""Tokens of a step, unless four rows of the context are more."""

LORA = {"kind": "lora", "r": 8}
FACTORS: dict[str, list[tuple[str, Any]]] = {
    "shape": [
        ("6 x 384", {"dim": 384, "layers": 6}),
        ("4 x 512", {"dim": 512, "layers": 4}),
        ("8 x 256", {"dim": 256, "layers": 8}),
        ("12 x 320", {"dim": 320, "layers": 12, "attention": {"heads": 5, "kv_heads": 1}}),
    ],
    "layers": [
        ("swiglu", {}),
        ("gpt2", {"mlp": {"kind": "gelu", "bias": True}, "norm": "layernorm"}),
        ("relu2", {"mlp": "relu2"}),
        ("low rank", {"mlp": {"kind": "swiglu", "rank": 64}}),
        ("geglu", {"mlp": "geglu"}),
    ],
    "position": [("rope", {}), ("learned", {"position": "learned"})],
    "visits": [
        ("each once", {}),
        ("one layer", {"layers": 1, "sharing": {"kind": "all", "times": 8, "index": True}}),
        ("cycle", {"sharing": {"kind": "cycle", "times": 2}}),
        ("span", {"sharing": {"kind": "span", "span": [1, 2], "times": 3}}),
        ("thinking", {"thinking": {"passes": 2}}),
        ("first memory", {"thinking": {"passes": 1, "memory": "first", "learned": True}}),
    ],
    "embedding": [
        ("tied", {}),
        ("untied, capped", {"embedding": {"tied": False}, "head": {"softcap": 15.0}}),
        ("rank 64", {"embedding": {"rank": 64}}),
        ("bigrams", {"embedding": {"bigram": {"kind": "hashed", "buckets": 20_000}}}),
    ],
    "dropout": [("", 0.0), ("dropout", 0.1)],
    "vocab": [("", 256), ("", 4096), ("", 16_000), ("", 50_257)],
    "context": [("", 128), ("", 256), ("", 512), ("", 1024)],
    "documents": [("", "joined"), ("isolated", "isolated")],
    "optimizer": [("", "adamw"), ("muon", "muon")],
    "states": [("", "fp32"), ("states bf16", "bf16"), ("states int8", "int8")],
    "weights": [("", "fp32"), ("weights bf16", "bf16")],
    "step": [("", "after"), ("step in backward", "backward")],
    "recompute": [("", "none"), ("recompute", "blocks")],
    "accumulate": [("", 1), ("accumulate 4", 4)],
    "precision": [("fp32", "fp32"), ("bf16", "bf16")],
}
"""What is varied in every kind of training: for each field its choices, with a name and a value."""

PRETRAINED: dict[str, list[tuple[str, Any]]] = {}
TUNED: dict[str, list[tuple[str, Any]]] = {
    "method": [
        ("lora", {**LORA, "targets": ["attention.qkv"]}),
        ("dora", {**LORA, "dora": True, "targets": ["attention.qkv", "mlp.*"], "dropout": 0.05}),
        ("bottleneck", {"kind": "bottleneck", "dim": 64}),
        ("prefix", {"kind": "prefix", "length": 16}),
        ("shared prefix", {"kind": "prefix", "length": 16, "softmax": "shared"}),
        ("ia3", {"kind": "ia3"}),
        ("frozen", {"kind": "frozen"}),
    ],
    "base": [("", "dense"), ("nf4", "nf4"), ("int8", "int8")],
}
TAUGHT: dict[str, list[tuple[str, Any]]] = {
    "teacher": [("taught", "dense"), ("taught by nf4", "nf4"), ("taught by int8", "int8")],
    "divergence": [("", "forward_kl"), ("reverse", "reverse_kl"), ("jsd", "jsd")],
}
KINDS = {"pretrain": (PRETRAINED, 14), "finetune": (TUNED, 13), "distill": (TAUGHT, 9)}
"""What is varied beside FACTORS in each kind of training, and the rows taken of each sample.

The first rows of a pairwise sample differ the most. The last ones repeat what needs no pair.
"""


@dataclass(frozen=True)
class Sampled:
    """One training: a model (already resolved but for its vocabulary), what it reads, and how.

    `method` and `base` are those of a fine-tuning, `teacher` that of a distillation: how its
        matrices are stored, or `dense`.
    """

    name: str
    model: dict[str, Any]
    train: dict[str, Any]
    vocab: int
    context: int = 256
    documents: str = "joined"
    method: dict[str, Any] | None = None
    base: str | None = None
    teacher: str | None = None
    divergence: str = "forward_kl"
    taught_by: dict[str, Any] = field(default_factory=lambda: {"dim": 384, "layers": 6})


def possible(kind: str, case: dict[str, Any]) -> bool:
    """Return whether choices can stand together; `case` may lack some."""
    tuned = kind == "finetune"
    short, backward = case.get("weights") == "bf16", case.get("step") == "backward"
    if tuned and (case.get("optimizer") == "muon" or short):
        return False
    if short and case.get("precision") == "fp32":
        return False
    return not (backward and (case.get("accumulate", 1) > 1 or case.get("optimizer") == "muon"))


def sampled() -> list[Sampled]:
    """Return the first rows of pairwise samples of each kind of training, one for each seed."""
    return [each for kind in KINDS for seed in SEEDS for each in _sampled(kind, seed)]


def _sampled(kind: str, seed: int) -> list[Sampled]:
    own, count = KINDS[kind]
    factors = FACTORS | own
    draw = random.Random(seed)
    names = list(factors)
    choices = [draw.sample(factors[name], len(factors[name])) for name in names]

    def fits(row: list[tuple[str, Any]]) -> bool:
        case = zip(names, row, strict=False)
        return possible(kind, {name: value for name, (_, value) in case})

    rows = list(AllPairs(choices, filter_func=fits))[:count]
    return [
        _training(f"{kind} {seed}-{number}", dict(zip(names, row, strict=True)))
        for number, row in enumerate(rows, 1)
    ]


def _training(name: str, case: dict[str, tuple[str, Any]]) -> Sampled:
    """Return what a row of the sample says."""
    value = {field: chosen for field, (_, chosen) in case.items()}
    model: dict[str, Any] = {}
    for part in ("shape", "layers", "position", "embedding", "visits"):
        model |= value[part]
    if value["dropout"]:
        model["dropout"] = value["dropout"]
    batch = max(4, TOKENS // value["context"])
    saving = {
        "states": value["states"],
        "weights": value["weights"],
        "step": value["step"],
        "recompute": value["recompute"],
    }
    train = {
        "batch": batch,
        "accumulate": value["accumulate"],
        "optimizer": {"kind": value["optimizer"]},
        "precision": value["precision"],
        "memory": saving,
        "clip": 0 if value["step"] == "backward" else 1,
    }
    words = [case[field][0] for field in case if field not in ("vocab", "context")]
    words.insert(1, f"V {value['vocab']:,}, T {value['context']:,}")
    return Sampled(
        name=f"{name}: {', '.join(word for word in words if word)}",
        model=model,
        train=train,
        vocab=value["vocab"],
        context=value["context"],
        documents=value["documents"],
        method=value.get("method"),
        base=value.get("base"),
        teacher=value.get("teacher"),
        divergence=value.get("divergence", "forward_kl"),
    )


SMALL = [
    Sampled("small: 1 x 48", {"dim": 48, "layers": 1}, {"precision": "fp32"}, 300, 64),
    Sampled("small: 1 x 64, bf16", {"dim": 64, "layers": 1}, {"precision": "bf16"}, 600, 128),
    Sampled(
        "small: 2 x 64, muon",
        {"dim": 64, "layers": 2, "mlp": "relu2"},
        {"batch": 4, "optimizer": {"kind": "muon"}, "precision": "fp32"},
        4096,
    ),
    Sampled(
        "small: 2 x 64, lora on nf4",
        {"dim": 64, "layers": 2},
        {"batch": 4, "precision": "bf16"},
        4096,
        method={**LORA, "targets": ["attention.qkv"]},
        base="nf4",
    ),
    Sampled(
        "small: 2 x 64, taught",
        {"dim": 64, "layers": 2},
        {"batch": 4, "precision": "fp32"},
        4096,
        teacher="dense",
    ),
    Sampled(
        "small: lstm", {"kind": "lstm", "dim": 128, "layers": 2}, {"precision": "fp32"}, 4096, 128
    ),
    Sampled(
        "small: mlp",
        {"kind": "mlp", "dim": 64, "hidden": 256, "layers": 2, "history": 16},
        {"precision": "bf16"},
        4096,
        128,
    ),
    Sampled(
        "small: linear", {"kind": "linear", "dim": 32, "history": 8}, {"precision": "fp32"}, 4096
    ),
]
"""Trainings that hold little beside the libraries, of baselines too."""

EIGHTH = Sampled(
    "distilqwen3 at 1/8 of its width, V 18,992",
    {
        "dim": 384,
        "layers": 1,
        "attention": {"heads": 4, "kv_heads": 1, "head_dim": 96, "qk_norm": True},
        "mlp": {"kind": "swiglu", "hidden": 192, "rank": 64},
        "sharing": {"kind": "all", "times": 24, "index": True},
    },
    {
        "batch": 8,
        "accumulate": 2,
        "optimizer": {"kind": "adamw", "lr": 8e-6},
        "memory": {"recompute": "blocks"},
        "precision": "fp32",
    },
    18_992,
    512,
    teacher="nf4",
    taught_by={
        "dim": 512,
        "layers": 36,
        "attention": {"heads": 4, "kv_heads": 1, "head_dim": 128, "qk_norm": True},
        "mlp": {"kind": "swiglu", "hidden": 1536},
        "embedding": {"tied": False},
    },
)
SCALED = [
    EIGHTH,
    replace(
        EIGHTH,
        name="distilqwen3 at 1/8 of its width, nothing saved",
        train=EIGHTH.train | {"memory": {"recompute": "none"}},
    ),
]
"""DistilQwen3's student and teacher with an eighth of width, heads, hidden channels and vocabulary."""

AVERAGED = [
    Sampled(
        f"averaged: 6 x {dim}, V 16,000, T 256, swiglu, rope, {optimizer}, fp32",
        {"dim": dim, "layers": 6},
        {
            "batch": 8,
            "optimizer": {"kind": optimizer},
            "average": {"decay": 0.999},
            "precision": "fp32",
        },
        16_000,
        256,
    )
    for dim, optimizer in ((512, "adamw"), (640, "muon"))
]
"""Trainings that hold an average of their weights."""
