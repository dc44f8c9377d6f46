"""One new token of some texts through all layers of a decoder by compiled code: `step.c`.

With small matrices, most of a token's time is Python between products and not the products. So the
layers of an ordinary decoder are walked in C, and so are shared layers with an index, MLPs with a
bottleneck and LoRA. What it does not know is left to torch: windows, thinking, other adapters,
residual branches with weights, norms after the sum.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from torch import Tensor, contiguous_format, float32, nn
from torch.profiler import record_function

from flyweight.model import kernels, mlp
from flyweight.model.adapters import LayerAdapter, LoraPart
from flyweight.model.attention import AttentionLayer
from flyweight.model.block import Block
from flyweight.model.cache import KVCache
from flyweight.model.linear import LowRank
from flyweight.model.linear_layer import LinearLayer
from flyweight.model.norm import LayerNormLayer, RMSNormLayer
from flyweight.model.position import PairRotation, Rotation, RotationBySize
from flyweight.model.residual import AddResidual
from flyweight.model.skips import Skips

MARK = "flyweight::compiled_step"
"""What a profiler sees of a compiled step."""

_NOTHING, _GELU, _GELU_TANH, _RELU, _RELU_SQUARED, _SILU = range(6)


class _Norm(ctypes.Structure):
    """The struct `norm` of `step.c`."""

    _fields_ = (
        ("has_mean", ctypes.c_int64),
        ("eps", ctypes.c_double),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class _Linear(ctypes.Structure):
    """The struct `linear` of `step.c`."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("matrix", "a", "b"))


_ATTENTION = ("q", "k", "v", "out")
_MLP = ("gate", "up", "down")
_REDUCE = tuple(f"{name}_reduce" for name in _MLP)
_MATRICES = (*_ATTENTION, "head_gate", *_MLP, *_REDUCE)


class _Layer(ctypes.Structure):
    """The struct `layer` of `step.c`."""

    _fields_ = (
        *((name, _Norm) for name in ("attention_norm", "mlp_norm", "q_norm", "k_norm")),
        *((name, _Linear) for name in _MATRICES),
        *((n, ctypes.c_int64) for n in ("heads", "kv_heads", "head_dim", "of_gate", "of_up")),
        *((name, ctypes.c_void_p) for name in ("gain", "cos", "sin")),
        *((name, ctypes.c_int64) for name in ("channels", "stride", "room")),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "mix", "first")),
        *((name, ctypes.c_void_p) for name in ("unet", "stream", "embedding", "index")),
        *((name, ctypes.c_int64) for name in ("source", "kept")),
    )


class Step:
    """One new token of some texts through blocks that stay where they are while this is used."""

    def __init__(
        self,
        blocks: Sequence[Block],
        engine: kernels.Engine,
        skips: Skips | None = None,
        index: Tensor | None = None,
    ) -> None:
        self.threads = engine.threads
        self.held = [_Held(block, engine) for block in blocks]
        self.layers = (_Layer * len(blocks))(*(held.layer() for held in self.held))
        self.layers[0].mix = None  # it has the values that others mix with theirs
        self.streams = 0 if skips is None else _connect(self.layers, skips)
        if index is not None:
            for layer, vector in zip(self.layers, index, strict=True):
                layer.index = vector.data_ptr()
        sizes = [block.attention for block in blocks]
        self.wide = max(each.heads * each.head_dim for each in sizes)
        self.hidden = max(held.linears["up"].out for held in self.held)
        self.low = max(held.rank for held in self.held)
        self.added = max(linear.added for held in self.held for linear in held.linears.values())
        self.at = ctypes.addressof(self.layers)
        self.run = kernels.library().step

    def __call__(
        self, x: Tensor, cache: KVCache, rotation: Rotation | None, starts: Tensor | None
    ) -> Tensor:
        """Return the residual stream (B, 1, dim) after all layers, and fill their cache slots.

        x (B, 1, dim) is what the first layer reads. `starts` (B,) are the columns of the first
        tokens of padded rows.
        """
        with record_function(MARK):
            y = x.clone(memory_format=contiguous_format)
            turns: list[PairRotation | None] = []  # keeps the factors where they are
            for index, layer in enumerate(self.layers):
                turns.append(_rotation_of(rotation, layer.head_dim))
                _place(layer, cache, index, turns[-1])
            where = None if starts is None else starts.data_ptr()
            widths = (x.shape[2], self.wide, self.hidden, self.low, self.added)
            sizes = (len(x), *widths, cache.length, self.streams)
            if self.run(self.at, len(self.layers), y.data_ptr(), *sizes, where, self.threads):
                raise MemoryError("no memory for a decode step")
            return y


