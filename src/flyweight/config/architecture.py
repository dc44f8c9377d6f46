"""One decoder as frozen, validated fields: everything needed to build it, count it and cost it.

A choice (`mlp`, `norm`, `position`, ...) is a name or a name with options: `mlp: swiglu` or `mlp: {kind: swiglu, hidden: 683}`.
Every constant that changes an output is a field. `None` means "derived"; `ModelConfig.resolved` writes the numbers out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, model_validator

from flyweight.config.rules import model_faults


class Strict(BaseModel):
    """Base of all configs: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def choice(default: str | None = None) -> BeforeValidator:
    """Let a bare name stand for `{kind: name}`, and options without a kind for those of the default kind."""

    def read(value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, dict) and default and "kind" not in value:
            return {"kind": default, **value}
        return value

    return BeforeValidator(read)


# Bounds that no machine reaches, so that what is counted from them stays a number and is counted in time.
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
Depth = Annotated[int, Field(ge=0, le=10_000)]
Times = Annotated[int, Field(ge=2, le=1_000)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Learned(Strict):
    """A learned vector per position, added to the token embedding (GPT-2)."""

    kind: Literal["learned"] = "learned"


class RopeScaling(Strict):
    """How rotary frequencies are stretched beyond the context they were trained for.

    `linear` divides every frequency by `factor`; `ntk` raises the base instead; `llama3` interpolates between both by
    wavelength, as Llama 3.1 does.
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


Position = Annotated[Annotated[Learned | Rope, Discriminator("kind")], choice("rope")]


class LayerNorm(Strict):
    """Mean and variance normalisation with a learned scale and, unless `bias` is off, shift."""

    kind: Literal["layernorm"] = "layernorm"
    eps: Rate = 1e-5
    bias: bool = True


class RMSNorm(Strict):
    """Root-mean-square normalisation with a learned scale (Zhang and Sennrich 2019)."""

    kind: Literal["rmsnorm"] = "rmsnorm"
    eps: Rate = 1e-6


Norm = Annotated[Annotated[LayerNorm | RMSNorm, Discriminator("kind")], choice("rmsnorm")]


class Gelu(Strict):
    """Up, GELU, down; `approximate: tanh` is GPT-2's."""

    kind: Literal["gelu"] = "gelu"
    approximate: Literal["none", "tanh"] = "none"
    hidden: PositiveInt | None = None
    bias: bool = False


class Relu2(Strict):
    """Up, squared ReLU, down (Primer, So et al. 2021)."""

    kind: Literal["relu2"] = "relu2"
    hidden: PositiveInt | None = None
    bias: bool = False


class SwiGLU(Strict):
    """silu(gate) * up, down (Shazeer 2020); `hidden` defaults to 8/3 of dim, rounded up to a multiple of 32."""

    kind: Literal["swiglu"] = "swiglu"
    hidden: PositiveInt | None = None
    bias: bool = False


Mlp = Annotated[Annotated[Gelu | Relu2 | SwiGLU, Discriminator("kind")], choice("swiglu")]


class Attention(Strict):
    """Grouped-query attention. `gain` learns one factor on the queries of each head; `out_bias` follows `bias`."""

    heads: PositiveInt | None = None
    kv_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    bias: bool = False
    out_bias: bool | None = None
    qk_norm: bool = False
    qk_norm_eps: Rate = 1e-6
    gain: bool = False


class NoSharing(Strict):
    """Every layer is used once."""

    kind: Literal["none"] = "none"


class Repeat(Strict):
    """Every layer is used `times` times in a row (MobileLLM, Liu et al. 2024); one layer N times is `layers: 1`."""

    kind: Literal["repeat"] = "repeat"
    times: Times = 2


class Cycle(Strict):
    """The whole stack is run `times` times (Universal Transformer, Dehghani et al. 2019)."""

    kind: Literal["cycle"] = "cycle"
    times: Times = 2


Sharing = Annotated[Annotated[NoSharing | Repeat | Cycle, Discriminator("kind")], choice()]


class NoBigram(Strict):
    """No bigram table."""

    kind: Literal["none"] = "none"


class ExactBigram(Strict):
    """A vector for every (previous, current) pair of tokens: (vocab_size + 1) * vocab_size rows, starting at zero."""

    kind: Literal["exact"] = "exact"


class HashedBigram(Strict):
    """A vector for every bucket of a hash of (previous, current), starting at zero."""

    kind: Literal["hashed"] = "hashed"
    buckets: PositiveInt = 16_384


Bigram = Annotated[Annotated[NoBigram | ExactBigram | HashedBigram, Discriminator("kind")], choice()]


class Embedding(Strict):
    """Token embedding: shared with the head (`tied`) or not, with an optional bigram table added to it."""

    tied: bool = True
    bigram: Bigram = NoBigram()


class Head(Strict):
    """Output head; `softcap` c squashes logits to c * tanh(logits / c)."""

    softcap: Rate | None = None


class Dropout(Strict):
    """Dropout on the embedding, on attention probabilities and on both residual branches; a number sets all three."""

    embedding: Probability = 0.0
    attention: Probability = 0.0
    residual: Probability = 0.0


def _all_dropouts(value: Any) -> Any:
    return dict.fromkeys(Dropout.model_fields, value) if isinstance(value, (int, float)) else value


class Init(Strict):
    """Normal initialisation with `std`; output projections are zero (`zero_out`) or divided by sqrt(2 * layers)."""

    std: Rate = 0.02
    zero_out: bool = False


class Dense(Strict):
    """An ordinary float matrix."""

    kind: Literal["dense"] = "dense"


class Int8(Strict):
    """Symmetric int8 with one float scale per output row."""

    kind: Literal["int8"] = "int8"


class NF4(Strict):
    """4-bit NormalFloat in blocks; `double` stores the blocks' scales in 8 bits as well (QLoRA, Dettmers et al. 2023)."""

    kind: Literal["nf4"] = "nf4"
    block: PositiveInt = 64
    double: bool = True


LinearKind = Annotated[Annotated[Dense | Int8 | NF4, Discriminator("kind")], choice()]


class ModelConfig(Strict):
    """One decoder, completely: enough to build it, count it and cost it without allocating anything.

    `linears` maps glob patterns over module names (`blocks.*.mlp.*`, `embedding`, `head`) to kinds of linear layer; the first
    pattern that matches wins, everything else is dense.
    """

    vocab_size: PositiveInt | None = None
    context: PositiveInt | None = None
    dim: PositiveInt
    layers: Depth
    attention: Attention = Attention()
    position: Position = Rope()
    mlp: Mlp = SwiGLU()
    norm: Norm = RMSNorm()
    sharing: Sharing = NoSharing()
    embedding: Embedding = Embedding()
    head: Head = Head()
    dropout: Annotated[Dropout, BeforeValidator(_all_dropouts)] = Dropout()
    init: Init = Init()
    linears: dict[str, LinearKind] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if faults := model_faults(self):
            raise ValueError("; ".join(faults))
        return self

    def resolved(self, vocab_size: int | None = None, context: int | None = None) -> ModelConfig:
        """Return the config with every derived number written out; raise ValueError where one cannot be known."""
        vocab, length = self.vocab_size or vocab_size, self.context or context
        if vocab is None or length is None:
            raise ValueError("vocab_size and context: a model needs both; name them, or a corpus that they follow from")
        head_dim = self.attention.head_dim
        heads = self.attention.heads or max(1, self.dim // (head_dim or (64 if self.dim >= 512 else 32)))
        bias = self.attention.bias
        attention = {
            "heads": heads,
            "kv_heads": self.attention.kv_heads or heads,
            "head_dim": head_dim or self.dim // heads,
            "out_bias": bias if self.attention.out_bias is None else self.attention.out_bias,
        }
        wide = -(-8 * self.dim // 96) * 32 if isinstance(self.mlp, SwiGLU) else 4 * self.dim
        update = {
            "vocab_size": vocab,
            "context": length,
            "attention": {**self.attention.model_dump(), **attention},
            "mlp": {**self.mlp.model_dump(), "hidden": self.mlp.hidden or wide},
        }
        return ModelConfig.model_validate({**self.model_dump(), **update})
