"""One factor at a time on GPT-2's shape: kinds of matrix, attention, adapters merged or not.

    python benchmarks/bench_controls.py [--prompt 128] [--new-tokens 16] [--repeats 3]

Weights are random, on one thread. Cells take turns within one run, and seconds are those of the
process on the processor, so that other work beside it lasts longer but is not counted. `eager`
attention is written out by flyweight, `SDPA` is torch's, and `any` is what generation takes by
itself: the compiled step, where there is one. Adapters are LoRA of rank 8 around every matrix of
the blocks; merged ones are part of their matrix, so that a merged model is one without adapters.
"""

from __future__ import annotations

import argparse
import time

import torch
from bench_generate import configured
from rows import Rows

from flyweight.compression.quantize import quantize
from flyweight.config import linear_kinds, schema
from flyweight.config.speed import AttentionName
from flyweight.decode.generate import generate
from flyweight.model.attach import attach
from flyweight.model.attention import attention_kernel
from flyweight.model.build import Model, build

KINDS = ("fp32", "bf16", "int8", "int4", "nf4")
ATTENTION: dict[str, AttentionName] = {"eager": "eager", "SDPA": "flash", "any": "auto"}


def of_kind(kind: str) -> Model:
    """Return a model with random weights; packed ones have tables in int8."""
    model = build(configured("gpt2"))
    if kind == "bf16":
        model = model.bfloat16()
    elif kind != "fp32":
        model = quantize(model, linear_kinds.read_kind(kind), linear_kinds.Int8())
    return model.eval()


def prefill(model: Model, length: int) -> float:
    """Return the tokens a second of reading a prompt, up to the logits after it."""
    tokens = torch.arange(1, length + 1)[None]
    began = time.process_time()
    model.logits(model.hidden(tokens, model.new_cache(1, length))[:, -1])
    return length / (time.process_time() - began)


def generation(model: Model, new: int) -> float:
    """Return the tokens a second after a prompt and a first token, whose time is left out."""

    def seconds(tokens: int) -> float:
        began = time.process_time()
        generate(model, [list(range(1, 17))], max_new_tokens=tokens)
        return time.process_time() - began

    first = seconds(1)
    return new / (seconds(new + 1) - first)


def measure(rows: Rows, prompt: int, new: int, repeats: int) -> None:
    """Add the speed of every cell."""
    models: dict[tuple[str, str], Model] = {}
    lora = schema.Lora(r=8, targets=("*",))
    for kind in KINDS:
        models[kind, "merged"] = of_kind(kind)
        models[kind, "unmerged"] = attach(models[kind, "merged"], [lora])
    for repeat in range(repeats):
        for (kind, adapters), model in models.items():
            for name, kernel in ATTENTION.items():
                with attention_kernel(kernel):
                    if not repeat:
                        generation(model, 1)  # the first one loads libraries
                    read, made = prefill(model, prompt), generation(model, new)
                who, setting = f"{kind}, {name}", f"LoRA {adapters}"
                rows.add(who, setting, "reads a prompt", repeat, read, "tokens/s")
                rows.add(who, setting, "generates", repeat, made, "tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows("controls")
    with torch.inference_mode():
        measure(rows, options.prompt, options.new_tokens, options.repeats)
    print(rows.write())


if __name__ == "__main__":
    main()
