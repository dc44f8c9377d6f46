"""Grouped-query attention through torch's own `scaled_dot_product_attention`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config.schema import ModelConfig, RMSNorm as RMSNormConfig
from flyweight.model import linear
from flyweight.model.cache import Memory
from flyweight.model.norm import RMSNorm
from flyweight.model.position import Rotation
from flyweight.model.thinking import KeysAndValues


@dataclass(frozen=True)
class Reach:
    """What queries may look at: `causal` without a mask is the fast path, a mask is (B or 1, 1, T, S) of bool."""

    causal: bool
    mask: Tensor | None = None

    def doubled(self, length: int, device: torch.device) -> Reach:
        """Return the same for two keys a token, that of the memory and its own, one after the other."""
        mask = self.mask
        if mask is None and self.causal:
            mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
        return Reach(
            causal=False, mask=None if mask is None else mask.repeat_interleave(2, -1)
        )  # (B or 1, 1, T, 2S)


def reach(start: int, length: int, mask: Tensor | None, device: torch.device) -> Reach:
    """Return what `length` new tokens after `start` cached ones see.

    `mask` (B, S) is False on left padding.
    """
    if mask is None and (start == 0 or length == 1):
        return Reach(causal=length > 1)
    seen = torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)  # (T, S)
    if mask is None:
        return Reach(causal=False, mask=seen[None, None])
    # A padded query has to see something, or its softmax is 0 / 0: itself.
    itself = seen & ~seen.tril(-1 + start)  # (T, S)
    return Reach(causal=False, mask=((seen & mask[:, None]) | itself)[:, None])  # (B, 1, T, S)


WRITTEN_OUT = 512
"""Up to this length the written-out form trains faster on a CPU in bfloat16: 2.8x at 256 tokens, 2x at 512, 0.9x at 1,024."""


def attend(q: Tensor, k: Tensor, v: Tensor, reach: Reach, dropout: float = 0.0) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v under `reach`: (B, H, T, D) and keys and values (B, H_kv, S, D) -> (B, H, T, D).

    torch's fused kernel does it, but for training on short windows in bfloat16 on a CPU: its
    backward does not use the processor's bfloat16 products well there, and plain products with the
    scores kept are faster.
    """
    trains = torch.is_grad_enabled() and q.requires_grad
    if (
        trains
        and q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and reach.causal
        and q.shape[2] <= WRITTEN_OUT
    ):
        return _written_out(q, k, v, dropout)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=reach.mask,
        dropout_p=dropout,
        is_causal=reach.causal,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _written_out(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    batch, heads, length, size = q.shape
    if heads != k.shape[1]:
        k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))  # (B, H, T, D)
    ahead = torch.full((length, length), -torch.inf, dtype=q.dtype).triu(1)
    q, k, v = (x.reshape(batch * heads, length, size) for x in (q, k, v))
    scores = torch.baddbmm(
        ahead.expand(batch * heads, -1, -1), q, k.mT, alpha=size**-0.5
    )  # (B * H, T, T)
    weights = F.dropout(scores.softmax(-1), dropout) if dropout else scores.softmax(-1)
    return (weights @ v).view(batch, heads, length, size)


class Attention(nn.Module):
    """Queries of `heads` heads attend to keys and values of `kv_heads` (Ainslie et al. 2023)."""

    def __init__(self, config: ModelConfig, name: str) -> None:
        super().__init__()
        options = config.attention
        assert (
            options.heads and options.kv_heads and options.head_dim and options.out_bias is not None
        )
        self.heads, self.kv_heads, self.head_dim = options.heads, options.kv_heads, options.head_dim
        self.dropout = config.dropout.attention
        wide, narrow, dim = self.heads * self.head_dim, self.kv_heads * self.head_dim, config.dim
        self.q = linear.build_linear(config, f"{name}.q", dim, wide, options.bias)
        self.k = linear.build_linear(config, f"{name}.k", dim, narrow, options.bias)
        self.v = linear.build_linear(config, f"{name}.v", dim, narrow, options.bias)
        self.out = linear.build_linear(config, f"{name}.out", wide, dim, options.out_bias)
        norm = RMSNormConfig(eps=options.qk_norm_eps)
        self.q_norm = RMSNorm(norm, self.head_dim) if options.qk_norm else None
        self.k_norm = RMSNorm(norm, self.head_dim) if options.qk_norm else None
        self.gain = nn.Parameter(torch.empty(self.heads)) if options.gain else None

    def forward(
        self,
        x: Tensor,
        reach: Reach,
        rotation: Rotation | None,
        slot: Memory | None,
        known: KeysAndValues | None = None,
    ) -> tuple[Tensor, KeysAndValues]:
        """Return what each position reads from those it may see, (B, T, dim), and its own keys and values.

        `known` is the memory's part of these tokens. Read with it, the cache holds both, side by
        side in the last dimension.
        """
        batch, length, _ = x.shape
        q = self._heads(self.q, x, self.heads)  # (B, T, H, D)
        q = q if self.q_norm is None else self.q_norm(q)
        q = q if rotation is None else rotation(q)
        q = q if self.gain is None else q * self.gain[:, None]
        own = k, v = self.write(x, rotation)  # (B, H_kv, T, D)
        if known is not None:
            k, v = (
                torch.cat(pair, -1) for pair in zip(known, own, strict=True)
            )  # (B, H_kv, T, 2D)
        if slot is not None:
            k, v = slot.extend(k, v)  # (B, H_kv, S, D or 2D)
        if known is not None:
            k, v = (
                each.reshape(batch, self.kv_heads, -1, self.head_dim) for each in (k, v)
            )  # (B, H_kv, 2S, D)
        y = attend(
            q.transpose(1, 2), k, v, reach, self.dropout if self.training else 0.0
        )  # (B, H, T, D)
        return self.out(y.transpose(1, 2).reshape(batch, length, self.heads * self.head_dim)), own

    def write(self, x: Tensor, rotation: Rotation | None) -> KeysAndValues:
        """Return the keys and values of x (B, T, dim)."""
        k = self._heads(self.k, x, self.kv_heads)
        k = k if self.k_norm is None else self.k_norm(k)
        k = k if rotation is None else rotation(k)
        return k.transpose(1, 2), self._heads(self.v, x, self.kv_heads).transpose(
            1, 2
        )  # (B, H_kv, T, D) each

    def _heads(self, matrix: linear.LinearLayer, x: Tensor, heads: int) -> Tensor:
        return matrix(x).view(x.shape[0], x.shape[1], heads, self.head_dim)  # (B, T, heads, D)
