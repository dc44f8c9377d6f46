"""A recipe with every kind of stage, small enough for a test."""


def toy(text_file, **stages):
    """Return a raw toy recipe: a teacher, a distilled student, its controls, the best of them in int8."""
    tiny = {"dim": 16, "layers": 1, "attention": {"heads": 2}}
    return {
        "name": "toy",
        "data": {"corpus": str(text_file), "tokenizer": "byte", "context": 32},
        "model": tiny,
        "train": {
            "steps": 12,
            "batch": 4,
            "validations": 2,
            "checkpoint": "50ms",
            "optimizer": "muon",
        },
        "stages": {
            "teacher": {"stage": "pretrain", "model": {"dim": 32}},
            "student": {"stage": "distill", "teacher": "teacher"},
            "alone": {
                "stage": "pretrain",
                "train": {"steps": None, "same_as": {"stage": "student", "of": "total_flops"}},
            },
            "best": {"stage": "select", "among": ["student", "alone"]},
            "int8": {"stage": "quantize", "input": "best", "kind": "int8"},
            **stages,
        },
        "report": {
            "compare": ["teacher", "student", "alone", "int8"],
            "prompts": ["Ann "],
            "sample_tokens": 8,
        },
    }
