"""Grouped-query attention through torch's own `scaled_dot_product_attention`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import record_function

from flyweight.config.schema import ModelConfig, RMSNorm as RMSNormConfig
from flyweight.config.speed import AttentionName
from flyweight.model import linear
from flyweight.model.adapters import JointLora, PrefixAdapter, Read, multiply
from flyweight.model.cache import CacheSlot
from flyweight.model.dropout import Dropout, dropout
from flyweight.model.masks import AttentionMask
from flyweight.model.norm import RMSNormLayer
from flyweight.model.position import Rotation
from flyweight.model.residual import ValueResidual
from flyweight.model.thinking import KeysAndValues

WRITTEN_OUT = 512
"""Up to this length the written-out form trains faster on a CPU in bfloat16.

2.8x at 256 tokens, 2x at 512, 0.9x at 1,024.
"""


_KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
_ASKED: ContextVar[AttentionName] = ContextVar("attention", default="auto")

asked_kernel = _ASKED.get
"""Return the kernel of attention that is asked for here and now."""

EAGER_MARK = "flyweight::eager_attention"
"""What a profiler sees where attention is written out because somebody asked for it."""


@contextmanager
def attention_kernel(name: AttentionName) -> Iterator[None]:
    """Compute attention by this kernel inside the context, or by none.

    Where torch has no such kernel for a device or a dtype, its product raises RuntimeError.
    """
    chosen = sdpa_kernel(_KERNELS[name]) if name in _KERNELS else nullcontext()
    token = _ASKED.set(name)
    try:
        with chosen:
            yield
    finally:
        _ASKED.reset(token)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, dropout: Dropout | None = None
) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v under a mask without blocks: (B, H, T, D).

    Queries are (B, H, T, D), keys and values (B, H_kv, S, D).

    torch's fused kernel does it, but for training on short windows in bfloat16 on a CPU: its
    backward does not use the processor's bfloat16 products well there, and plain products with the
    scores kept are faster. Nor can it drop weights by row: those are written out, or given to it a
    row at a time.
    """
    if asked_kernel() == "eager":
        with record_function(EAGER_MARK):
            return _written_out(q, k, v, mask, dropout)
    if dropout is not None and dropout.training:
        if q.is_cuda:
            return _row_by_row(q, k, v, mask, dropout)
        return _written_out(q, k, v, mask, dropout)
    trains = torch.is_grad_enabled() and q.requires_grad
    if (
        trains
        and q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and mask.causal
        and q.shape[2] <= WRITTEN_OUT
    ):
        return _written_out(q, k, v, mask, None)
    return _fused(q, k, v, mask.additive(q.dtype), mask)


def _fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    additive: Tensor | None,
    mask: AttentionMask,
    rate: float = 0.0,
) -> Tensor:
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=additive,
        dropout_p=rate,
        is_causal=mask.causal and not mask.prefix,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _row_by_row(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, dropout: Dropout) -> Tensor:
    """Let the fused kernel drop the weights of each row by itself.

    It keeps no weights, so that dropout takes no memory. The kernel draws from the device's own
    generator, which is as it was afterwards.
    """
    additive = mask.additive(q.dtype)  # (B or 1, 1, T, S)
    rows = []
    with torch.random.fork_rng([q.device]):
        generator = torch.cuda.default_generators[q.get_device()]
        for row, seed in enumerate(dropout.seeds(len(q))):
            generator.manual_seed(seed)
            one = slice(row, row + 1)
            own = additive
            if additive is not None and len(additive) > 1:
                own = additive[one]
            rows.append(_fused(q[one], k[one], v[one], own, mask, dropout.rate))
    return torch.cat(rows)


