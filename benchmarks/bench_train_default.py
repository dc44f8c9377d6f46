"""`flyweight train` against counting and against nanoGPT's CPU settings, in the same time on the same held-out text.

python benchmarks/bench_train_default.py [--minutes 5] [--seeds 3] [--texts war-and-peace ...]
[--data-dir FOLDER] [--go-on]

Bits per byte of the test split. The floor is the Kneser-Ney 5-gram of the same tokens. nanoGPT's settings are those of its
README for a CPU ("I only have a macbook"), written plainly below: the tokenizer file is that of the `flyweight train` run,
and all the minutes are for its training alone, while flyweight packs and measures in them. Rows are written after each pair of
runs; --go-on keeps those of an interrupted run of the same code and makes what is missing.   results/train_default.csv
"""

from __future__ import annotations

import argparse
import json
import math
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rows import ROOT, Rows, worker
from torch import Tensor, nn

from flyweight.data.corpus import Corpus
from flyweight.evaluation import likelihood
from flyweight.store.artifact import Store

TEXTS = ("war-and-peace", "python-stdlib", "wikitext-2", "30 MB")
LONG_BYTES = 30_000_000

# nanoGPT's README and config/train_shakespeare_char.py
BLOCK, BATCH, LAYERS, HEADS, WIDTH = 64, 12, 4, 4, 128
RATE, LAST_RATE, WARMUP, BETAS, DECAY, CLIP = 1e-3, 1e-4, 100, (0.9, 0.99), 0.1, 1.0
EVAL_EVERY, EVAL_BATCHES = 250, 20
TIMED_SECONDS = 5.0


