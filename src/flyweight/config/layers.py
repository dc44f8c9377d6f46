"""What a layer is made of: attention, MLP, norm, residual and positions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field

from flyweight.config.base import Between, PositiveInt, Rate, Strict, added, choice

# --- positions ---


class Learned(Strict):
    """A learned vector per position, added to the token embedding (GPT-2)."""

    kind: Literal["learned"] = "learned"


class RopeScaling(Strict):
    """How rotary frequencies are stretched beyond the context they were trained for.

    `linear` divides every frequency by `factor`; `ntk` raises the base instead; `llama3`
    interpolates between both by wavelength, as Llama 3.1 does.
    """

    kind: Literal["linear", "ntk", "llama3"]
    factor: Annotated[float, Field(ge=1)]
    low_frequency_factor: Rate = 1.0
    high_frequency_factor: Rate = 4.0
    original_context: PositiveInt = 8192


class Rope(Strict):
    """Rotary positions (Su et al. 2021) on the first `fraction` of every head's channels."""

    kind: Literal["rope"] = "rope"
    base: Annotated[float, Field(gt=1)] = 10_000.0
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    scaling: RopeScaling | None = None


class Sinusoidal(Strict):
    """Sines and cosines of the position, added to the token embedding (Vaswani et al. 2017).

    They have no parameters.
    """

    kind: Literal["sinusoidal"] = "sinusoidal"
    base: Annotated[float, Field(gt=1)] = 10_000.0


class NoPosition(Strict):
    """No positions: only the causal mask tells order (Kazemnejad et al. 2023)."""

    kind: Literal["none"] = "none"


Position = Annotated[
    Annotated[Learned | Rope | Sinusoidal | NoPosition, Discriminator("kind")], choice("rope")
]

# --- norms ---


class _Norm(Strict):
    """`pre` normalises what a branch reads, `post` the sum after it.

    `final` normalises what the head reads.
    """

    placement: Literal["pre", "post"] = "pre"
    final: bool = True


class LayerNorm(_Norm):
    """Mean and variance normalisation with a learned scale and, unless `bias` is off, shift."""

    kind: Literal["layernorm"] = "layernorm"
    eps: Rate = 1e-5
    bias: bool = True


class RMSNorm(_Norm):
    """Root-mean-square normalisation with a learned scale (Zhang and Sennrich 2019)."""

    kind: Literal["rmsnorm"] = "rmsnorm"
    eps: Rate = 1e-6


Norm = Annotated[Annotated[LayerNorm | RMSNorm, Discriminator("kind")], choice("rmsnorm")]

# --- residual branches ---


class Add(Strict):
    """x + F(x)."""

    kind: Literal["add"] = "add"


class Alpha(Strict):
    """Residual a * x + (1 - a) * F(x) with a = sigmoid(w).

    A layer learns two scalars w. Each a begins at `start`.
    """

    kind: Literal["alpha"] = "alpha"
    start: Between = 0.5


Residual = Annotated[Annotated[Add | Alpha, Discriminator("kind")], choice()]


def _named_once(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise ValueError(f"{', '.join(value)}: each is named once at most")
    return tuple(sorted(value))


Skips = Annotated[
    tuple[Literal["unet", "embedding"], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    AfterValidator(_named_once),
]
"""Connections past layers, with learned scalars.

`unet` adds what a layer of the first half puts out, times a scalar from 1 on, to what its mirror
in the second half reads. With `embedding` each layer but the first reads a * the stream + b * the
embedding, with a from 1 and b from 0 on.
"""

# --- position-wise networks ---


class MlpOptions(Strict):
    """`hidden` is 4 * dim unless named.

    `rank` makes every matrix a product of two through so many channels.
    """

    hidden: PositiveInt | None = None
    bias: bool = False
    rank: PositiveInt | None = None

    def width(self, dim: int) -> int:
        """Return the hidden channels in a model of this width."""
        return self.hidden or 4 * dim


class _Gated(MlpOptions):
    """A gate beside the up-projection.

    `hidden` defaults to 8/3 of dim, rounded up to a multiple of 32.
    """

    def width(self, dim: int) -> int:
        """Return the hidden channels in a model of this width."""
        return self.hidden or -(-8 * dim // 96) * 32


class Gelu(MlpOptions):
    """Up, GELU, down; `approximate: tanh` is GPT-2's."""

    kind: Literal["gelu"] = "gelu"
    approximate: Literal["none", "tanh"] = "none"


class Relu(MlpOptions):
    """Up, ReLU, down."""

    kind: Literal["relu"] = "relu"


class Relu2(MlpOptions):
    """Up, squared ReLU, down (Primer, So et al. 2021)."""

    kind: Literal["relu2"] = "relu2"


class SwiGLU(_Gated):
    """silu(gate) * up, down (Shazeer 2020)."""

    kind: Literal["swiglu"] = "swiglu"


class GeGLU(_Gated):
    """gelu(gate) * up, down (Shazeer 2020)."""

    kind: Literal["geglu"] = "geglu"
    approximate: Literal["none", "tanh"] = "none"


class DoubleRelu(_Gated):
    """relu(gate) * relu(up), down: the compact ladder's double up-projection."""

    kind: Literal["double_relu"] = "double_relu"


class DoubleSilu(_Gated):
    """silu(gate) * silu(up), down: what the compact ladder calls SwiGLU."""

    kind: Literal["double_silu"] = "double_silu"


GATED = ("swiglu", "geglu", "double_relu", "double_silu")
Mlp = Annotated[
    Annotated[
        Gelu | Relu | Relu2 | SwiGLU | GeGLU | DoubleRelu | DoubleSilu, Discriminator("kind")
    ],
    choice("swiglu"),
]

# --- attention ---


class Attention(Strict):
    """Grouped-query attention. `gain` learns one factor on the queries of each head.

    `out_bias` follows `bias`. With a `window` a token attends to the last `window` tokens, itself
    among them (Beltagy et al. 2020), and to the first `sinks` tokens of its text (Xiao et al.
    2023). With `value_residual` later uses of layers mix the values of the first one with their
    own: a * own + b * first (Zhou et al. 2024). Each layer learns a and b, from 0.5 on. `gate`
    multiplies what each head has read by 2 * sigmoid(w x), with a learned row w for each head,
    which begins at zero, and the layer's input x (Qiu et al. 2025). What is off of these is left
    out of what is written.
    """

    heads: PositiveInt | None = None
    kv_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    bias: bool = False
    out_bias: bool | None = None
    qk_norm: bool = False
    qk_norm_eps: Rate = 1e-6
    gain: bool = False
    window: PositiveInt | None = added(None)
    sinks: Annotated[int, Field(ge=0, lt=2**31)] = added(0)
    value_residual: bool = added(False)
    gate: bool = added(False)
