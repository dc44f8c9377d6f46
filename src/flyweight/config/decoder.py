"""One decoder as frozen, validated fields: everything needed to build it, count it and cost it.

A choice (`mlp`, `norm`, `position`, ...) is a name or a name with options: `mlp: swiglu` or `mlp:
{kind: swiglu, hidden: 683}`. Every constant that changes an output is a field. `None` means
"derived"; `ModelConfig.resolved` writes the numbers out.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from flyweight.config.adapters import Adapter, shared_length
from flyweight.config.base import Depth, PositiveInt, Probability, Rate, Strict, added
from flyweight.config.blocks import (
    Blocks,
    layer_attention,
    layer_mlp,
    override_of,
    resolved_attention,
    resolved_mlp,
)
from flyweight.config.embedding import Embedding
from flyweight.config.layers import (
    Add,
    Attention,
    Mlp,
    Norm,
    Position,
    Residual,
    RMSNorm,
    Rope,
    Skips,
    SwiGLU,
)
from flyweight.config.linear_kinds import LinearKind
from flyweight.config.mixture import Mixture
from flyweight.config.model_rules import model_faults
from flyweight.config.sharing import NoSharing, NoThinking, Sharing, Thinking


class Head(Strict):
    """Output head.

    `bias` adds a number per token of the vocabulary, `softcap` c squashes logits to c *
    tanh(logits / c).
    """

    bias: bool = False
    softcap: Rate | None = None


class Dropout(Strict):
    """Dropout on the embedding, on attention probabilities and on both residual branches.

    A number sets these three.

    `mlp` drops of what the MLP reads. `depth` drops the whole branches of a row (stochastic depth,
    Huang et al. 2016), the l-th of L uses of layers with probability depth * l / L.
    """

    embedding: Probability = 0.0
    attention: Probability = 0.0
    residual: Probability = 0.0
    mlp: Probability = 0.0
    depth: Probability = added(0.0)


def _three_dropouts(value: object) -> object:
    return (
        dict.fromkeys(("embedding", "attention", "residual"), value)
        if isinstance(value, (int, float))
        else value
    )


class Init(Strict):
    """Normal initialisation with `std`; the token table has its own, if `embedding` names one.

    Output projections are zero (`zero_out`) or divided by sqrt(2 * visits), unless `damped` is off.
    """

    std: Rate = 0.02
    embedding: Rate | None = None
    damped: bool = True
    zero_out: bool = False


class ModelConfig(Strict):
    """One decoder, completely: enough to build, count and cost it without allocating anything.

    `linears` maps glob patterns over module names (`blocks.*.mlp.*`, `embedding`, `head`) to kinds
    of linear layer; the first pattern that matches wins, everything else is dense. `mixture` is
    what a `mix` stage adds to a trained network. `blocks` maps layers (`3`, or `2-5`) to the fields
    of attention and MLP that differ there. `adapters` are around layers of any kind, in order.
    `skips` are connections past layers: `unet`, `embedding`.
    """

    vocab_size: PositiveInt | None = None
    context: PositiveInt | None = None
    dim: PositiveInt
    layers: Depth
    attention: Attention = Attention()
    position: Position = Rope()
    mlp: Mlp = SwiGLU()
    norm: Norm = RMSNorm()
    residual: Residual = Add()
    skips: Skips = added(())
    sharing: Sharing = NoSharing()
    thinking: Thinking = NoThinking()
    embedding: Embedding = Embedding()
    head: Head = Head()
    dropout: Annotated[Dropout, BeforeValidator(_three_dropouts)] = Dropout()
    init: Init = Init()
    linears: dict[str, LinearKind] = Field(default_factory=dict)
    mixture: Mixture | None = added(None)
    blocks: Blocks = added({})
    adapters: tuple[Adapter, ...] = added(())

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if faults := model_faults(self):
            raise ValueError("; ".join(faults))
        return self

    def resolved(self, vocab_size: int | None = None, context: int | None = None) -> ModelConfig:
        """Return the config with every derived number written out.

        Raises ValueError where one cannot be known.
        """
        vocab, length = self.vocab_size or vocab_size, self.context or context
        if vocab is None or length is None:
            raise ValueError(
                "vocab_size and context: a model needs both; name them, or a corpus that they "
                "follow from"
            )
        update = {
            "vocab_size": vocab,
            "context": length,
            "attention": resolved_attention(self.attention, self.dim).model_dump(),
            "mlp": resolved_mlp(self.mlp, self.dim).model_dump(),
        }
        return ModelConfig.model_validate({**self.model_dump(), **update})

    @property
    def first_position(self) -> int:
        """The position of a text's first token: behind a prefix that shares the text's softmax.

        With learned positions the table has so many rows more than `context`.
        """
        return shared_length(self.adapters)

    def layer(self, index: int) -> ModelConfig:
        """Return the specification of one layer: this model, were all its layers like that one.

        Its attention and its MLP have every number written out where the layer differs. Everything
        that builds, counts, costs or writes a layer asks here.
        """
        override = override_of(self.blocks, index)
        if override is None:
            return self
        attention = resolved_attention(self.attention, self.dim)
        mlp = resolved_mlp(self.mlp, self.dim)
        if override.attention is not None:
            attention = layer_attention(attention, override.attention, self.dim)
        if override.mlp is not None:
            mlp = layer_mlp(mlp, override.mlp, self.dim)
        return self.model_copy(update={"attention": attention, "mlp": mlp, "blocks": {}})
