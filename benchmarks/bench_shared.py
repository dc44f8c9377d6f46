"""Generation with a cache from shared and thinking models against plain ones of the same executed FLOPs.

    python benchmarks/bench_shared.py [--dim 256] [--new 128] [--repeats 5]

Tokens/s of greedy generation after a prompt of 32 tokens, one row, in a fresh process each,
contestants in turn; `ratio` is taken within a turn. A plain model has as many layers as the other
executes; its FLOPs per token are written beside.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from rows import Rows, spread, worker

PROMPT, VOCAB = 32, 1024
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "repeat 2": ({"layers": 4, "sharing": "repeat"}, {"layers": 8}),
    "cycle 2": ({"layers": 4, "sharing": "cycle"}, {"layers": 8}),
    "one layer 8 times": (
        {"layers": 1, "sharing": {"kind": "all", "times": 8, "index": True}},
        {"layers": 8},
    ),
    "span 3": (
        {"layers": 4, "sharing": {"kind": "span", "span": [1, 2], "times": 3}},
        {"layers": 8},
    ),
    "thinking 3": ({"layers": 4, "thinking": {"passes": 3}}, {"layers": 16}),
    "thinking 1, repeat 2": (
        {"layers": 4, "sharing": "repeat", "thinking": {"passes": 1}},
        {"layers": 16},
    ),
}


def config(fields: dict[str, Any], dim: int, length: int) -> dict[str, Any]:
    """Return the fields of a contestant."""
    return {
        "vocab_size": VOCAB,
        "context": length,
        "dim": dim,
        "attention": {"heads": dim // 32},
        **fields,
    }


def measured(job: dict[str, Any]) -> dict[str, Any]:
    """Return the tokens/s of one contestant and its FLOPs per token."""
    import torch

    from flyweight.config.schema import ModelConfig
    from flyweight.core.runtime import Runtime
    from flyweight.decode.generate import generate
    from flyweight.model.decoder import Decoder
    from flyweight.spec import flops

    runtime = Runtime.detect()
    runtime.apply()
    model = Decoder(ModelConfig.model_validate(job["config"])).to(runtime.device).eval()
    prompt = [list(range(1, PROMPT + 1))]
    generate(model, prompt, max_new_tokens=8)
    began = time.perf_counter()
    generate(model, prompt, max_new_tokens=job["new"])
    if runtime.device.startswith("cuda"):
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    length = PROMPT + job["new"]
    return {
        "tokens_per_s": job["new"] / seconds,
        "flops": flops.forward_flops(model.config, length) / length,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measured(json.loads(options.worker))))
        return
    rows = Rows("shared")
    for name, pair in PAIRS.items():
        ratios = []
        for repeat in range(options.repeats):
            found = []
            for contestant, fields in zip(("shared", "plain"), pair, strict=True):
                job = {
                    "config": config(fields, options.dim, PROMPT + options.new),
                    "new": options.new,
                }
                result = worker(__file__, job)
                rows.add(contestant, name, "generation", repeat, result["tokens_per_s"], "tokens/s")
                if not repeat:
                    rows.add(
                        contestant, name, "forward FLOPs per token", 0, result["flops"], "FLOPs"
                    )
                found.append(result["tokens_per_s"])
            ratios.append(found[0] / found[1])
            rows.add("shared / plain", name, "ratio", repeat, ratios[-1], "")
        print(f"{name}: {spread(ratios)} of the plain model's tokens/s", file=sys.stderr)
    rows.write()


if __name__ == "__main__":
    main()