def _connect(layers: ctypes.Array[_Layer], skips: Skips) -> int:
    """Say which streams layers read and keep; return how many are kept, with the embedding's."""
    slots = {place: slot for slot, place in enumerate(skips.sources.values(), start=1)}
    for place, layer in enumerate(layers):
        layer.kept = slots.get(place, 0)
        if place in skips.sources:
            assert skips.unet is not None
            layer.source = slots[skips.sources[place]]
            layer.unet = skips.unet[skips.rows[place]].data_ptr()
        if place and skips.stream is not None and skips.embedding is not None:
            layer.stream = skips.stream[place - 1].data_ptr()
            layer.embedding = skips.embedding[place - 1].data_ptr()
    return len(slots) + 1


def _rotation_of(rotation: Rotation | None, head_dim: int) -> PairRotation | None:
    if isinstance(rotation, RotationBySize):
        rotation = rotation.sizes[head_dim]
    assert rotation is None or isinstance(rotation, PairRotation)
    return rotation


def _place(layer: _Layer, cache: KVCache, index: int, turn: PairRotation | None) -> None:
    """Say where a layer's keys and values are, and the factors of this token's position."""
    keys, values = cache.keys[index], cache.values[index]
    layer.keys, layer.values, layer.room = keys.data_ptr(), values.data_ptr(), keys.shape[2]
    layer.first = cache.values[0].data_ptr()
    if turn is not None:
        layer.cos, layer.sin = turn.cos.data_ptr(), turn.sin.data_ptr()
        layer.channels = turn.cos.shape[-1]
        layer.stride = layer.channels if turn.cos.dim() == 4 else 0


class _Held:
    """A block's tensors and products, whose addresses a `_Layer` holds."""

    def __init__(self, block: Block, engine: kernels.Engine) -> None:
        self.block = block
        self.linears = {
            name: _HeldLinear(layer, engine) for name, layer in _matrices(block).items()
        }
        gain = block.attention.gain
        self.gain = None if gain is None else gain.detach().contiguous()

    @property
    def rank(self) -> int:
        """The width of the widest bottleneck; 0 where there is none."""
        ranks = [self.linears[name].out for name in _REDUCE if name in self.linears]
        return max(ranks, default=0)

    def layer(self) -> _Layer:
        """Return the struct, which has no cache and no position yet."""
        attention = self.block.attention
        of_gate, of_up = _activations(self.block.mlp)
        mixed = attention.value_residual
        found = _Layer(
            attention_norm=_norm(self.block.attention_norm),
            mlp_norm=_norm(self.block.mlp_norm),
            q_norm=_norm(attention.q_norm),
            k_norm=_norm(attention.k_norm),
            heads=attention.heads,
            kv_heads=attention.kv_heads,
            head_dim=attention.head_dim,
            of_gate=of_gate,
            of_up=of_up,
            gain=None if self.gain is None else self.gain.data_ptr(),
            mix=None if mixed is None else mixed.weight.data_ptr(),
        )
        for name, linear in self.linears.items():
            setattr(found, name, linear.struct())
        return found


class _HeldLinear:
    """The product of a matrix, and those of its LoRA, where it has one."""

    def __init__(self, layer: LinearLayer, engine: kernels.Engine) -> None:
        product = engine.bound(layer)
        assert product is not None
        self.product = product
        self.lora: tuple[kernels.Product, ...] = ()
        for part in layer.adapters:
            assert isinstance(part, LoraPart)
            self.lora = tuple(_dense(matrix, engine) for matrix in part.matrices(0))

    @property
    def out(self) -> int:
        """The width of what it makes."""
        return self.product.out

    @property
    def added(self) -> int:
        """The numbers that a row of its LoRA needs: what it adds, and its rank."""
        return sum(product.out for product in self.lora)

    def struct(self) -> _Linear:
        """Return the addresses."""
        return _Linear(self.product.at, *(product.at for product in self.lora))


def _dense(matrix: Tensor, engine: kernels.Engine) -> kernels.Product:
    """Return the product of a float32 matrix (out, in), which it keeps."""
    stored = kernels.dense_stored(matrix.detach().contiguous())
    assert stored is not None
    return kernels.Product(stored, None, engine.threads)


def _norm(layer: nn.Module | None) -> _Norm:
    if layer is None:
        return _Norm()
    assert isinstance(layer, LayerNormLayer | RMSNormLayer)
    has_mean = isinstance(layer, LayerNormLayer)
    bias = layer.bias if isinstance(layer, LayerNormLayer) else None
    at = None if bias is None else bias.data_ptr()
    return _Norm(has_mean, layer.eps, layer.weight.data_ptr(), at)


