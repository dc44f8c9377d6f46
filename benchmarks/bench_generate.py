"""Tokens a second of one text, by kind of matrix and engine, beside transformers and llama.cpp.

    python benchmarks/bench_generate.py [--shapes gpt2 "4 x 128"] [--new-tokens 24] [--repeats 5] [--llama PYTHON]

Weights are random. Contestants take turns within one run, so that a machine that slows down slows
all of them; a ratio is the median of the repeats' own ratios, on GPT-2's shape to transformers'
`generate` with the same float32 weights, on small shapes to the float32 model with the same engine.
Everything has one thread, and seconds are those of the process on the processor: other work beside
it makes them longer, but is not counted. Those of the prompt and its first token are subtracted.
PYTHON is an interpreter with llama_cpp, which reads GGUF files of the same weights: LLAMA_PYTHON of
the environment names it, else it is this one where it has llama_cpp. Its tokens are the likeliest
ones, by its bare functions. `products` are those of int8_dynamic with 1 to 128 rows, beside float32's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rows import Rows

from flyweight.compression.quantize import quantize
from flyweight.config import linear_kinds, schema
from flyweight.data.tokenizer import Tokenizer
from flyweight.data.tokenizer_training import train
from flyweight.decode.generate import generate
from flyweight.formats import gguf, hf
from flyweight.model import folder, kernels, linear
from flyweight.model.build import Model, build

SHAPES = {
    "gpt2": {"vocab_size": 50_257, "context": 1024, "dim": 768, "layers": 12, "heads": 12},
    "4 x 128": {"vocab_size": 4096, "context": 1024, "dim": 128, "layers": 4, "heads": 4},
    "6 x 192": {"vocab_size": 4096, "context": 1024, "dim": 192, "layers": 6, "heads": 6},
}
KINDS = ("int8", "int8_dynamic", "int4", "int3", "nf4")
LLAMA_TYPES = ("f32", "f16", "q8_0", "q4_0")
ENGINES = ("eager", "compiled")
PRODUCT_SHAPES = ((768, 768), (3072, 768), (768, 3072))
PRODUCT_ROWS = (1, 8, 16, 64, 128)
PROMPT = list(range(1, 17))
REFERENCE = "transformers float32"

Contestant = Callable[[int], float]
"""Seconds on the processor of generating so many tokens after the prompt."""


def configured(shape: str) -> schema.ModelConfig:
    """Return the config of a shape, as GPT-2 is built."""
    sizes = dict(SHAPES[shape])
    heads = sizes.pop("heads")
    return schema.ModelConfig.model_validate(
        {
            **sizes,
            "attention": {"heads": heads, "bias": True},
            "mlp": {"kind": "gelu", "approximate": "tanh", "bias": True},
            "norm": {"kind": "layernorm"},
            "position": "learned",
        }
    )


def ours(model: Model, engine: str) -> Contestant:
    def run(tokens: int) -> float:
        began = time.process_time()
        generate(model, [PROMPT], max_new_tokens=tokens, engine=engine)
        return time.process_time() - began

    return run


def of_transformers(place: Path) -> Contestant:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(place).eval()
    prompt = torch.tensor([PROMPT])
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}

    def run(tokens: int) -> float:
        began = time.process_time()
        model.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, **options)
        return time.process_time() - began

    return run


LLAMA = """
import json, sys, time
import llama_cpp as lib
import numpy as np

path, threads, prompt = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
quiet = lib.llama_log_callback(lambda *_: None)  # has to stay
lib.llama_log_set(quiet, None)
lib.llama_backend_init()
model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
options = lib.llama_context_default_params()
options.n_ctx, options.n_threads, options.n_threads_batch = 256, threads, threads
context = lib.llama_init_from_model(model, options)
size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))

def after(tokens):
    ids = (lib.llama_token * len(tokens))(*tokens)
    batch = lib.llama_batch_get_one(ids, len(tokens))
    assert lib.llama_decode(context, batch) == 0
    logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (size,))
    return int(logits.argmax())

for line in sys.stdin:
    began = time.process_time()
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    token = after(prompt)
    for _ in range(int(line) - 1):
        token = after([token])
    print(time.process_time() - began, flush=True)