def _written_out(
    q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, dropout: Dropout | None
) -> Tensor:
    """Compute the weights in plain products, and keep them for the backward pass."""
    batch, heads, length, size = q.shape
    if heads != k.shape[1]:
        k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))  # (B, H, S, D)
    added = _added(mask, q, k.shape[2]).expand(batch, heads, length, -1).flatten(0, 1)
    q, k, v = (x.reshape(batch * heads, -1, size) for x in (q, k, v))
    scores = torch.baddbmm(added, q, k.mT, alpha=size**-0.5)  # (B * H, T, S)
    weights = scores.softmax(-1)
    if dropout is not None:
        del scores
        weights = dropout(weights.unflatten(0, (batch, heads))).flatten(0, 1)
    return (weights @ v).view(batch, heads, length, size)


def _added(mask: AttentionMask, q: Tensor, keys: int) -> Tensor:
    """Return what is added to the scores of queries (B, H, T, D), 0 or -inf.

    Its shape is (B or 1, 1, T or 1, keys).
    """
    additive = mask.additive(q.dtype)
    if additive is not None:
        return additive
    length = q.shape[2]
    if mask.causal:
        return torch.full((1, 1, length, length), -torch.inf, dtype=q.dtype, device=q.device).triu(
            1
        )
    return q.new_zeros(1, 1, 1, keys)


