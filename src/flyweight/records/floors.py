"""N-gram floors of a text: what the stage `floors` writes, and what summaries and cards read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flyweight.records.sealed import Record

NAMES = ("unigram", "bigram", "kn5")


class Floor(Record):
    """One baseline: NLL in nats per token, the costs of training, and its constants.

    `seconds` are those of counting, `peak_bytes` the most held meanwhile beside the text, `bytes`
    the trained model's tables in memory. `stored` counts its n-grams. `constants` holds
    interpolation weights (longest context first) or discounts (shortest first). `estimated` is
    False where the text gave no estimate of a discount and a standard one was used.
    """

    nll: float
    perplexity: float
    bits_per_byte: float
    seconds: float
    peak_bytes: int | None = None
    bytes: int | None = None
    stored: int
    constants: tuple[float, ...] = ()
    estimated: bool = True


class NgramFloors(Record):
    """The baselines on one split, and how much of the train split they saw."""

    unigram: Floor
    bigram: Floor
    kn5: Floor
    split: str
    tokens: int
    train_tokens: int
    train_tokens_available: int
    vocab_size: int

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> NgramFloors:
        """Return the floors that a `metrics.json` holds.

        Raises KeyError or ValueError where it does not hold them.
        """
        rest = {name: metrics[name] for name in cls.model_fields if name not in NAMES}
        return cls(**{name: metrics["details"][name] for name in NAMES}, **rest)

    def named(self) -> dict[str, Floor]:
        """Return the baselines by name, in the order in which they are shown."""
        return {name: getattr(self, name) for name in NAMES}

    def to_metrics(self) -> dict[str, object]:
        """Return perplexities per token under `unigram`, `bigram` and `kn5`, and their costs.

        `details` holds everything by baseline.
        """
        named = self.named()
        return {
            **{name: floor.perplexity for name, floor in named.items()},
            **{
                key: {name: getattr(floor, key) for name, floor in named.items()}
                for key in ("seconds", "bytes", "peak_bytes")
            },
            **self.model_dump(exclude=set(NAMES)),
            "details": {name: floor.model_dump() for name, floor in named.items()},
        }
