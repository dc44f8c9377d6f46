"""FLOPs of the backward pass where only a part of a decoder trains; no torch.

The visits are followed as autograd follows them: a product comes back for its input if that has a
gradient, and for its matrix if that trains. So nothing comes back of what stands before the first
tensor that trains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flyweight.config.adapters import Bottleneck, Ia3, Lora, Prefix, TrainedPart
from flyweight.config.linear_kinds import LinearKind
from flyweight.config.schema import Alpha, Deep, Learned, ModelConfig, NoSharing
from flyweight.spec.adapters import Site, site_layers, sites, trained_tensors
from flyweight.spec.linears import Shape, attention_shapes, kind_of, mlp_shapes
from flyweight.spec.visits import Visit, mixes_values, stack_size, unet_sources, visits
from flyweight.spec.windows import scores


def backward_flops(config: ModelConfig, length: int, part: TrainedPart, looped: bool = True) -> int:
    """Return the FLOPs of the backward pass over one sequence of `length` tokens.

    `part` of the resolved config's model trains.
    """
    walk = _Walk(config, length, trained_tensors(config, part))
    return walk.run(looped)


@dataclass
class _Walk:
    """A pass over the visits: what has a gradient so far, and what comes back."""

    config: ModelConfig
    length: int
    moves: Callable[[str], bool]
    per_token: int = 0
    whole: int = 0
    around: dict[str, list[Site]] = field(default_factory=dict)
    at: dict[str, Site] = field(default_factory=dict)
    first_values: bool = False
    """Whether the values of the first use of a layer have a gradient."""

    def run(self, looped: bool) -> int:
        """Return the FLOPs of the backward pass."""
        for site in sites(self.config):
            if isinstance(site.adapter, Lora | Ia3):
                for name in site_layers(site):
                    self.around.setdefault(name, []).append(site)
            self.at[_place(site)] = site
        embedded = self._embedding()
        x = self._blocks(embedded, looped)
        if self.config.norm.final:
            x = x or self.moves("norm.weight")
        self._head(x)
        return 2 * self.length * self.per_token + self.whole

    # --- both ends ---

    def _embedding(self) -> bool:
        config = self.config
        rows = self._trains("embedding.tokens")
        if config.embedding.rank:
            rows = self._matrix("embedding.expand", config.dim, config.embedding.rank, rows)
        bigram = config.embedding.bigram.kind != "none" and self._trains("embedding.bigram")
        positions = isinstance(config.position, Learned)
        return rows or bigram or (positions and self.moves("embedding.positions.weight"))

    def _head(self, x: bool) -> None:
        config = self.config
        vocab = config.vocab_size or 0
        if not config.embedding.tied:
            self._matrix("head.linear", vocab, config.dim, x)
            return
        rank = config.embedding.rank
        if rank:
            x = self._matrix("embedding.expand", config.dim, rank, x)
        self._matrix("embedding.tokens", vocab, rank or config.dim, x)

    # --- blocks ---

    def _blocks(self, embedded: bool, looped: bool) -> bool:
        config, thinking = self.config, self.config.thinking
        x = embedded
        restarts = isinstance(thinking, Deep) and thinking.input == "embedding"
        memory = _Memory(config, self.moves)
        written = dict[int, bool]()
        index = not isinstance(config.sharing, NoSharing) and config.sharing.index
        for visit in visits(config, looped):
            if visit.stack_index == 0 and restarts:
                x = embedded
            x = self._skipped(visit, x, embedded, written)
            x = x or (index and self.moves("index.weight"))
            x = self._block(visit, x, memory)
            written[visit.stack_index] = x
        return x

    def _skipped(self, visit: Visit, x: bool, embedded: bool, written: dict[int, bool]) -> bool:
        """Return whether what a visit reads has a gradient, as `model.skips` puts it together."""
        skips = self.config.skips
        if not visit.stack_index:
            written.clear()
            return x
        if "unet" in skips:
            source = unet_sources(self.config).get(visit.stack_index)
            if source in written:
                x = x or written[source] or self.moves("skips.unet")
        if "embedding" in skips:
            x = x or embedded or self.moves("skips.stream")
        return x

    def _block(self, visit: Visit, x: bool, memory: _Memory) -> bool:
        layer, name = self.config.layer(visit.layer), f"blocks.{visit.layer}"
        pre = self.config.norm.placement == "pre"
        read = x or (pre and self.moves(f"{name}.attention_norm.weight"))
        joint = self._joint(f"{name}.attention.qkv", read)
        shapes = {shape.name: shape for shape in attention_shapes(layer)}
        attention = f"{name}.attention"
        qk_norm = layer.attention.qk_norm
        q = False
        if visit.keys_per_token:
            q = self._linear(f"{attention}.q", shapes["q"], read, joint)
            q = q or (qk_norm and self.moves(f"{attention}.q_norm.weight"))
            q = q or (layer.attention.gain and self.moves(f"{attention}.gain"))
        k = self._linear(f"{attention}.k", shapes["k"], read, joint)
        k = k or (qk_norm and self.moves(f"{attention}.k_norm.weight"))
        v = self._linear(f"{attention}.v", shapes["v"], read, joint)
        if not visit.stack_index:
            self.first_values = v
        elif mixes_values(self.config, visit.layer):
            v = v or self.first_values or self.moves(f"{attention}.value_residual.weight")
        if not visit.keys_per_token:
            memory.store(visit, (k, v))
            return x
        shared = self._shared_prefix(attention)
        y = self._attention(visit, layer, (q, k, v), memory, shared)
        memory.store(visit, (k, v))
        if shared is None:
            y = self._prefix(attention, layer, q) or y
        if layer.attention.gate:
            y = self._linear(f"{attention}.gate", shapes["gate"], read, joint) or y
        y = self._linear(f"{attention}.out", shapes["out"], y, joint)
        y = self._bottleneck(f"{name}.attention_bottleneck", y)
        x = self._joined(f"{name}.attention", x or y)
        read = x or (pre and self.moves(f"{name}.mlp_norm.weight"))
        y = self._mlp(f"{name}.mlp", layer, read)
        y = self._bottleneck(f"{name}.mlp_bottleneck", y)
        return self._joined(f"{name}.mlp", x or y)

    def _joined(self, branch: str, x: bool) -> bool:
        if isinstance(self.config.residual, Alpha):
            x = x or self.moves(f"{branch}_residual.weight")
        if self.config.norm.placement == "post":
            x = x or self.moves(f"{branch}_norm.weight")
        return x

    def _attention(
        self,
        visit: Visit,
        layer: ModelConfig,
        grads: tuple[bool, bool, bool],
        memory: _Memory,
        prefix: Site | None,
    ) -> bool:
        """Count attention's products; a `prefix` stands in one tensor with the text's own keys."""
        q, k, v = grads
        if visit.keys_per_token == 2:
            memory_k, memory_v = memory.grads[visit.stack_index]
            k, v = k or memory_k, v or memory_v
        seen = visit.keys_per_token * scores(layer.attention, self.length)
        if prefix is not None:
            assert isinstance(prefix.adapter, Prefix)
            seen += self.length * prefix.adapter.length
            k, v = k or self._moved(prefix), v or self._moved(prefix)
        self.whole += 2 * _width(layer) * seen * _attention_products(q, k, v)
        return q or k or v

    def _shared_prefix(self, attention: str) -> Site | None:
        """Return the prefix in the softmax of a layer's text, where it has one."""
        site = self.at.get(f"{attention}.prefix")
        if site is None:
            return None
        assert isinstance(site.adapter, Prefix)
        return site if site.adapter.softmax == "shared" else None

    def _prefix(self, attention: str, layer: ModelConfig, q: bool) -> bool:
        site = self.at.get(f"{attention}.prefix")
        if site is None:
            return False
        assert isinstance(site.adapter, Prefix)
        trains = self._moved(site)
        product = 2 * _width(layer) * self.length * site.adapter.length
        self.whole += product * _attention_products(q, trains, trains)
        return q or trains

    def _mlp(self, name: str, layer: ModelConfig, read: bool) -> bool:
        joint = self._joint(f"{name}.gate_up", read)
        grads = {"gate": read, "up": read}
        for shape in mlp_shapes(layer):
            branch = shape.name.split(".")[0]
            if branch not in grads:  # what `down` reads: gate and up are done
                grads[branch] = any(grads.values())
            grads[branch] = self._linear(f"{name}.{shape.name}", shape, grads[branch], joint)
        return grads["down"]

    def _bottleneck(self, name: str, branch: bool) -> bool:
        site = self.at.get(name)
        if site is None:
            return branch
        assert isinstance(site.adapter, Bottleneck)
        trains = self._moved(site)
        size = site.adapter.dim * site.width
        inner = branch or trains
        self.per_token += size * (branch + trains) + size * (inner + trains)
        return inner

    # --- matrices ---

    def _joint(self, name: str, x: bool) -> bool | None:
        """Count the matrix that several layers' LoRA share; return whether its result has one."""
        site = self.at.get(name)
        if site is None:
            return None
        assert isinstance(site.adapter, Lora)
        trains = self._moved(site)
        self.per_token += site.adapter.r * site.reads * (x + trains)
        return x or trains

    def _linear(self, name: str, shape: Shape, x: bool, joint: bool | None = None) -> bool:
        """Count a layer with its adapters; return whether its result has a gradient."""
        return self._through(name, shape, x, self.around.get(name, []), joint)

    def _through(
        self, name: str, shape: Shape, x: bool, around: list[Site], joint: bool | None
    ) -> bool:
        if not around:
            return self._matrix(name, shape.out, shape.in_, x, shape.bias)
        *before, site = around
        trains = self._moved(site)
        if isinstance(site.adapter, Ia3):
            inner = x or (trains and site.scales_input)
            return self._through(name, shape, inner, before, joint) or trains
        assert isinstance(site.adapter, Lora)
        y = self._through(name, shape, x, before, joint)
        rank = site.adapter.r
        low = joint
        if not site.joint:
            self.per_token += rank * shape.in_ * (x + trains)
            low = x or trains
        self.per_token += shape.out * rank * (bool(low) + trains)
        return y or bool(low) or trains

    def _matrix(self, name: str, out: int, in_: int, x: bool, bias: bool = False) -> bool:
        """Count the products of one layer; return whether its result has a gradient."""
        kind = kind_of(self.config, name)
        trains = self._trains(name)
        for product in kind.products(out, in_):
            read = x or (trains and not product.reads_input)
            self.per_token += product.size * (read + (trains and product.trains))
        return x or trains or (bias and self.moves(f"{name}.bias"))

    def _trains(self, name: str) -> bool:
        kind: LinearKind = kind_of(self.config, name)
        return kind.trains and self.moves(f"{name}.weight")

    def _moved(self, site: Site) -> bool:
        return self.moves(site.tensors()[0].name)


