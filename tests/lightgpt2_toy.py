"""LightGPT2's stages by their names at toy size: tiny trainings stand in for models of the hub."""

LORA = {"kind": "lora", "r": 4, "alpha": 8}
ADAMW = {"steps": 12, "optimizer": {"kind": "adamw", "lr": 1e-3}}
COMPARED = (
    "baseline",
    "baseline-lora",
    "baseline-lora-pruned",
    "teacher",
    "student",
    "tuned",
    "merged",
    "nf4",
    "alone-nf4",
)


def toy(text_file, measure=("evaluate", "memory"), compared=COMPARED, **stages):
    """Return the raw recipe; `stages` are added, such as benches and profiles."""
    wide = {"dim": 32, "layers": 2, "attention": {"heads": 2}}
    tuned = {"stage": "finetune", "method": LORA, "train": ADAMW}
    cut = {"stage": "prune", "of": "adapters", "scope": "global"}
    sweep = {"among": [0.2, 0.5, 0.8], "within": {"perplexity": 1.0}, "tokens": 200}
    return {
        "name": "toy-lightgpt2",
        "data": {"corpus": str(text_file), "tokenizer": "byte", "context": 32},
        "model": {"dim": 16, "layers": 1, "attention": {"heads": 2}},
        "train": {"steps": 40, "batch": 4, "validations": 4, "precision": "fp32"},
        "stages": {
            "first": {"stage": "pretrain", "model": wide},
            "baseline": {"stage": "finetune", "input": "first", "method": "full"},
            "baseline-lora": {**tuned, "input": "first"},
            "baseline-lora-zeros": {**cut, "input": "baseline-lora", "sparsity": 0.8},
            "baseline-lora-pruned": {**tuned, "input": "baseline-lora-zeros"},
            "teacher": {"stage": "pretrain", "model": {**wide, "dim": 48}},
            "smaller": {"stage": "pretrain", "train": {"steps": 8}},
            "student": {"stage": "distill", "teacher": "teacher", "input": "smaller"},
            "lora": {**tuned, "input": "student"},
            "pruned": {**cut, "input": "lora", "sparsity": sweep},
            "tuned": {**tuned, "input": "pruned"},
            "merged": {"stage": "merge", "input": "tuned"},
            "int8": {"stage": "quantize", "input": "merged", "kind": "int8"},
            "nf4": {"stage": "quantize", "input": "merged", "kind": "nf4"},
            "alone": {
                "stage": "pretrain",
                "train": {"steps": None, "same_as": {"stage": "tuned", "of": "total_flops"}},
            },
            "alone-nf4": {"stage": "quantize", "input": "alone", "kind": "nf4"},
            **{
                f"validation-{name}": {"stage": "evaluate", "input": name, "split": "validation"}
                for name in compared
            },
            **stages,
        },
        "report": {"layout": "lightgpt2", "compare": list(compared), "measure": list(measure)},
    }


def bench(model, **fields):
    """Return a short bench of a model."""
    return {"stage": "bench", "input": model, "repeats": 3, "new_tokens": 4, "prompt": 8, **fields}


def everything(text_file):
    """Return the recipe with every speed that a table shows."""
    sizes = {
        f"size-{layers}": {
            "stage": "init",
            "model": {
                "dim": 64,
                "layers": layers,
                "attention": {"heads": 2},
                "vocab_size": 257,
                "context": 32,
            },
        }
        for layers in (1, 2, 4, 8)
    }
    benches = {
        f"speed-{model}-{attention}-{precision}-{batch}": bench(
            model, attention=attention, precision=precision, batch=batch
        )
        for model in ("baseline", "tuned", "merged", "int8", "nf4", "alone-nf4")
        for attention in ("eager", "auto")
        for precision in ("fp32", "bf16")
        for batch in (1, 16)
    }
    others = {
        f"speed-{model}-{batch}": bench(model, batch=batch)
        for model in ("baseline-lora", "baseline-lora-pruned", "teacher", "student", *sizes)
        for batch in (1, 16)
    }
    profiles = {
        f"operators-{model}": {"stage": "profile", "input": model, "new_tokens": 8, "prompt": 8}
        for model in ("baseline", "nf4")
    }
    return toy(text_file, **sizes, **benches, **others, **profiles)