class Block(nn.Module):
    """Pre-norm attention and MLP, without biases and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the states after this block, (B, T, width) as they came."""
        rows, length, _ = x.shape
        heads = (
            self.qkv(self.norm1(x))
            .view(rows, length, 3, HEADS, WIDTH // HEADS)
            .permute(2, 0, 3, 1, 4)
        )  # (3, B, H, T, D)
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(rows, length, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class NanoGPT(nn.Module):
    """GPT-2's architecture at nanoGPT's CPU size; embedding and head are one matrix."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return final states (B, T, width) of tokens (B, T), T at most BLOCK."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits (..., vocab) of states (..., width)."""
        return F.linear(hidden, self.tokens.weight)

    def loss(self, tokens: Tensor) -> Tensor:
        """Return the mean cross-entropy of tokens (B, T + 1) after their first."""
        return F.cross_entropy(
            self.logits(self.hidden(tokens[:, :-1])).flatten(0, 1), tokens[:, 1:].flatten()
        )


def rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    way = min(1.0, (step - WARMUP) / max(1, steps - WARMUP))
    return LAST_RATE + 0.5 * (1 + math.cos(math.pi * way)) * (RATE - LAST_RATE)


def train_nanogpt(job: dict[str, Any]) -> dict[str, float]:
    """Train for the seconds of the job and return what is measured of the weights with the best validation."""
    torch.manual_seed(job["seed"])
    draw = np.random.default_rng(job["seed"])
    corpus = Corpus.open(Path(job["corpus"]), verify=False)
    parts = {
        name: np.asarray(corpus.split(name).tokens).astype(np.int64)
        for name in ("train", "validation")
    }
    model = NanoGPT(corpus.meta.vocab_size)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS)

    def batch(part: str) -> Tensor:
        starts = draw.integers(0, len(parts[part]) - BLOCK, BATCH)
        return torch.from_numpy(
            np.stack([parts[part][start : start + BLOCK + 1] for start in starts])
        )

    def step(number: int, steps: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate(number, steps)
        optimizer.zero_grad(set_to_none=True)
        model.loss(batch("train")).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    def validated() -> float:
        with torch.no_grad():
            return (
                sum(model.loss(batch("validation")).item() for _ in range(EVAL_BATCHES))
                / EVAL_BATCHES
            )

    # The cosine needs to know where it ends: the first steps, which are part of the warm-up, tell
    # the speed.
    began, number = time.monotonic(), 0
    while number < 10 or time.monotonic() - began < min(TIMED_SECONDS, job["seconds"] / 10):
        step(number, 10**9)
        number += 1
    steps = max(number + 1, int(number / (time.monotonic() - began) * job["seconds"]))
    best, kept = math.inf, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    while number < steps and time.monotonic() - began < job["seconds"]:
        step(number, steps)
        number += 1
        if number % EVAL_EVERY == 0 or number == steps:
            loss = validated()
            if loss < best:
                best, kept = (
                    loss,
                    {name: tensor.clone() for name, tensor in model.state_dict().items()},
                )
    if math.isinf(best):
        kept = model.state_dict()
    seconds = time.monotonic() - began
    model.load_state_dict(kept)
    test = corpus.split("test")
    measured = {
        f"bits_per_byte, stride {stride}": likelihood.evaluate(
            model, test, window=BLOCK, stride=stride
        ).likelihood.bits_per_byte.value
        for stride in (BLOCK, BLOCK // 4)
    }
    return {**measured, "steps": number, "planned steps": steps, "seconds": seconds}


def texts(names: list[str], data_dir: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each text's name and what `flyweight train` is given for it."""
    for name in names:
        if name == "war-and-peace":
            yield name, str(data_dir / name / "warandpeace.txt")
        elif name == "30 MB":
            yield name, str(long_text(folder))
        else:
            yield name, name


def long_text(folder: Path) -> Path:
    """Write a file of 30 MB from the Python sources of the installed packages, in the order of their names' hashes.

    In the order of names the end, which is held out, can be one package's generated tables.
    """
    path, size = folder / "packages.txt", 0
    packages = Path(site.getsitepackages()[0])
    names = sorted(source.relative_to(packages).as_posix() for source in packages.rglob("*.py"))
    with open(path, "w", encoding="utf-8") as out:
        for source in (
            packages / name
            for name in sorted(names, key=lambda name: sha256(name.encode()).hexdigest())
        ):
            text = source.read_text(encoding="utf-8", errors="ignore").replace("\0", "")
            out.write(text)
            size += len(text.encode())
            if size >= LONG_BYTES:
                return path
    raise SystemExit(
        f"the installed packages hold only {size:,} bytes of Python; {LONG_BYTES:,} are needed"
    )


def measure(
    rows: Rows, name: str, corpus: str, seed: int, options: argparse.Namespace, runs: Path
) -> None:
    """Train both on one text with one seed, and add their rows."""
    seconds = options.minutes * 60
    command = [
        sys.executable,
        "-m",
        "flyweight",
        "train",
        corpus,
        f"budget.time={seconds}s",
        f"seed={seed}",
        "--json",
    ]
    began = time.monotonic()
    answer = subprocess.run(
        [*command, "--runs", str(runs), "--data-dir", str(options.data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    whole = time.monotonic() - began
    summary = json.loads(answer.stdout)
    (model,), (text,) = summary["models"], summary["corpus"]
    evaluated = model["evaluate"]
    rows.add(
        "flyweight train",
        name,
        "bits_per_byte",
        seed,
        evaluated["bits_per_byte"]["value"],
        "bits/byte",
    )
    rows.add(
        "flyweight train", name, "parameters", seed, model["parameters"]["unique"], "parameters"
    )
    rows.add("flyweight train", name, "training", seed, model["training"]["seconds"], "s")
    rows.add("flyweight train", name, "whole command", seed, whole, "s")
    rows.add(
        "Kneser-Ney 5-gram",
        name,
        "bits_per_byte",
        seed,
        text["floors"]["kn5"]["bits_per_byte"],
        "bits/byte",
    )
    packed = next(
        artifact.path / "corpus"
        for artifact in Store(runs).artifacts()
        if artifact.stage == "corpus" and artifact.facts["fingerprint"] == text["fingerprint"]
    )
    job = {"corpus": str(packed), "seconds": seconds, "seed": seed}
    for metric, value in worker(__file__, job, timeout=20 * seconds + 1800).items():
        unit = {"seconds": "s", "steps": "steps", "planned steps": "steps"}.get(metric, "bits/byte")
        rows.add("nanoGPT's CPU settings", name, metric, seed, value, unit)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS))
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--go-on", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(train_nanogpt(json.loads(options.worker))))
        return
    rows = Rows("train_default")
    if options.go_on:
        rows.read()
    made = {(row["setting"], int(row["repeat"])) for row in rows.found}
    with tempfile.TemporaryDirectory() as folder:
        corpora = list(texts(options.texts, options.data_dir, Path(folder)))
        for seed in range(options.seeds):
            for name, corpus in corpora:
                if (name, seed) not in made:
                    measure(rows, name, corpus, seed, options, Path(folder) / "runs")
                    print(rows.write())


if __name__ == "__main__":
    main()
