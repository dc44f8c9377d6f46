"""Measure whether training in bfloat16 pays on this processor, by timing a small training step.

The processor's instructions do not decide it. Some processors with bfloat16 instructions train
small models 1.4 to 1.8 times slower in it than in float32. The products of their backward pass, or
the conversions around them, are slow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flyweight.core import machine
from flyweight.core.events import Watcher, ignore
from flyweight.core.measured import Fact, obtain

WIDTHS = (64, 128, 256)
"""Widths of the models whose training step is timed.

A model is judged by the widest of them that it reaches.
"""

WORTH = 1.1
"""The least speedup over float32 that is worth the digits which bfloat16 lacks."""

ROUNDS = 4
_ROWS, _LENGTH, _VOCAB, _HEADS = 2, 256, 1024, 4


@dataclass(frozen=True)
class Speedups:
    """The speedup of a training step in bfloat16 over one in float32, by the model's width."""

    by_width: tuple[tuple[int, float], ...]

    def at(self, width: int) -> float:
        """Return the figure that a model of this width is judged by."""
        speedups = [speedup for least, speedup in self.by_width if least <= width]
        return speedups[-1] if speedups else self.by_width[0][1]

    def pays(self, width: int) -> bool:
        """Return whether `precision: auto` takes bfloat16 for a model of this width."""
        return self.at(width) >= WORTH

    def words(self) -> str:
        """Return the measurement and what follows from it as one sentence."""
        figures = ", ".join(f"{speedup:.2g}" for _, speedup in self.by_width)
        widths = ", ".join(str(width) for width, _ in self.by_width)
        result = f"bfloat16 trains {figures} times as fast as float32 at widths {widths}"
        return f"{result}; train.precision: auto takes {self._choice()}"

    def _choice(self) -> str:
        chosen = [self.pays(width) for width, _ in self.by_width]
        if all(chosen):
            return "bf16"
        if not any(chosen):
            return "fp32"
        first = next(width for (width, _), pays in zip(self.by_width, chosen, strict=True) if pays)
        if all(
            pays == (width >= first) for (width, _), pays in zip(self.by_width, chosen, strict=True)
        ):
            return f"bf16 for models of width {first} and more, fp32 below"
        widths = [
            str(width) for (width, _), pays in zip(self.by_width, chosen, strict=True) if pays
        ]
        return f"bf16 for models of about width {' and '.join(widths)}, fp32 for others"


def speedups(threads: int, root: Path | None = None, watch: Watcher = ignore) -> Speedups:
    """Return the speedups of bfloat16 on this processor with so many threads.

    They are read from the runs root, or measured now. `watch` hears of a new measurement once. Set
    the thread count of this process before the call.
    """
    value, fresh = obtain(_fact(threads), root, watch)
    if fresh and threads not in _announced_threads:
        _announced_threads.add(threads)
        watch("measured", {"what": value.words()})
    return value


_announced_threads: set[int] = set()
"""The thread counts whose measurement `watch` has heard of in this process."""


def _fact(threads: int) -> Fact[Speedups]:
    key = {
        "processor": machine.processor(),
        "torch": machine.libraries()["torch"],
        "threads": threads,
    }
    return Fact(
        name="bfloat16",
        label="the speed of bfloat16",
        key=key,
        measure=lambda: _measure(threads),
        plain=_plain,
        read=_read,
    )


def _plain(value: Speedups) -> dict[str, float]:
    return {str(width): speedup for width, speedup in value.by_width}


def _read(plain: Any) -> Speedups:
    value = Speedups(tuple((width, float(plain[str(width)])) for width in WIDTHS))
    if not all(0 < speedup < 1e6 for _, speedup in value.by_width):
        raise ValueError("not a speed")
    return value


@cache
def _measure(threads: int) -> Speedups:
    """Time a training step at every width in both types, by turns, and compare the best times."""
    return Speedups(tuple((width, round(_speedup(width), 3)) for width in WIDTHS))


def _speedup(width: int) -> float:
    step = _training_step(width)
    best = {False: float("inf"), True: float("inf")}
    for round_ in range(ROUNDS + 1):
        for half in best:
            began = time.perf_counter()
            step(half)
            if round_:  # the first is the warm-up
                best[half] = min(best[half], time.perf_counter() - began)
    return best[False] / best[True]


def _training_step(width: int) -> Callable[[bool], None]:
    """Return a function that runs forward and backward of one block and a head on 512 tokens.

    Its argument says whether it computes in bfloat16. One block has all the products of a model:
    those of attention, of an MLP, of the head, and of their gradients.
    """
    import torch
    import torch.nn.functional as F

    draw = torch.Generator().manual_seed(0)

    def matrix(out: int, in_: int) -> torch.Tensor:
        return (torch.randn(out, in_, generator=draw) * in_**-0.5).requires_grad_()

    x = torch.randn(_ROWS, _LENGTH, width, generator=draw, requires_grad=True)  # (B, T, D)
    targets = torch.randint(_VOCAB, (_ROWS * _LENGTH,), generator=draw)
    attention_in, attention_out = matrix(3 * width, width), matrix(width, width)
    up, down, head = matrix(4 * width, width), matrix(width, 4 * width), matrix(_VOCAB, width)
    weights = (x, attention_in, attention_out, up, down, head)

    def step(half: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            split = F.linear(F.layer_norm(x, (width,)), attention_in).view(
                _ROWS, _LENGTH, 3, _HEADS, -1
            )
            q, k, v = split.permute(2, 0, 3, 1, 4)  # (B, H, T, D / H) each
            mixed = (
                F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
            )
            hidden = x + F.linear(mixed, attention_out)
            hidden = hidden + F.linear(F.gelu(F.linear(F.layer_norm(hidden, (width,)), up)), down)
            logits = F.linear(hidden, head).view(-1, _VOCAB)
            loss = F.cross_entropy(logits.float(), targets)
        torch.autograd.grad(loss, weights)

    return step
