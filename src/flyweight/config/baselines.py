"""Configs of the models that a decoder has to beat: linear, MLP and LSTM.

The linear model and the MLP read the last tokens. All fields are frozen and validated.

`Architecture` is any model that can be trained: `{kind: decoder | linear | mlp | lstm, ...}`, a
decoder where no kind is named.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from flyweight.config.base import PositiveInt, Probability, Rate, Strict
from flyweight.config.decoder import ModelConfig
from flyweight.config.linear_kinds import LinearKind, linears_faults

DECODER = "decoder"
"""The kind of a model config that names none.

It is not written out, so that older configs keep their ids.
"""

Layers = Annotated[int, Field(ge=1, le=1_000)]


class FanIn(Strict):
    """Normal initialisation, with a spread that falls with a matrix's inputs.

    Embeddings have std `embedding`, matrices std `gain` / sqrt(inputs). Biases start at zero.
    """

    embedding: Rate = 1.0
    gain: Rate = 1.0


class _Baseline(Strict):
    """Fields of every baseline: sizes, initialisation, kinds of linear layer."""

    vocab_size: PositiveInt | None = None
    context: PositiveInt | None = None
    dim: PositiveInt
    init: FanIn = FanIn()
    linears: dict[str, LinearKind] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> _Baseline:
        if faults := [*self._faults(), *linears_faults(self.linears)]:
            raise ValueError("; ".join(faults))
        return self

    def _faults(self) -> list[str]:
        return []

    def _sizes(self, vocab_size: int | None, context: int | None) -> dict[str, object]:
        vocab, length = self.vocab_size or vocab_size, self.context or context
        if vocab is None or length is None:
            raise ValueError(
                "vocab_size and context: a model needs both; name them, or a corpus that they "
                "follow from"
            )
        return {**self.model_dump(), "vocab_size": vocab, "context": length}


class _NGram(_Baseline):
    """The embeddings of the last `history` tokens (default: the context), side by side.

    Where fewer came before, in this window or behind padding, a learned padding vector stands in
    their place.
    """

    history: PositiveInt | None = None

    def _faults(self) -> list[str]:
        if self.history and self.context and self.history > self.context:
            return [
                f"history: {self.history} is longer than context {self.context}, so its oldest "
                f"places would never see a token;"
                " lower it or leave it out"
            ]
        return []


class LinearConfig(_NGram):
    """One linear layer from the last tokens' embeddings to the vocabulary."""

    kind: Literal["linear"] = "linear"

    def resolved(self, vocab_size: int | None = None, context: int | None = None) -> LinearConfig:
        """Return the config with every derived number written out.

        Raises ValueError where one cannot be known.
        """
        sizes = self._sizes(vocab_size, context)
        return LinearConfig.model_validate({**sizes, "history": self.history or sizes["context"]})


class MlpConfig(_NGram):
    """ReLU layers over the last tokens' embeddings (Bengio et al. 2003).

    Each layer has as many units as `hidden` says, and dropout.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: PositiveInt
    layers: Layers = 2
    dropout: Probability = 0.0

    def resolved(self, vocab_size: int | None = None, context: int | None = None) -> MlpConfig:
        """Return the config with every derived number written out.

        Raises ValueError where one cannot be known.
        """
        sizes = self._sizes(vocab_size, context)
        return MlpConfig.model_validate({**sizes, "history": self.history or sizes["context"]})


class LstmConfig(_Baseline):
    """An LSTM (Hochreiter and Schmidhuber 1997); `hidden` defaults to dim.

    Its state is zero where a window begins.

    `dropout` acts on the embeddings, between layers and before the head (Zaremba et al. 2014);
    `forget_bias` is the forget gate's initial bias (Jozefowicz et al. 2015).
    """

    kind: Literal["lstm"] = "lstm"
    layers: Layers = 1
    hidden: PositiveInt | None = None
    tied: bool = True
    dropout: Probability = 0.0
    forget_bias: float = 1.0

    def _faults(self) -> list[str]:
        if self.tied and self.hidden and self.hidden != self.dim:
            return [
                f"tied: the head can be the embedding only if hidden {self.hidden} is dim "
                f"{self.dim}; say tied: false"
            ]
        return []

    def resolved(self, vocab_size: int | None = None, context: int | None = None) -> LstmConfig:
        """Return the config with every derived number written out.

        Raises ValueError where one cannot be known.
        """
        sizes = self._sizes(vocab_size, context)
        return LstmConfig.model_validate({**sizes, "hidden": self.hidden or self.dim})


def kind_of_model(value: object) -> str:
    """Return the kind that raw fields or a config name: a decoder's where they name none."""
    return str(
        value.get("kind", DECODER) if isinstance(value, dict) else getattr(value, "kind", DECODER)
    )


def _read(value: object) -> Any:
    """Let a bare name stand for `{kind: name}`; a decoder's kind is not one of its fields."""
    if isinstance(value, str):
        value = {"kind": value}
    if isinstance(value, dict) and value.get("kind") == DECODER:
        return {key: field for key, field in value.items() if key != "kind"}
    return value


Architecture = Annotated[
    Annotated[ModelConfig, Tag(DECODER)]
    | Annotated[LinearConfig, Tag("linear")]
    | Annotated[MlpConfig, Tag("mlp")]
    | Annotated[LstmConfig, Tag("lstm")],
    Discriminator(kind_of_model),
    BeforeValidator(_read),
]
ARCHITECTURES = (ModelConfig, LinearConfig, MlpConfig, LstmConfig)
KINDS = frozenset({DECODER, "linear", "mlp", "lstm"})
"""The kinds of model that have no field in common but sizes."""
