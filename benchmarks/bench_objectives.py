"""Memory and time of head and loss alone, ours against plain, beyond the gradients that any version holds.

    python benchmarks/bench_objectives.py [--shapes 2048x50257x768 1024x151936x1024] [--repeats 3]
        [--pairs 3] [--only ce kl "ce frozen" "ce int8"]

A shape is tokens x vocabulary x width; everything is float32, forward and backward. `frozen`: the
head's weight learns nothing. `int8`: it is frozen and packed; the plain version unpacks it whole.

Memory: the high-water mark of a fresh process over what it holds with inputs, head and teacher in
place, after a step at a tiny size (so that library start-up is paid). On a GPU it is the
allocator's peak. `gradients` are those that both must hold at the end: of the hidden states, and of
the head where it learns. `ratio beyond` is (ours - gradients) / (plain - gradients).

Time: both in one process, in turns, after one step of each; processor seconds of each pair, as a
ratio. Other processes on the machine disturb them less than seconds on the clock.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from rows import Rows, spread, worker

SHAPES = ("2048x50257x768", "1024x151936x1024")
KINDS = ("ce", "kl", "ce frozen", "kl frozen", "ce int8", "ce nf4")


class Model:
    """A model of which there is the head alone: its hidden states are given."""

    softcap = None

    def __init__(self, states: Any, head: Any) -> None:
        self.states, self.head = states, head

    def hidden(self, tokens: Any, *, documents: Any = None) -> Any:
        """Return the given hidden states."""
        return self.states.unsqueeze(0)

    def output_of(self, tokens: Any, documents: Any = None) -> Any:
        """Return them, the head, and no bias."""
        return self.states.unsqueeze(0), self.head, None

    def logits(self, states: Any) -> Any:
        """Return the head's product."""
        return states @ self.head.T


def plain(
    loss: str, hidden: Any, weight: Any, teacher_hidden: Any, teacher: Any, targets: Any
) -> Any:
    """Return the loss from whole logits, as most code has it."""
    import torch
    import torch.nn.functional as F

    if not isinstance(weight, torch.Tensor):
        weight = weight.dense()
    logits = hidden @ weight.T
    if loss == "ce":
        return F.cross_entropy(logits.float(), targets, reduction="sum")
    with torch.no_grad():
        p = F.log_softmax((teacher_hidden @ teacher.T).float(), -1)
    return F.kl_div(F.log_softmax(logits.float(), -1), p, reduction="sum", log_target=True)


def ours(
    loss: str, hidden: Any, weight: Any, teacher_hidden: Any, teacher: Any, targets: Any
) -> Any:
    """Return the same loss by our objective."""
    from flyweight.config import schema
    from flyweight.data.batch import Batch
    from flyweight.training.objectives import DistillationObjective, NextTokenObjective

    student = Model(hidden, weight)
    batch = Batch.from_tensors(targets.unsqueeze(0), targets.unsqueeze(0))
    if loss == "ce":
        return NextTokenObjective(schema.NextToken())(student, batch).loss
    config = schema.Distillation(weight=1.0)
    return DistillationObjective(config, Model(teacher_hidden, teacher))(student, batch).loss


WHO: dict[str, Callable[..., Any]] = {"plain": plain, "ours": ours}


def tensors(job: dict[str, Any], tokens: int, vocab: int) -> list[Any]:
    """Return hidden states, head, teacher's hidden states and head, and targets."""
    import torch

    from flyweight.config.linear_kinds import NF4, Int8
    from flyweight.model import linear

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    hidden = torch.randn(tokens, job["dim"], device=device, requires_grad=True)
    weight: Any = torch.randn(vocab, job["dim"], device=device).mul_(0.02)
    kind = job["kind"].partition(" ")[2]
    if kind in ("int8", "nf4"):
        weight = linear.from_dense({"int8": Int8(), "nf4": NF4()}[kind], weight, None)
    elif not kind:
        weight.requires_grad_()
    teacher_hidden = teacher = None
    if job["kind"].startswith("kl"):
        teacher_hidden = torch.randn(tokens, job["dim"], device=device)
        teacher = torch.randn(vocab, job["dim"], device=device).mul_(0.02)
    targets = torch.randint(vocab, (tokens,), device=device)
    return [hidden, weight, teacher_hidden, teacher, targets]


def clear(inputs: list[Any]) -> None:
    """Forget the gradients."""
    for tensor in inputs[:2]:
        tensor.grad = None


