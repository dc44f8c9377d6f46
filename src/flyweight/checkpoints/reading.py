"""Whether a finished model can read a stage's text: its tokenizer, its rows and its context."""

from __future__ import annotations

from flyweight.checkpoints import load_any
from flyweight.data.tokenizer import Tokenizer, named_tokens
from flyweight.errors import RequestError
from flyweight.store.stage import Inputs


def check_reads(
    config: load_any.AnyConfig, what: str, inputs: Inputs, context: int, field: str = "data"
) -> None:
    """Raise RequestError where a finished model cannot read this stage's windows.

    `what` is the input that holds the model, `field` the stage's field that names the text.
    """
    mine, theirs = inputs.encoded() / "tokenizer.json", inputs.model(what) / "tokenizer.json"
    if mine.read_bytes() != theirs.read_bytes():
        across = ", or across: tokenizers" if what.split(".")[0] == "teacher" else ""
        raise RequestError(
            f"stages.{inputs.name}.{what}: the {what} and the corpus use different tokenizers; "
            f"give this stage {field}.tokenizer=model{across}"
        )
    rows = config.vocab_size or 0
    if rowless := Tokenizer.load(theirs).rowless(rows):
        raise RequestError(
            f"stages.{inputs.name}.{what}: the {what} has {rows} rows and none for "
            f"{named_tokens(rowless)} of its tokenizer; take such tokens out of {theirs}, or use "
            f"another {what}"
        )
    load_any.require_context(config, context, f"stages.{inputs.name}.{field}.context", what)
