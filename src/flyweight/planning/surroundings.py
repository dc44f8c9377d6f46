"""Estimate the time around training: packing before it, measuring and reporting after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flyweight.config import schema
from flyweight.data.document import SPLITS, Document, HeldOut, Source, SplitName
from flyweight.data.sources import resolve, with_tokenizer
from flyweight.evaluation.floors import TRAIN_LIMIT
from flyweight.planning.rate import Rates
from flyweight.planning.rows import root
from flyweight.spec import flops

BYTES_PER_TOKEN = {256: 1.0, 512: 1.9, 1024: 2.4, 2048: 2.9, 4096: 3.4}
"""Bytes of English text per token, by the vocabulary of a byte-pair tokenizer trained on it."""

OTHER_BYTES_PER_TOKEN = {"byte": 1.0, "char": 1.0, "word": 5.5, "file": 3.5, "bpe": 3.4}

ASSUMED_VOCABULARY = 10_000
"""Entries of a vocabulary that only the text decides."""

START = 3.0
"""Seconds until a new process has imported torch: a bench is one."""

FIXED = {
    "evaluate": 1.0,
    "bench": START + 3.0,
    "audit": 2.0,
    "sample": 1.0,
    "floors": 1.0,
    "report": 2.0,
}
"""Seconds on two idle cores of a common server that do not grow with the text."""

MIXING = 5.0
"""Seconds of fitting the gates of a mixture, with its passes over validation text."""

SECONDS_PER_TABLED_TOKEN = 1.2e-6
"""Seconds of counting a token of the training text for a mixture, and of unpacking counts."""

SECONDS_PER_MIXED_TOKEN = 4e-5
"""Seconds of scoring a token by a mixture, without its network's forward pass."""

SECONDS_PER_COUNTED_TOKEN = 1.6e-6
"""Seconds of training the three n-gram floors."""

AUDITED_TOKENS = 60_000
"""Tokens that go forward through the model in an audit."""


@dataclass(frozen=True)
class TextSize:
    """The bytes of a corpus' splits, and its beginning, from which prompts are taken."""

    bytes: Mapping[SplitName, int]
    opening: str = ""

    @classmethod
    def of(cls, source: Source) -> TextSize:
        """Return the sizes of a source's text; every document is read once."""
        sizes: dict[SplitName, int] = dict.fromkeys(SPLITS, 0)
        opening = ""
        for split in SPLITS:
            for part in source.documents(split):
                if isinstance(part, Document):
                    opening = opening or part.text[:400]
                    sizes[split] += len(part.text.encode())
        return cls(sizes, opening)

    @property
    def whole(self) -> int:
        """Bytes of all splits."""
        return sum(self.bytes.values())


def bytes_per_token(tokenizer: schema.Tokenizer) -> float:
    """Return about how many bytes of English text a token encodes."""
    if isinstance(tokenizer, schema.BpeTokenizer):
        largest = max((vocab for vocab in BYTES_PER_TOKEN if vocab <= tokenizer.vocab), default=256)
        return BYTES_PER_TOKEN[largest]
    return OTHER_BYTES_PER_TOKEN[tokenizer.kind]


def packing(text: TextSize, rates: Rates) -> float:
    """Return the seconds of reading and packing a text."""
    return text.whole / rates.packing


def measuring(
    models: Sequence[schema.Architecture],
    kinds: Sequence[str],
    test_tokens: float,
    train_tokens: float,
    rates: Rates,
) -> float:
    """Return the seconds of measuring resolved `models` in these ways, with floors and report."""
    fixed = sum(FIXED[kind] for kind in kinds) * len(models) + FIXED["report"]
    if "evaluate" in kinds:
        fixed += FIXED["floors"] + SECONDS_PER_COUNTED_TOKEN * min(train_tokens, TRAIN_LIMIT)
    scored = 0.0
    if "evaluate" in kinds:
        scored += test_tokens
    if "audit" in kinds:
        scored += AUDITED_TOKENS
    return fixed * rates.slowness + sum(forward(model, scored, rates) for model in models)


def mixing(train_tokens: float, test_tokens: float, rates: Rates) -> float:
    """Return the seconds of mixing one network, and of its other experts on the test text."""
    counting = SECONDS_PER_TABLED_TOKEN * min(train_tokens, TRAIN_LIMIT)
    scoring = SECONDS_PER_MIXED_TOKEN * (test_tokens + AUDITED_TOKENS)
    return (MIXING + counting + scoring) * rates.slowness


def forward(model: schema.Architecture, tokens: float, rates: Rates) -> float:
    """Return the seconds in which a resolved model reads `tokens` tokens."""
    context = model.context or 256
    width = getattr(model, "dim", None) or getattr(model, "hidden", 128)
    return tokens * flops.forward_flops(model, context) / context / rates.at(width)


def recipe_seconds(
    recipe: schema.Recipe, rates: Rates, data_dir: Path | None
) -> tuple[float, float]:
    """Return the seconds of packing before a recipe's training, and of measuring after it.

    A model that is not described in the recipe counts for the fixed part of its measurements alone.
    """
    before = 0.0
    sizes: dict[str, TextSize] = {}
    models: dict[str, schema.Architecture] = {}
    tokens = (0.0, 0.0)
    for name, stage in recipe.stages.items():
        if not isinstance(stage, schema.TrainingStage):
            continue
        data = with_tokenizer(stage.data, data_dir)
        key = str(data.corpus)
        if key not in sizes:
            sizes[key] = TextSize.of(
                resolve(data.corpus, data_dir, HeldOut(data.validation, data.test))
            )
            before += packing(sizes[key], rates)
        assert data.tokenizer is not None
        per_token = bytes_per_token(data.tokenizer)
        tokens = (sizes[key].bytes["test"] / per_token, sizes[key].bytes["train"] / per_token)
        if stage.model is not None:
            vocabulary = getattr(data.tokenizer, "vocab", None) or ASSUMED_VOCABULARY
            with suppress(ValueError):  # the plan names the faults of a model
                models[name] = stage.model.resolved(vocabulary, data.context)
    trained = [
        name for name, stage in recipe.stages.items() if isinstance(stage, schema.TrainingStage)
    ]
    compared = recipe.report.compare or tuple(recipe.stages)
    resolved = [
        models[source] for name in compared if (source := root(recipe, name, trained)) in models
    ]
    kinds = (*recipe.report.measure, *(["sample"] if recipe.report.prompts else []))
    after = measuring(resolved, kinds, *tokens, rates)
    mixtures = sum(isinstance(stage, schema.Mix) for stage in recipe.stages.values())
    after += mixtures * mixing(tokens[1], tokens[0], rates)
    unknown = len(compared) - len(resolved)
    return before, after + unknown * sum(FIXED[kind] for kind in kinds) * rates.slowness
