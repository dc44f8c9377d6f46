"""One transformer layer."""

from __future__ import annotations

from torch import Tensor, nn

from flyweight.config.schema import Deep, ModelConfig
from flyweight.model import mlp, norm, residual
from flyweight.model.adapters import BottleneckAdapter
from flyweight.model.attention import AttentionLayer
from flyweight.model.cache import CacheSlot
from flyweight.model.dropout import dropout, stochastic_depth
from flyweight.model.masks import AttentionMask
from flyweight.model.position import Rotation
from flyweight.model.precision import autocast_dtype
from flyweight.model.thinking import KeysAndValues, MemoryRate
from flyweight.spec.visits import depth_rates, mixes_values


class Block(nn.Module):
    """Two residual branches, attention and MLP.

    With `pre` norms each is join(x, F(norm(x))), with `post` ones norm(join(x, F(x))). `index`
    is the number of the layer in its model, whose config is resolved.
    """

    def __init__(self, model: ModelConfig, index: int) -> None:
        super().__init__()
        config, name = model.layer(index), f"blocks.{index}"
        self.attention_norm = norm.build(config.norm, config.dim)
        self.attention = AttentionLayer(config, f"{name}.attention", mixes_values(model, index))
        self.attention_residual = residual.build(config.residual)
        self.mlp_norm = norm.build(config.norm, config.dim)
        self.mlp = mlp.build(config, f"{name}.mlp")
        self.mlp_residual = residual.build(config.residual)
        self.pre = config.norm.placement == "pre"
        self.dropout = dropout(config.dropout.residual)
        self.mlp_dropout = dropout(config.dropout.mlp)
        self.depth = stochastic_depth(depth_rates(model, index))
        self.attention_bottleneck: BottleneckAdapter | None = None
        self.mlp_bottleneck: BottleneckAdapter | None = None
        self.rate: MemoryRate | None = None
        if isinstance(config.thinking, Deep):
            self.rate = MemoryRate(config.thinking)

    def forward(
        self,
        x: Tensor,
        mask: AttentionMask,
        rotation: Rotation | None = None,
        slot: CacheSlot | None = None,
        memory_kv: KeysAndValues | None = None,
        use: int = 0,
        first_values: Tensor | None = None,
    ) -> tuple[Tensor, KeysAndValues]:
        """Return the residual stream after this layer, (B, T, dim) as x, and the keys and values.

        Arguments as attention's.
        """
        read = self._read(x, self.attention_norm)
        branch, kv = self.attention(read, mask, rotation, slot, memory_kv, use, first_values)
        if self.attention_bottleneck is not None:
            branch = self.attention_bottleneck(branch, use)
        x = self._joined(x, branch, self.attention_residual, self.attention_norm, use)
        read = self._read(x, self.mlp_norm)
        if self.mlp_dropout is not None:
            read = self.mlp_dropout(read)
        branch = self.mlp(read, use)
        if self.mlp_bottleneck is not None:
            branch = self.mlp_bottleneck(branch, use)
        return self._joined(x, branch, self.mlp_residual, self.mlp_norm, use), kv

    def project_kv(
        self, x: Tensor, rotation: Rotation | None = None, use: int = 0
    ) -> KeysAndValues:
        """Return only the keys and values of x (B, T, dim)."""
        return self.attention.project_kv(self._read(x, self.attention_norm), rotation, use)

    def _read(self, x: Tensor, norm: nn.Module) -> Tensor:
        """Return what a branch reads.

        Under autocast it is cast once here: autocast itself would do so for each matrix.
        """
        if self.pre:
            x = norm(x)
        return x.to(autocast_dtype(x))

    def _joined(
        self, x: Tensor, branch: Tensor, join: nn.Module, norm: nn.Module, use: int
    ) -> Tensor:
        if self.dropout is not None:
            branch = self.dropout(branch)
        if self.depth is not None:
            branch = self.depth(branch, use)
        x = join(x, branch)
        return x if self.pre else norm(x)
