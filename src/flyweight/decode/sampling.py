"""How the next token is drawn from a model's logits: temperature, top-k, top-p, min-p."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flyweight.errors import RequestError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    At temperature 0 it is the likeliest, else it is drawn from what the filters leave.

    The filters act on the distribution at this temperature, each on what the one before left:
    `top_k` keeps the k likeliest tokens; `top_p` the smallest set of likeliest tokens whose
    probability reaches it (Holtzman et al. 2020); `min_p` those at least that fraction as likely as
    the likeliest (Nguyen et al. 2024).
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        faults = []
        if not 0 <= self.temperature < float("inf"):
            faults.append(
                f"temperature: {self.temperature} is not a number of at least 0 (0 is greedy)"
            )
        if self.top_k is not None and self.top_k < 1:
            faults.append(f"top_k: {self.top_k} would leave no token; give at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            faults.append(f"top_p: {self.top_p} is not a probability above 0 and up to 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            faults.append(f"min_p: {self.min_p} is not a fraction from 0 to 1")
        if faults:
            raise RequestError("; ".join(faults))

    def choose(self, logits: Tensor, draws: Tensor) -> Tensor:
        """Return one token per row of logits (B, V), given uniform draws (B,) in [0, 1).

        At temperature 0 the draws are not used.
        """
        if self.temperature == 0:
            return _likeliest(logits)
        # Subtracting the largest first keeps a tiny temperature from overflowing.
        logits = logits.float()
        scaled = (logits - logits.amax(-1, keepdim=True)) / self.temperature
        filtered = any(option is not None for option in (self.top_k, self.top_p, self.min_p))
        order = None
        if filtered:
            scaled, order = scaled.topk(
                min(self.top_k or scaled.shape[-1], scaled.shape[-1]), -1
            )  # (B, k), descending
        weights = self._kept(scaled.softmax(-1))
        bounds = weights.cumsum(-1)  # (B, k)
        index = torch.searchsorted(
            bounds, (draws.to(bounds) * bounds[:, -1]).unsqueeze(-1), right=True
        )  # (B, 1)
        # Rounding can put a draw just past the last bound: the last token with any weight is meant.
        last = weights.shape[-1] - 1 - (weights > 0).flip(-1).int().argmax(-1, keepdim=True)
        index = torch.minimum(index, last)
        return (index if order is None else order.gather(-1, index)).squeeze(-1)

    def _kept(self, weights: Tensor) -> Tensor:
        if self.top_p is not None and self.top_p < 1:
            before = weights.cumsum(-1) - weights  # (B, k)
            weights = weights.masked_fill(before >= self.top_p, 0.0)
        if self.min_p:
            weights = weights.masked_fill(weights < self.min_p * weights[:, :1], 0.0)
        return weights


def _likeliest(logits: Tensor) -> Tensor:
    """Return the place of the largest of each row of logits (B, V), the first of equals: (B,)."""
    if logits.is_cpu and logits.dtype == torch.float32:  # numpy's takes a tenth of torch's time
        return torch.from_numpy(logits.detach().numpy().argmax(-1))
    return logits.argmax(-1)
