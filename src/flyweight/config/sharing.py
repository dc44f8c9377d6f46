"""How often and in which order layers are used: sharing, and thinking in several passes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field

from flyweight.config.base import Between, Strict, Times, choice


class NoSharing(Strict):
    """Every layer is used once."""

    kind: Literal["none"] = "none"


class Repeat(Strict):
    """Every layer is used `times` times in a row (MobileLLM, Liu et al. 2024).

    `index`, here and in the other kinds, adds a learned vector to the residual stream before each
    use of a layer, so that a layer can tell its uses apart (Dehghani et al. 2019). There is one
    vector for each place in the unrolled stack. They start at zero.
    """

    kind: Literal["repeat"] = "repeat"
    times: Times = 2
    index: bool = False


class Cycle(Strict):
    """The whole stack is run `times` times (Universal Transformer, Dehghani et al. 2019)."""

    kind: Literal["cycle"] = "cycle"
    times: Times = 2
    index: bool = False


class Span(Strict):
    """Run the middle layers `times` times and the others once.

    `span` is the first and the last of the middle layers, counted from 0.
    The loop is switched on when the fraction `loop_from` of training is done. The finished model
    always has it.
    """

    kind: Literal["span"] = "span"
    span: tuple[Annotated[int, Field(ge=0, le=10_000)], Annotated[int, Field(ge=0, le=10_000)]]
    times: Times = 2
    loop_from: Annotated[float, Field(ge=0, lt=1)] = 0.0
    index: bool = False


class All(Strict):
    """One layer is used `times` times: the model has `layers: 1`."""

    kind: Literal["all"] = "all"
    times: Times
    index: bool = False


Sharing = Annotated[
    Annotated[NoSharing | Repeat | Cycle | Span | All, Discriminator("kind")], choice()
]


class NoThinking(Strict):
    """One pass."""

    kind: Literal["none"] = "none"


class Deep(Strict):
    """Make `passes` passes before the one that answers, with a memory between them.

    Every place of the stack has its own memory of keys and values.

    A pass goes on from what the one before put out (`input: previous`), or begins with the
    embedding again. In each pass a token attends to its own and earlier tokens' keys of this pass
    and of the memory. After a pass the memory becomes rate * keys + (1 - rate) * memory, values
    likewise; `learned` makes the rate a parameter of each layer, which starts at `rate`. `memory:
    own` starts each place's memory with its own keys of the first pass, which reads none; `memory:
    first` starts all of them with those of the first place. The published model has `input:
    embedding, memory: first, rate: 0.01`.
    """

    kind: Literal["deep"] = "deep"
    passes: Annotated[int, Field(ge=0, le=64)] = 2
    rate: Between = 0.5
    learned: bool = False
    memory: Literal["own", "first"] = "own"
    input: Literal["previous", "embedding"] = "previous"

    @property
    def updates(self) -> int:
        """How often a memory changes after it has begun: with none, the rate has no effect."""
        return self.passes if self.memory == "first" else max(0, self.passes - 1)


Thinking = Annotated[Annotated[NoThinking | Deep, Discriminator("kind")], choice("deep")]
