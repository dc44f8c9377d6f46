"""A stream: killed a hundred times, ten times as long, beside training, against a packed text.

    python benchmarks/bench_stream.py [--work DIR] [--data-dir DIR] [--kills 100] [--large 1e9]

Shards are made of WikiText-2's training documents, repeated with a number before each.

- `kills`: a process reads the stream and writes down a checksum of every step; it is killed (SIGKILL) at a random moment
  and goes on from its last checkpoint, as many times. The steps have to be those of a reading that nobody killed.
- `killed trainings`: the same for whole trainings (`fw.run`); their weights have to be equal to the bit.
- `peak`: the most memory of a process that reads all of a stream, at 0.1 GB and at 1 GB. Every row is read; of the large
  stream every tenth block is cut into tokens, so that both take about as long.
- `data wait`: the share of a training's seconds in which it waits for its text.
- `streamed against packed`: losses of a training on the same tokens, read from packed shards.          results/stream.csv
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rows import Rows

from flyweight.config import schema
from flyweight.core.files import write_json
from flyweight.data.document import Document
from flyweight.data.shards import ShardWriter, Tokens, dtype_for
from flyweight.data.sources import resolve
from flyweight.data.streams import open_stream
from flyweight.data.streams.order import Block, BlockStart, StreamOrder
from flyweight.data.streams.tokens import Edges, StreamPlace, TokenStream
from flyweight.data.tokenizer import Tokenizer
from flyweight.data.tokenizer_training import train

BATCH, CONTEXT = 16, 256
SHARD = 10_000_000
"""Bytes of each shard."""

SAVED_EVERY = 5
"""Steps between two checkpoints of the reader."""

PARTS = ("kills", "training", "wait", "same", "peak")

MODEL = {"dim": 256, "layers": 4, "attention": {"heads": 4}}
TINY = {"dim": 32, "layers": 1, "attention": {"heads": 2}}


def texts(data_dir: Path | None) -> list[str]:
    """Return the training documents of WikiText-2."""
    found = list[str]()
    for part in resolve("wikitext-2", data_dir).documents("train"):
        if isinstance(part, Document):
            found += [text for text in part.text.split("\n \n") if len(text) > 200]
    return found


def make_shards(folder: Path, size: float, documents: list[str]) -> str:
    """Write shards of so many bytes in all, unless they are there; return the glob of them."""
    if not (folder / "whole").exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = numbered(documents)
        for number in range(max(8, round(size / SHARD))):
            left = size / max(8, round(size / SHARD))
            with open(folder / f"{number:04d}.jsonl", "w", encoding="utf-8") as file:
                while left > 0:
                    left -= file.write(next(rows))
        (folder / "whole").touch()
    return str(folder / "*.jsonl")


def numbered(documents: list[str]) -> Iterator[str]:
    """Yield rows for ever: documents with a number before each."""
    number = 0
    while True:
        for text in documents:
            yield json.dumps({"text": f"{number}: {text}"}, ensure_ascii=False) + "\n"
            number += 1


def stream_data(source: str, **fields: Any) -> dict[str, Any]:
    """Return `data` of a stream, read by a byte-pair tokenizer."""
    stream = {"source": source, "validation": "500kB", "test": "500kB", "sample": "4MB", **fields}
    tokenizer = {"kind": "bpe", "vocab": 2048, "sample": "2MB"}
    return {"stream": stream, "tokenizer": tokenizer, "context": CONTEXT}


class Sparse(StreamOrder):
    """The documents of every so many-th block; all blocks are read."""

    every = 1

    def blocks(self, start: BlockStart | None = None) -> Iterator[Block]:
        """Yield some of the blocks."""
        for block in super().blocks(start):
            if block.start.block % self.every == 0:
                yield block
            del block


def token_stream(job: dict[str, Any]) -> TokenStream:
    """Return the tokens of a job's stream, by the tokenizer in its folder."""
    stream = schema.Data.model_validate(stream_data(job["source"])).stream
    assert stream is not None
    tokenizer = Tokenizer.load(Path(job["tokenizer"]))
    assert tokenizer.separator is not None
    order = Sparse(stream, open_stream(stream), seed=job["seed"])
    order.every = job.get("every", 1)
    return TokenStream(order, tokenizer, Edges((), (tokenizer.separator,)))