class _Memory:
    """Whether the memory of each place has a gradient, in keys and in values."""

    def __init__(self, config: ModelConfig, moves: Callable[[str], bool]) -> None:
        self.config = config
        self.moves = moves
        self.grads: dict[int, tuple[bool, bool]] = {}

    def store(self, visit: Visit, kv: tuple[bool, bool]) -> None:
        """Take a visit's keys and values into its place's memory, as `model.thinking` does."""
        thinking = self.config.thinking
        if not isinstance(thinking, Deep):
            return
        if thinking.memory == "first" and visit.pass_ == 0 and visit.stack_index == 0:
            self.grads = dict.fromkeys(range(stack_size(self.config)), kv)
        elif visit.pass_ < thinking.passes:
            before = self.grads.get(visit.stack_index)
            if before is not None:
                rate = thinking.learned and self.moves(f"blocks.{visit.layer}.rate.weight")
                kv = (before[0] or kv[0] or rate, before[1] or kv[1] or rate)
            self.grads[visit.stack_index] = kv


def _attention_products(q: bool, k: bool, v: bool) -> int:
    """Return how many of the four products of attention's backward pass are needed."""
    return q + k + (q or k) + v


def _width(layer: ModelConfig) -> int:
    return (layer.attention.heads or 0) * (layer.attention.head_dim or 0)


def _place(site: Site) -> str:
    return f"{site.name}.prefix" if isinstance(site.adapter, Prefix) else site.name
