"""Grouped-query attention through torch's own `scaled_dot_product_attention`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config.schema import ModelConfig, RMSNorm as RMSNormConfig
from flyweight.model import linear
from flyweight.model.cache import CacheSlot
from flyweight.model.masks import AttentionMask
from flyweight.model.norm import RMSNorm
from flyweight.model.position import Rotation
from flyweight.model.thinking import KeysAndValues

WRITTEN_OUT = 512
"""Up to this length the written-out form trains faster on a CPU in bfloat16.

2.8x at 256 tokens, 2x at 512, 0.9x at 1,024.
"""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, dropout: float = 0.0) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v under a mask without blocks: (B, H, T, D).

    Queries are (B, H, T, D), keys and values (B, H_kv, S, D).

    torch's fused kernel does it, but for training on short windows in bfloat16 on a CPU: its
    backward does not use the processor's bfloat16 products well there, and plain products with the
    scores kept are faster.
    """
    trains = torch.is_grad_enabled() and q.requires_grad
    if (
        trains
        and q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and mask.causal
        and q.shape[2] <= WRITTEN_OUT
    ):
        return _written_out(q, k, v, dropout)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask.additive(q.dtype),
        dropout_p=dropout,
        is_causal=mask.causal,
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
    weights = scores.softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return (weights @ v).view(batch, heads, length, size)


class Attention(nn.Module):
    """Queries of `heads` heads attend to keys and values of `kv_heads` (Ainslie et al. 2023).

    With a `window` each attends to the last so many tokens, and to the first `sinks`.
    """

    def __init__(self, config: ModelConfig, name: str) -> None:
        super().__init__()
        options = config.attention
        assert options.heads and options.kv_heads and options.head_dim
        assert options.out_bias is not None
        self.heads = options.heads
        self.kv_heads = options.kv_heads
        self.head_dim = options.head_dim
        self.window = options.window
        self.sinks = options.sinks
        self.dropout = config.dropout.attention
        wide = self.heads * self.head_dim
        narrow = self.kv_heads * self.head_dim
        self.q = linear.build_linear(config, f"{name}.q", config.dim, wide, options.bias)
        self.k = linear.build_linear(config, f"{name}.k", config.dim, narrow, options.bias)
        self.v = linear.build_linear(config, f"{name}.v", config.dim, narrow, options.bias)
        self.out = linear.build_linear(config, f"{name}.out", wide, config.dim, options.out_bias)
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if options.qk_norm:
            norm = RMSNormConfig(eps=options.qk_norm_eps)
            self.q_norm = RMSNorm(norm, self.head_dim)
            self.k_norm = RMSNorm(norm, self.head_dim)
        self.gain: nn.Parameter | None = None
        if options.gain:
            self.gain = nn.Parameter(torch.empty(self.heads))

    def forward(
        self,
        x: Tensor,
        mask: AttentionMask,
        rotation: Rotation | None,
        slot: CacheSlot | None,
        memory_kv: KeysAndValues | None = None,
    ) -> tuple[Tensor, KeysAndValues]:
        """Return what each position reads, (B, T, dim), and its keys and values.

        A position reads those that it may see.

        `memory_kv` is the memory's part of these tokens. Read with it, the cache holds both, side
        by side in the last dimension.
        """
        batch, length, _ = x.shape
        q = self._heads(self.q, x, self.heads)  # (B, T, H, D)
        if self.q_norm is not None:
            q = self.q_norm(q)
        if rotation is not None:
            q = rotation(q)
        if self.gain is not None:
            q = q * self.gain[:, None]
        q = q.transpose(1, 2)  # (B, H, T, D)
        kv = self.project_kv(x, rotation)  # (B, H_kv, T, D) each
        k, v = kv
        if memory_kv is not None:
            k = torch.cat((memory_kv[0], k), -1)  # (B, H_kv, T, 2D)
            v = torch.cat((memory_kv[1], v), -1)
        if slot is not None:
            k, v = slot.extend(k, v)  # (B, H_kv, S, D or 2D)
        y = self._read(q, k, v, mask)  # (B, H, T, D)
        return self.out(y.transpose(1, 2).reshape(batch, length, self.heads * self.head_dim)), kv

    def project_kv(self, x: Tensor, rotation: Rotation | None) -> KeysAndValues:
        """Return the keys and values of x (B, T, dim): (B, H_kv, T, D) each."""
        k = self._heads(self.k, x, self.kv_heads)
        if self.k_norm is not None:
            k = self.k_norm(k)
        if rotation is not None:
            k = rotation(k)
        v = self._heads(self.v, x, self.kv_heads)
        return k.transpose(1, 2), v.transpose(1, 2)

    def _read(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
        """Return what queries (B, H, T, D) read of keys and values (B, H_kv, S, D or 2D)."""
        dropout = self.dropout if self.training else 0.0
        if not mask.blocks:
            return attend(q, self._apart(k), self._apart(v), mask, dropout)
        parts = [
            attend(
                q[:, :, block.queries],
                self._apart(block.select(k)),
                self._apart(block.select(v)),
                block.mask,
                dropout,
            )
            for block in mask.blocks
        ]
        return torch.cat(parts, 2)

    def _apart(self, keys: Tensor) -> Tensor:
        """Return the keys of memory and pass in turn: (B, H_kv, S, 2D) -> (B, H_kv, 2S, D)."""
        if keys.shape[3] == self.head_dim:
            return keys
        return keys.reshape(keys.shape[0], self.kv_heads, -1, self.head_dim)

    def _heads(self, matrix: linear.LinearLayer, x: Tensor, heads: int) -> Tensor:
        return matrix(x).view(x.shape[0], x.shape[1], heads, self.head_dim)  # (B, T, heads, D)