def checksum(tokens: np.ndarray) -> str:
    """Return the SHA-256 of a step's tokens."""
    return hashlib.sha256(tokens.tobytes()).hexdigest()


# --- a reader that is killed ---


def read(job: dict[str, Any]) -> None:
    """Read on from the checkpoint, or from the beginning, to the last step; write each one down."""
    log, saved = Path(job["log"]), Path(job["saved"])
    state = json.loads(saved.read_text()) if saved.exists() else {"step": 0, "bytes": 0}
    with open(log, "ab") as file:
        file.truncate(state["bytes"])
    place = StreamPlace.read(state["place"]) if "place" in state else StreamPlace()
    steps = token_stream(job).steps(place, BATCH, CONTEXT)
    with open(log, "ab", buffering=0) as file:
        for number, step in enumerate(steps, state["step"]):
            if number == job["steps"]:
                break
            file.write(f"{number} {checksum(step.tokens)}\n".encode())
            if number % SAVED_EVERY == 0:
                write_json(
                    saved,
                    {"step": number + 1, "bytes": file.tell(), "place": step.next.json()},
                )
    Path(job["done"]).touch()


def reader(work: Path, name: str, job: dict[str, Any]) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a reading process; return it and its log."""
    files = {key: str(work / f"{name}.{key}") for key in ("log", "saved", "done")}
    command = [sys.executable, __file__, "--worker", json.dumps({"read": {**job, **files}})]
    return subprocess.Popen(command), Path(files["log"])


def kills(rows: Rows, work: Path, job: dict[str, Any], count: int) -> None:
    """Kill a reader so many times and compare what it read with what an undisturbed one reads."""
    for file in work.glob("*.log"), work.glob("*.saved"), work.glob("*.done"):
        for each in file:
            each.unlink()
    undisturbed, log = reader(work, "undisturbed", job)
    undisturbed.wait()
    expected = log.read_text()
    drawn, killed, began = random.Random(0), 0, time.monotonic()
    while killed < count:
        process, log = reader(work, "killed", job)
        before = log.stat().st_size if log.exists() else 0
        wanted = before + 71 * drawn.randint(1, max(1, job["steps"] // (count + 10)))
        while process.poll() is None and (not log.exists() or log.stat().st_size < wanted):
            time.sleep(0.002)
        if process.poll() is not None:
            break
        time.sleep(drawn.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
    process, log = reader(work, "killed", job)
    process.wait()
    found = log.read_text()
    setting = f"{job['steps']} steps of {BATCH} x {CONTEXT} tokens"
    rows.add("reader", setting, "kills", 0, killed, "")
    same = sum(a == b for a, b in zip(found.splitlines(), expected.splitlines(), strict=False))
    rows.add("reader", setting, "steps identical", 0, same / len(expected.splitlines()), "of 1")
    rows.add("reader", setting, "length identical", 0, float(len(found) == len(expected)), "of 1")
    rows.add("reader", setting, "seconds", 0, time.monotonic() - began, "s")


# --- trainings that are killed ---


def recipe(source: str, name: str, model: dict[str, Any], **train_fields: Any) -> dict[str, Any]:
    """Return a recipe that trains one model on a stream."""
    train_fields = {"batch": BATCH, "validations": 2, "precision": "fp32", **train_fields}
    return {
        "name": name,
        "data": stream_data(source),
        "model": model,
        "train": {**train_fields, "checkpoint": "200ms"},
        "stages": {"model": {"stage": "pretrain"}},
        "report": {"measure": []},
    }


def trained(raw: dict[str, Any], runs: str) -> Any:
    """Return the artifact of a recipe's model."""
    import flyweight as fw
    from flyweight.api import Session
    from flyweight.config import load as config_load

    session = Session(runs=Path(runs), threads=1, quiet=True)
    return fw.run(config_load.recipe(raw), session=session)["model"]