"""


def llama_python() -> str | None:
    """Return an interpreter that has llama_cpp, if one is known."""
    if named := os.environ.get("LLAMA_PYTHON"):
        return named
    return sys.executable if importlib.util.find_spec("llama_cpp") else None


def of_llama(python: str, file: Path) -> Contestant:
    threads = str(torch.get_num_threads())
    words = [python, "-c", LLAMA, str(file), threads, json.dumps(PROMPT)]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin and child.stdout

    def run(tokens: int) -> float:
        child.stdin.write(f"{tokens}\n")
        child.stdin.flush()
        return float(child.stdout.readline())

    return run


def _byte_tokenizer() -> Tokenizer:
    """Return a tokenizer of bytes: a GGUF file has to have one, and gets unused tokens for the rest."""
    kind = schema.BpeTokenizer(vocab=257)
    return train(kind, lambda: iter(["a b"]), lambda: iter([]), 3, True)


def contestants(shape: str, place: Path, llama: str | None) -> dict[str, Contestant]:
    """Return everything that generates with the same random weights, rounded or not."""
    model = build(configured(shape))
    found: dict[str, Contestant] = {}
    if shape == "gpt2":
        folder.save(model, place / "model")
        hf.write(place / "model", place / "hf", lambda kind, notes: "")
        found[REFERENCE] = of_transformers(place / "hf")
    if llama and shape == "gpt2":
        _byte_tokenizer().save(place / "model" / "tokenizer.json")
        for type in LLAMA_TYPES:
            gguf.write(place / "model", place / f"{type}.gguf", type)
            found[f"llama.cpp {type}"] = of_llama(llama, place / f"{type}.gguf")
    models = {"float32": model}
    for kind in KINDS:
        if kind in linear.KINDS:
            models[kind] = quantize(model, linear_kinds.read_kind(kind), linear_kinds.Int8())
    for kind, each in models.items():
        for engine in ENGINES:
            found[f"{kind} {engine}"] = ours(each, engine)
    if shape == "gpt2":
        found["bfloat16 compiled"] = ours(build(configured(shape)).bfloat16(), "compiled")
    return found


def measure(rows: Rows, shape: str, new: int, repeats: int, llama: str | None) -> None:
    """Add the tokens a second of every contestant and its ratio to its reference."""
    with tempfile.TemporaryDirectory() as place:
        found = contestants(shape, Path(place), llama)
        rates: dict[str, list[float]] = {name: [] for name in found}
        for run in found.values():
            run(2)  # loads libraries
        for repeat in range(repeats):
            for name, run in found.items():
                first = run(1)
                rates[name].append(new / (run(new + 1) - first))
                rows.add(name, shape, "generates", repeat, rates[name][-1], "tokens/s")
        for name, own in rates.items():
            engine = name.split()[-1]
            base = REFERENCE if shape == "gpt2" else f"float32 {engine}"
            ratio = statistics.median(
                mine / its for mine, its in zip(own, rates[base], strict=True)
            )
            rows.add(name, shape, f"ratio to {base}", 0, ratio, "")


def measure_products(rows: Rows, repeats: int) -> None:
    """Add the milliseconds of int8_dynamic's products, and how much faster than float32's they are."""
    generator = torch.Generator().manual_seed(0)
    for out, in_ in PRODUCT_SHAPES:
        weight = torch.randn(out, in_, generator=generator)
        # As many layers as no cache holds: a model's weights come from memory.
        count = max(1, 200_000_000 // (4 * out * in_))
        layers = {
            name: [linear.from_dense(kind, weight, None) for _ in range(count)]
            for name, kind in (
                ("float32", linear_kinds.Dense()),
                ("int8_dynamic", linear_kinds.read_kind("int8_dynamic")),
            )
        }
        for n in PRODUCT_ROWS:
            x = torch.randn(n, in_, generator=generator)
            spent: dict[str, list[float]] = {name: [] for name in layers}
            for repeat in range(repeats):
                for name, own in layers.items():
                    engine = "eager" if name == "float32" else "auto"
                    with kernels.engine(engine):
                        own[0](x)
                        began = time.process_time()
                        for layer in own:
                            layer(x)
                        spent[name].append((time.process_time() - began) / count * 1e3)
                    rows.add(
                        name, f"{out} x {in_}, {n} rows", "product", repeat, spent[name][-1], "ms"
                    )
            ratio = statistics.median(
                theirs / its for theirs, its in zip(*spent.values(), strict=True)
            )
            rows.add("int8_dynamic", f"{out} x {in_}, {n} rows", "times as fast", 0, ratio, "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--llama", metavar="PYTHON", default=llama_python())
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows("generate")
    with kernels.engine("auto"):
        rows.add("compiler", "", "compiles", 0, kernels.compile_seconds(), "s")
    with torch.inference_mode():
        for shape in options.shapes:
            measure(rows, shape, options.new_tokens, options.repeats, options.llama)
        if "int8_dynamic" in linear.KINDS:
            measure_products(rows, options.repeats)
    print(rows.write())


if __name__ == "__main__":
    main()
