"""Fine-tune an imported model on a text: `python examples/finetune_imported.py MODEL TEXT [STEPS]`.

MODEL is `hf:owner/name` or a Hugging Face folder of GPT-2, Llama or Qwen3. The import is refused
where its logits are not those of transformers.
"""

import sys

import flyweight as fw


def main(model: str, text: str, steps: int = 100) -> None:
    """Import, fine-tune, compare on held-out text, and export for transformers."""
    base = fw.import_(model)
    recipe = {
        "name": "tuned",
        "data": {"corpus": text, "context": 64},
        "stages": {
            "tuned": {
                "stage": "finetune",
                "input": str(base.path),
                "method": {"kind": "lora", "r": 8},
                "train": {"steps": steps, "batch": 4, "optimizer": {"kind": "adamw", "lr": 1e-3}},
            }
        },
        "report": {"compare": ["tuned"], "measure": ["evaluate", "audit"]},
    }
    print(fw.plan(recipe))
    run = fw.run(recipe)
    print(fw.compare(base, run["tuned"], data=text))  # before and after, on text held out
    print(fw.export(run["tuned"], to="hf", out="tuned-hf").path)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
