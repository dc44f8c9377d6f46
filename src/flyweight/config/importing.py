"""The stage that brings in a model from elsewhere, with its matrices packed as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import create_model

from flyweight.config.base import added
from flyweight.config.linear_kinds import Int8, LinearKind
from flyweight.config.stage import Origin, StageConfig

# `as` is a word of Python, which cannot be the name of a field in the body of a class.
_AS: dict[str, Any] = {"as": (LinearKind | None, added(None))}


class Import(create_model("_Packed", __base__=StageConfig, **_AS)):
    """Bring in a GPT-2, Llama or Qwen3 model: a Hugging Face folder, or `hf:owner/name[@revision]`.

    With `as` its matrices are packed one by one as they are read, and its tables in the kind
    `embedding`. The result is what a stage quantize makes of the whole model, which is never held.
    """

    stage: Literal["import"]
    input: str
    embedding: LinearKind = Int8()

    makes_model: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = ()

    @property
    def kind(self) -> LinearKind | None:
        """What its matrices are packed as; None where they stay as they are."""
        return getattr(self, "as")

    def faults(self) -> list[str]:
        """Refuse a source that is none, and a kind of tables where nothing is packed."""
        faults: list[str] = []
        if ":" not in self.input and "/" not in self.input and not Path(self.input).is_dir():
            faults.append(
                f"input: {self.input!r} is neither a folder nor hf:owner/name; a model that is "
                f"here already is packed by a stage quantize"
            )
        if "embedding" in self.model_fields_set and self.kind is None:
            faults.append("embedding: without as nothing is packed; set as, or leave it out")
        return faults

    def untrainable(self) -> str:
        """Return why its model cannot be trained further; empty where it can."""
        if self.kind is None or (self.kind.trains and self.embedding.trains):
            return ""
        return "has its matrices packed, and these cannot be trained; import it without as"

    def role(self) -> str:
        """Return where it came from."""
        return f"{self.input}, imported" + ("" if self.kind is None else f" as {self.kind.label}")

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        facts, quote = origin.facts, origin.quote
        if "onto" in facts:
            return (
                f"{quote(facts['onto'])} with the adapter in {quote(facts['source'])}, which is in "
                f"peft's format ({quote(facts['model_type'])})"
            )
        packed = (facts.get("packed") or {}).get("as")
        matrices = "" if packed is None else f" with its matrices in {quote(packed['kind'])}"
        return (
            f"imported from {quote(facts['source'])} ({quote(facts['model_type'])}){matrices}"
            f"{_tokenizer(origin)}"
        )


def _tokenizer(origin: Origin) -> str:
    """Return what is known of an imported model's tokenizer.

    Artifacts of older versions say nothing of it.
    """
    if "tokenizer" not in origin.facts:
        return ""
    known = origin.facts["tokenizer"]
    if known is None:
        return ", without a tokenizer"
    if not known["compared"]:
        return ", with its tokenizer.json as it came"
    rebuilt = f", which replaces its {', '.join(known['rebuilt'])}" if known["rebuilt"] else ""
    built = f"{origin.quote(known['class'])}{rebuilt}"
    return (
        f", with its tokenizer as transformers builds it ({built}), compared on "
        f"{known['compared']} texts"
    )