def weights(artifact: Any) -> str:
    """Return the SHA-256 of an artifact's weights."""
    file = artifact.path / "model" / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def killed_trainings(rows: Rows, work: Path, source: str, count: int) -> None:
    """Kill a training so many times and compare its model with that of an undisturbed one."""
    raw = recipe(source, "killed", TINY, steps=150)
    expected = trained(raw, str(work / "runs-whole"))
    job = {"train": {"raw": raw, "runs": str(work / "runs-killed")}}
    command = [sys.executable, __file__, "--worker", json.dumps(job)]
    drawn, killed = random.Random(1), 0
    for _ in range(count):
        process = subprocess.Popen(command)
        state = work / "runs-killed"
        seen = _steps(state)
        while process.poll() is None and _steps(state) <= seen:
            time.sleep(0.05)
        time.sleep(drawn.random())
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    found = trained(raw, str(work / "runs-killed"))
    setting = f"{raw['train']['steps']} steps"
    rows.add("training", setting, "kills", 0, killed, "")
    rows.add(
        "training", setting, "weights identical", 0, float(weights(found) == weights(expected)), ""
    )
    for name in ("documents_read", "bytes_read", "best_nll"):
        same = found.facts[name] == expected.facts[name]
        rows.add("training", setting, f"{name} identical", 0, float(same), "")


def _steps(runs: Path) -> int:
    """Return the step of the newest checkpoint of the half-made training; 0 without one."""
    found = [int(each.name.split("-")[1]) for each in runs.glob("pretrain-*/state/step-*")]
    return max(found, default=0)


# --- memory ---


