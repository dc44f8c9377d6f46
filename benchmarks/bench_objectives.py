"""Extra memory and time of head and loss alone, chunked against plain: 2,048 tokens x 50,257, float32, forward and backward.

    python benchmarks/bench_objectives.py [--tokens 2048] [--vocab 50257] [--dim 384] [--repeats 3]

Extra memory is the peak resident size of a fresh process over what it holds with inputs, head and
teacher in place, after the same step at a tiny size (so that library start-up is paid). On a GPU it
is the allocator's peak over the same baseline.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from rows import Rows, spread, worker


def plain(
    loss: str, hidden: Any, weight: Any, teacher_hidden: Any, teacher: Any, targets: Any
) -> Any:
    """Return the loss from whole logits, as most code has it."""
    import torch.nn.functional as F

    logits = hidden @ weight.T
    if loss == "ce":
        return F.cross_entropy(logits.float(), targets, reduction="sum")
    import torch

    with torch.no_grad():
        p = F.log_softmax((teacher_hidden @ teacher.T).float(), -1)
    return F.kl_div(F.log_softmax(logits.float(), -1), p, reduction="sum", log_target=True)


def chunked(
    loss: str, hidden: Any, weight: Any, teacher_hidden: Any, teacher: Any, targets: Any
) -> Any:
    """Return the same loss by our objective."""
    from flyweight.config import schema
    from flyweight.data.batch import Batch
    from flyweight.training.objectives import Distillation, NextToken

    class Model:
        softcap = None

        def __init__(self, states: Any, head: Any) -> None:
            self.states, self.head = states, head

        def hidden(self, tokens: Any) -> Any:
            return self.states.unsqueeze(0)

        def output(self, states: Any) -> Any:
            return states, self.head, None

        def logits(self, states: Any) -> Any:
            return states @ self.head.T

    student, source = Model(hidden, weight), Model(teacher_hidden, teacher)
    batch = Batch.from_tensors(targets.unsqueeze(0), targets.unsqueeze(0))
    if loss == "ce":
        return NextToken(schema.NextToken())(student, batch).loss
    config = schema.Distillation(weight=1.0)
    return Distillation(config, source)(student, batch).loss


class Peak:
    """The peak resident size of this process while it is entered, sampled every millisecond."""

    def __enter__(self) -> Peak:
        import psutil

        self.process, self.stop, self.bytes = psutil.Process(), False, 0
        self.before = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.stop:
            self.bytes = max(self.bytes, self.process.memory_info().rss - self.before)
            time.sleep(0.001)

    def __exit__(self, *_: Any) -> None:
        self.stop = True
        self.thread.join()


def measure(job: dict[str, Any]) -> dict[str, float]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    step: Callable[..., Any] = {"plain": plain, "chunked": chunked}[job["who"]]

    def tensors(tokens: int, vocab: int) -> list[Any]:
        torch.manual_seed(0)
        hidden = torch.randn(tokens, job["dim"], device=device, requires_grad=True)
        weight = torch.randn(vocab, job["dim"], device=device).mul_(0.02).requires_grad_()
        teacher_hidden = torch.randn(tokens, job["dim"], device=device)
        teacher = torch.randn(vocab, job["dim"], device=device) * 0.02
        targets = torch.randint(vocab, (tokens,), device=device)
        return [hidden, weight, teacher_hidden, teacher, targets]

    step(job["loss"], *tensors(8, 97)).backward()
    inputs = tensors(job["tokens"], job["vocab"])
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, began = torch.cuda.memory_allocated(), time.perf_counter()
        value = step(job["loss"], *inputs)
        value.backward()
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before
    else:
        with Peak() as peak:
            began = time.perf_counter()
            value = step(job["loss"], *inputs)
            value.backward()
        extra = peak.bytes
    return {
        "extra_bytes": extra,
        "seconds": time.perf_counter() - began,
        "loss": float(value.detach()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=50_257)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(json.loads(options.worker))))
        return
    rows, summary = Rows("objectives"), []
    for loss in ("ce", "kl"):
        ratios: dict[str, list[float]] = {"extra_bytes": [], "seconds": []}
        for repeat in range(options.repeats):
            found = {}
            for who in ("plain", "chunked"):
                job = {
                    "who": who,
                    "loss": loss,
                    "tokens": options.tokens,
                    "vocab": options.vocab,
                    "dim": options.dim,
                }
                found[who] = worker(__file__, job)
                setting = f"{loss} {options.tokens}x{options.vocab}"
                rows.add(who, setting, "extra_bytes", repeat, found[who]["extra_bytes"], "bytes")
                rows.add(who, setting, "seconds", repeat, found[who]["seconds"], "s")
            if abs(found["plain"]["loss"] / found["chunked"]["loss"] - 1) > 1e-4:
                raise SystemExit(f"the two versions of {loss} disagree: {found}")
            for metric, values in ratios.items():
                values.append(found["chunked"][metric] / found["plain"][metric])
                rows.add("chunked/plain", setting, f"ratio of {metric}", repeat, values[-1], "x")
        summary += [
            f"{loss}: {metric} {spread(values)}x of plain" for metric, values in ratios.items()
        ]
    print(rows.write(), *summary, sep="\n")


if __name__ == "__main__":
    main()