def _activations(network: mlp.Mlp) -> tuple[int, int]:
    """Return what is done to the gate and to what goes up, as `step.c` numbers it."""
    if isinstance(network, mlp.GeluMlp | mlp.GeGLUMlp):
        kind = _GELU_TANH if network.approximate == "tanh" else _GELU
        return (kind, _NOTHING) if isinstance(network, mlp.GeGLUMlp) else (_NOTHING, kind)
    return _ACTIVATIONS[type(network)]


_ACTIVATIONS: dict[type[mlp.Mlp], tuple[int, int]] = {
    mlp.ReluMlp: (_NOTHING, _RELU),
    mlp.Relu2Mlp: (_NOTHING, _RELU_SQUARED),
    mlp.SwiGLUMlp: (_SILU, _NOTHING),
    mlp.DoubleReluMlp: (_RELU, _RELU),
    mlp.DoubleSiluMlp: (_SILU, _SILU),
}
_KNOWN = (mlp.GeluMlp, mlp.GeGLUMlp, *_ACTIVATIONS)


def _matrices(block: Block) -> dict[str, LinearLayer]:
    """Return a block's matrices by their place, whatever has been put around them."""
    found = {name: getattr(block.attention, name) for name in _ATTENTION}
    found["head_gate"] = block.attention.gate
    for name, reduce in zip(_MLP, _REDUCE, strict=True):
        layer = getattr(block.mlp, name)
        if isinstance(layer, LowRank):
            found[reduce] = layer.reduce
            layer = layer.expand
        found[name] = layer
    return {name: layer for name, layer in found.items() if layer is not None}


def fits(x: Tensor, cache: KVCache) -> bool:
    """Return whether a step can be taken by tokens x (B, 1, dim) after those of a cache."""
    held = bool(cache.keys) and cache.keys[0].dtype is float32
    return held and x.dtype is float32 and x.is_cpu and len(x) <= kernels.MOST_ROWS


def step_of(
    engine: kernels.Engine,
    model: nn.Module,
    visited: Callable[[], Sequence[Block]],
    skips: Skips | None = None,
    index: Tensor | None = None,
) -> Step | None:
    """Return the compiled step of a model; None where there is none.

    `visited` returns its blocks in the order of its visits, one for each place of the stack.
    `index` (places, dim) is what each of these places adds to the stream.
    """
    if model not in engine.steps:
        blocks = visited()
        known = all(not refusal(block, engine) for block in blocks)
        if skips is not None:
            known = known and all(_plain(scalars) for scalars in skips.parameters())
        if index is not None:
            known = known and _plain(index)
        engine.steps[model] = Step(blocks, engine, skips, index) if known and blocks else None
    step = engine.steps[model]
    return step if isinstance(step, Step) else None


def refusal(block: Block, engine: kernels.Engine) -> str:
    """Return why a block cannot be walked in C; empty where it can."""
    attention = block.attention
    around = (block.attention_bottleneck, block.mlp_bottleneck, attention.prefix)
    if block.rate is not None or attention.window is not None:
        return "its attention has a memory or a window"
    if any(each is not None for each in around):
        return "it has adapters beside its matrices"
    joins = (block.attention_residual, block.mlp_residual)
    if not block.pre or not all(type(join) is AddResidual for join in joins):
        return "its branches do not just add up"
    if type(attention) is not AttentionLayer or type(block.mlp) not in _KNOWN:
        return "its layers are not known"
    if any(each._forward_hooks or each._forward_pre_hooks for each in block.modules()):
        return "somebody looks at what its modules compute"
    if any(not _plain(tensor) for tensor in block.parameters()):
        return "its numbers are not float32 in this machine's memory"
    if any(not _bound(layer, engine) for layer in _matrices(block).values()):
        return "a matrix is not one that compiled products read as it is"
    return ""


def _plain(tensor: Tensor) -> bool:
    return tensor.dtype is float32 and tensor.is_cpu and tensor.is_contiguous()


def _bound(layer: nn.Module, engine: kernels.Engine) -> bool:
    if not isinstance(layer, LinearLayer) or not _at_most_a_lora(layer.adapters):
        return False
    return getattr(layer, "rounding", None) is None and engine.bound(layer) is not None


def _at_most_a_lora(adapters: tuple[LayerAdapter, ...]) -> bool:
    """Return whether a matrix has no adapters, or one LoRA that is the same in every visit."""
    if not adapters:
        return True
    part = adapters[0]
    plain = isinstance(part, LoraPart) and part.lora.copies is None and part.lora.magnitude is None
    return plain and len(adapters) == 1