def measure_memory(job: dict[str, Any]) -> dict[str, float]:
    """Return the extra bytes, and the loss, of one contestant."""
    import torch

    from flyweight.evaluation.bench_worker import MemoryProbe

    step, loss = WHO[job["who"]], job["kind"].split(" ")[0]
    step(loss, *tensors(job, 8, 97)).backward()
    inputs = tensors(job, job["tokens"], job["vocab"])
    probe = MemoryProbe(inputs[0].device)
    probe.start()
    value = step(loss, *inputs)
    value.backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    gradients = sum(t.grad.nbytes for t in inputs[:2] if getattr(t, "grad", None) is not None)
    return {"extra_bytes": probe.peak(), "gradients": gradients, "loss": float(value.detach())}


def measure_time(job: dict[str, Any]) -> dict[str, list[float]]:
    """Return the seconds of both contestants, in turns."""
    import torch

    inputs, loss = tensors(job, job["tokens"], job["vocab"]), job["kind"].split(" ")[0]
    seconds: dict[str, list[float]] = {who: [] for who in WHO}
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    for _ in range(job["pairs"] + 1):
        for who, step in WHO.items():
            clear(inputs)
            began = clock()
            step(loss, *inputs).backward()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[who].append(clock() - began)
    return {who: found[1:] for who, found in seconds.items()}


def memory_of(rows: Rows, job: dict[str, Any], setting: str, repeats: int) -> str:
    """Measure the memory of both contestants and return a line of the summary."""
    ratios, found = [], {}
    for repeat in range(repeats):
        for who in WHO:
            found[who] = worker(__file__, {**job, "who": who, "measure": "memory"})
            rows.add(who, setting, "extra_bytes", repeat, found[who]["extra_bytes"], "bytes")
        held = found["plain"]["gradients"]
        if held != found["ours"]["gradients"]:
            raise SystemExit(f"the two versions of {setting} hold different gradients: {found}")
        if abs(found["plain"]["loss"] / found["ours"]["loss"] - 1) > 1e-4:
            raise SystemExit(f"the two versions of {setting} disagree: {found}")
        rows.add("any version", setting, "gradients", repeat, held, "bytes")
        beyond = [found[who]["extra_bytes"] - held for who in ("ours", "plain")]
        ratios.append(beyond[0] / beyond[1])
        rows.add("ours/plain", setting, "ratio beyond gradients", repeat, ratios[-1], "x")
    megabytes = {who: found[who]["extra_bytes"] / 1e6 for who in WHO}
    return (
        f"{setting}: plain {megabytes['plain']:,.0f} MB, ours {megabytes['ours']:,.0f} MB, gradients "
        f"both hold {found['plain']['gradients'] / 1e6:,.0f} MB, ratio beyond {spread(ratios)}x"
    )


def time_of(rows: Rows, job: dict[str, Any], setting: str) -> str:
    """Measure the time of both contestants and return a line of the summary."""
    found, ratios = worker(__file__, {**job, "measure": "time"}, 7200), []
    for repeat, (whole, ours) in enumerate(zip(found["plain"], found["ours"], strict=True)):
        rows.add("plain", setting, "processor_seconds", repeat, whole, "s")
        rows.add("ours", setting, "processor_seconds", repeat, ours, "s")
        ratios.append(ours / whole)
        rows.add("ours/plain", setting, "ratio of processor_seconds", repeat, ratios[-1], "x")
    return f"{setting}: time {spread(ratios)}x of plain"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="tokens x vocabulary x width")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--repeats", type=int, default=3, help="of memory; 0 for none")
    parser.add_argument("--pairs", type=int, default=3, help="steps of each that are timed")
    parser.add_argument("--add", action="store_true", help="keep the rows of the last run")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker)
        print(json.dumps({"memory": measure_memory, "time": measure_time}[job["measure"]](job)))
        return
    rows, summary = Rows("objectives"), []
    if options.add:
        rows.read()
    for shape in options.shapes:
        tokens, vocab, dim = map(int, shape.split("x"))
        for kind in options.only:
            job = {
                "kind": kind,
                "tokens": tokens,
                "vocab": vocab,
                "dim": dim,
                "pairs": options.pairs,
            }
            if options.repeats:
                summary.append(memory_of(rows, job, f"{kind} {shape}", options.repeats))
            if options.pairs:
                summary.append(time_of(rows, job, f"{kind} {shape}"))
            rows.write()
    print(rows.write(), *summary, sep="\n")


if __name__ == "__main__":
    main()