class AttentionLayer(nn.Module):
    """Queries of `heads` heads attend to keys and values of `kv_heads` (Ainslie et al. 2023).

    With a `window` each attends to the last so many tokens, and to the first `sinks`. One that
    `mixes_values` reads those of the first use of a layer, too.
    """

    def __init__(self, config: ModelConfig, name: str, mixes_values: bool = False) -> None:
        super().__init__()
        options = config.attention
        assert options.heads and options.kv_heads and options.head_dim
        assert options.out_bias is not None
        self.heads = options.heads
        self.kv_heads = options.kv_heads
        self.head_dim = options.head_dim
        self.window = options.window
        self.sinks = options.sinks
        self.dropout = dropout(config.dropout.attention)
        wide = self.heads * self.head_dim
        narrow = self.kv_heads * self.head_dim
        self.q = linear.build_linear(config, f"{name}.q", config.dim, wide, options.bias)
        self.k = linear.build_linear(config, f"{name}.k", config.dim, narrow, options.bias)
        self.v = linear.build_linear(config, f"{name}.v", config.dim, narrow, options.bias)
        self.gate: linear.LinearLayer | None = None
        if options.gate:
            self.gate = linear.build_linear(config, f"{name}.gate", config.dim, self.heads)
        self.out = linear.build_linear(config, f"{name}.out", wide, config.dim, options.out_bias)
        self.q_norm: RMSNormLayer | None = None
        self.k_norm: RMSNormLayer | None = None
        if options.qk_norm:
            norm = RMSNormConfig(eps=options.qk_norm_eps)
            self.q_norm = RMSNormLayer(norm, self.head_dim)
            self.k_norm = RMSNormLayer(norm, self.head_dim)
        self.qkv: JointLora | None = None
        self.prefix: PrefixAdapter | None = None
        self.gain: nn.Parameter | None = None
        if options.gain:
            self.gain = nn.Parameter(torch.empty(self.heads))
        self.value_residual = ValueResidual() if mixes_values else None

    def forward(
        self,
        x: Tensor,
        mask: AttentionMask,
        rotation: Rotation | None,
        slot: CacheSlot | None,
        memory_kv: KeysAndValues | None = None,
        use: int = 0,
        first_values: Tensor | None = None,
    ) -> tuple[Tensor, KeysAndValues]:
        """Return what each position reads, (B, T, dim), and its keys and values.

        A position reads those that it may see.

        `memory_kv` is the memory's part of these tokens. Read with it, the cache holds both, side
        by side in the last dimension. `use` counts the visits of the layer, for its adapters.
        `first_values` (B, H_kv, T, D) are those of the first use of a layer, where this is a later
        one.
        """
        batch, length, _ = x.shape
        read = self._joint(x, use)
        q = self._heads(self.q, x, self.heads, read)  # (B, T, H, D)
        if self.q_norm is not None:
            q = self.q_norm(q)
        unrotated = q
        if rotation is not None:
            q = rotation(q)
        if self.gain is not None:
            q = q * self.gain[:, None]
        q = q.transpose(1, 2)  # (B, H, T, D)
        kv = self._project_kv(x, rotation, read)  # (B, H_kv, T, D) each
        k, v = kv
        if self.value_residual is not None and first_values is not None:
            v = self.value_residual(v, first_values)
        if memory_kv is not None:
            k = torch.cat((memory_kv[0], k), -1)  # (B, H_kv, T, 2D)
            v = torch.cat((memory_kv[1], v), -1)
        if slot is not None:
            k, v = slot.extend(k, v)  # (B, H_kv, S, D or 2D)
        front = None
        if self.prefix is not None and self.prefix.shared:
            front = self.prefix.in_front(k, use)
        y = self._read(q, k, v, mask, front)  # (B, H, T, D)
        if self.prefix is not None and not self.prefix.shared:
            y = y + self._read_prefix(self.prefix, unrotated, use)
        y = y.transpose(1, 2)  # (B, T, H, D)
        if self.gate is not None:
            y = y * (2 * multiply(self.gate, x, read).sigmoid()).unsqueeze(-1)
        y = y.reshape(batch, length, self.heads * self.head_dim)
        return multiply(self.out, y, read), kv

    def project_kv(self, x: Tensor, rotation: Rotation | None, use: int = 0) -> KeysAndValues:
        """Return the keys and values of x (B, T, dim): (B, H_kv, T, D) each."""
        return self._project_kv(x, rotation, self._joint(x, use))

    def _joint(self, x: Tensor, use: int) -> Read:
        """Return what the matrices' adapters are given: a joint LoRA reads x once for all."""
        return Read(use, None if self.qkv is None else self.qkv.lora.reduced(x, use))

    def _read_prefix(self, prefix: PrefixAdapter, q: Tensor, use: int) -> Tensor:
        """Return what queries (B, T, H, D), not rotated, read of a prefix: (B, H, T, D)."""
        if self.gain is not None:
            q = q * self.gain[:, None]
        return prefix(q.transpose(1, 2), use)

    def _project_kv(self, x: Tensor, rotation: Rotation | None, read: Read) -> KeysAndValues:
        k = self._heads(self.k, x, self.kv_heads, read)
        if self.k_norm is not None:
            k = self.k_norm(k)
        if rotation is not None:
            k = rotation(k)
        v = self._heads(self.v, x, self.kv_heads, read)
        return k.transpose(1, 2), v.transpose(1, 2)

    def _read(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: AttentionMask,
        front: KeysAndValues | None,
    ) -> Tensor:
        """Return what queries (B, H, T, D) read of keys and values (B, H_kv, S, D or 2D).

        `front` are those of a prefix in front of them, (B, H_kv, length, D) each.
        """
        before_k, before_v = (None, None) if front is None else front
        if not mask.blocks:
            return attend(q, self._apart(k, before_k), self._apart(v, before_v), mask, self.dropout)
        parts = [
            attend(
                q[:, :, block.queries],
                self._apart(block.select(k), before_k),
                self._apart(block.select(v), before_v),
                block.mask,
                self.dropout,
            )
            for block in mask.blocks
        ]
        return torch.cat(parts, 2)

    def _apart(self, keys: Tensor, before: Tensor | None) -> Tensor:
        """Return the keys of memory and pass in turn: (B, H_kv, S, 2D) -> (B, H_kv, 2S, D).

        Those of a prefix stand before them.
        """
        if keys.shape[3] != self.head_dim:
            keys = keys.reshape(keys.shape[0], self.kv_heads, -1, self.head_dim)
        return keys if before is None else torch.cat((before, keys), 2)

    def _heads(self, matrix: linear.LinearLayer, x: Tensor, heads: int, read: Read) -> Tensor:
        y = multiply(matrix, x, read)
        return y.view(x.shape[0], x.shape[1], heads, self.head_dim)  # (B, T, heads, D)