def peak(job: dict[str, Any]) -> dict[str, float]:
    """Read all of a stream; return the most bytes that were held over those before."""
    tokens = token_stream(job)
    tokens.tokenizer.encode_batch(["Some words to begin with. " * 1000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, count, documents = time.monotonic(), 0, 0
    for step in tokens.steps(StreamPlace(), BATCH, CONTEXT):
        count += step.tokens.size
        documents = step.next.documents
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "peak": 1024 * after,
        "over": 1024 * (after - before),
        "tokens": count,
        "documents": documents,
        "seconds": time.monotonic() - began,
    }


def measured_peaks(rows: Rows, jobs: dict[str, dict[str, Any]]) -> None:
    """Measure the peak of each stream in a process of its own, and their ratio."""
    found = dict[str, dict[str, float]]()
    for setting, job in jobs.items():
        command = [sys.executable, __file__, "--worker", json.dumps({"peak": job})]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[setting] = json.loads(done.stdout.splitlines()[-1])
        rows.add("reader", setting, "peak", 0, found[setting]["peak"], "bytes")
        rows.add("reader", setting, "peak over start", 0, found[setting]["over"], "bytes")
        speed = found[setting]["tokens"] / found[setting]["seconds"]
        rows.add("reader", setting, "speed", 0, speed, "tokens/s")
        rows.add("reader", setting, "documents", 0, found[setting]["documents"], "")
    small, large = found.values()
    names = " to ".join(reversed(found))
    rows.add("reader", names, "peak", 0, large["peak"] / small["peak"], "times")


# --- beside training ---


def data_wait(rows: Rows, work: Path, source: str) -> None:
    """Train a model of 3 M parameters and one of 40 k, and tell how long they waited."""
    for name, model, steps in (("4 x 256", MODEL, 20), ("1 x 32", TINY, 120)):
        raw = recipe(source, "waits", model, steps=steps)
        facts = trained(raw, str(work / "runs-waits")).facts
        share = facts["data_wait"] / facts["seconds"]
        rows.add(name, f"{steps} steps", "data wait", 0, share, "of 1")
        rows.add(name, f"{steps} steps", "seconds", 0, facts["seconds"], "s")


class InOrder:
    """Tokens of packed shards, window after window."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def batch(self, step: int, rows: slice = slice(None), rank: int = 0, world: int = 1) -> Any:
        """Return the windows of a step."""
        import torch

        from flyweight.data.batch import Batch

        starts = (step * BATCH + np.arange(BATCH)[rows]) * CONTEXT
        windows = self.tokens.gather(starts, CONTEXT + 1).astype(np.int64)
        inputs, targets = windows[:, :-1].copy(), windows[:, 1:].copy()
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), targets.size)


def streamed_and_packed(rows: Rows, work: Path, source: str) -> None:
    """Train on a stream, then on the same tokens in packed shards; compare every logged loss."""
    from flyweight.training import training_data as reading

    steps = 60
    raw = recipe(source, "streamed", TINY, steps=steps)
    streamed = trained(raw, str(work / "runs-streamed"))
    folder = work / "packed"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    built = reading.stream_windows

    def packed(*arguments: Any) -> Any:
        windows = built(*arguments)
        writer = ShardWriter(folder, "train", dtype_for(2048), limit=100_000)
        for step in range(steps):
            batch = windows.batch(step)
            writer.write(batch.inputs.numpy().ravel())
        writer.write(batch.targets.numpy()[-1, -1:])
        shards, _ = writer.close()
        windows.close()
        windows.start(0, None)
        kinds = dtype_for(2048)
        parts = [np.memmap(folder / shard.file, kinds, mode="r") for shard in shards]
        windows.batch = InOrder(Tokens(parts)).batch
        return windows

    reading.stream_windows = packed
    other = trained(raw, str(work / "runs-packed"))
    reading.stream_windows = built
    losses = [_losses(each) for each in (streamed, other)]
    largest = max(abs(a - b) for a, b in zip(*losses, strict=True))
    rows.add("streamed", f"{steps} steps", "losses compared", 0, len(losses[0]), "")
    rows.add("streamed", f"{steps} steps", "largest difference to packed", 0, largest, "nats")


def _losses(artifact: Any) -> list[float]:
    lines = (artifact.path / "events.jsonl").read_text().splitlines()
    events = map(json.loads, lines)
    return [each["nll"] for each in events if each["event"] in ("step", "validation")]


def answer(job: dict[str, Any]) -> None:
    """Do the work of one process."""
    if "read" in job:
        read(job["read"])
    elif "train" in job:
        trained(job["train"]["raw"], job["train"]["runs"])
    else:
        print(json.dumps(peak(job["peak"])))


def main() -> None:
    """Measure everything and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=json.loads)
    parser.add_argument("--work", type=Path, default=Path("bench-stream"))
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("FLYWEIGHT_DATA"))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--large", type=float, default=1e9)
    parser.add_argument("--only", nargs="*", choices=PARTS, help="add to what was measured before")
    options = parser.parse_args()
    if options.worker:
        answer(options.worker)
        return
    work = options.work.absolute()
    documents = texts(options.data_dir and Path(options.data_dir))
    small = make_shards(work / "small", options.large / 10, documents)
    tokenizer = work / "tokenizer.json"
    bpe = schema.BpeTokenizer(vocab=2048, sample="2MB")  # pyright: ignore[reportArgumentType]
    if not tokenizer.exists():
        size = sum(map(len, documents))
        train(bpe, lambda: iter(documents), lambda: iter(()), size, True).save(tokenizer)
    job = {"source": small, "tokenizer": str(tokenizer), "seed": 0, "steps": 1500}
    rows = Rows("stream")
    parts = options.only or PARTS
    if options.only:
        rows.read()
    if "kills" in parts:
        kills(rows, work, job, options.kills)
    if "training" in parts:
        killed_trainings(rows, work, small, 6)
    if "wait" in parts:
        data_wait(rows, work, small)
    if "same" in parts:
        streamed_and_packed(rows, work, small)
    if "peak" in parts:
        large = make_shards(work / "large", options.large, documents)
        jobs = {
            f"{options.large / 1e10:g} GB": {**job, "source": small},
            f"{options.large / 1e9:g} GB": {**job, "source": large, "every": 10},
        }
        measured_peaks(rows, jobs)
    print(rows.write())


if __name__ == "__main__":
    main()
