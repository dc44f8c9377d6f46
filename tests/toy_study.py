"""A study small enough for a test."""


def toy_study(text_file, **fields):
    """Return a raw toy study: two models, one with a grid of two, at two budgets, with three seeds."""
    tiny = {"dim": 16, "layers": 1, "attention": {"heads": 2}, "mlp": "relu2"}
    return {
        "name": "toy-study",
        "data": {"story": {"corpus": str(text_file), "tokenizer": "byte", "context": 32}},
        "models": {
            "small": {"config": tiny, "grid": {"position": ["learned", "rope"]}},
            "wide": {"config": tiny, "fields": {"dim": 32, "mlp": {"hidden": 32}}},
        },
        "budgets": {"short": {"steps": 6}, "long": {"steps": 18}},
        "train": {"batch": 4, "validations": 2, "optimizer": {"kind": "adamw", "weight_decay": 0}},
        "protocol": "published",
        "protocols": {"published": {"lr": 1e-2}, "tuned": {"lr": [3e-3, 1e-2]}},
        "seeds": [0, 1, 2],
        "findings": [
            {"claim": "rope below learned", "below": {"fields": {"position": "rope"}}, "above": {"fields": {"position": "learned"}}},
            {"claim": "longer is better", "below": {"budget": "long"}, "above": {"budget": "short"}},
            {"claim": "wide at equal FLOPs", "below": {"model": "wide"}, "above": {"model": "small"}, "compare": "equal_flops"},
        ],
        **fields,
    }
