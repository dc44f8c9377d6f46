"""A study small enough for a test."""


def toy_study(text_file, **fields):
    """Return a raw toy study: one model with a grid of two, three seeds, trained just long enough to beat unigrams."""
    return {
        "name": "toy-study",
        "data": {"story": {"corpus": str(text_file), "tokenizer": "byte", "context": 32}},
        "models": {
            "small": {
                "config": {"dim": 16, "layers": 1, "attention": {"heads": 2}, "mlp": "relu2"},
                "grid": {"position": ["learned", "rope"]},
            }
        },
        "budgets": {"short": {"steps": 40}},
        "train": {
            "batch": 8,
            "precision": "fp32",  # what auto measures differs between processes
            "validations": 2,
            "optimizer": {"kind": "muon", "rest": {"lr": 0.03}},
        },
        "protocol": "published",
        "protocols": {"published": {"lr": 0.04}, "tuned": {"lr": [1e-3, 0.04]}},
        "seeds": [0, 1, 2],
        "findings": [
            {
                "claim": "rope below learned",
                "below": {"fields": {"position": "rope"}},
                "above": {"fields": {"position": "learned"}},
            }
        ],
        **fields,
    }
