"""Text from a model: continuations and conversations.

Part of `flyweight.api`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from flyweight.api import model_references
from flyweight.api.measurements import Model
from flyweight.api.session import DEFAULT, Session, in_use
from flyweight.errors import RequestError

if TYPE_CHECKING:
    from flyweight.config.speed import EngineName
    from flyweight.decode.chat import Chat
    from flyweight.decode.sampling_defaults import SamplingChoice


@in_use
def generate(
    model: Model,
    prompt: str,
    max_new_tokens: int = 128,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    engine: EngineName = "auto",
    on_text: Callable[[str], None] | None = None,
    on_drawing: Callable[[SamplingChoice], None] | None = None,
    session: Session = DEFAULT,
) -> str:
    """Return the model's continuation of `prompt`, without the prompt.

    `temperature` 0 is greedy. `top_k`, `top_p` and `min_p` narrow the tokens that are drawn from,
    with `seed`. An option that is None is taken from the model's own files
    (generation_config.json); without it the temperature is 0.8. The text ends before the first of
    the `stop` strings. `on_drawing` hears first how tokens are chosen, then `on_text` hears each
    new piece at once. `engine` is `compiled` for products by code that is compiled on this machine
    once, `eager` for torch's own, `auto` for the first where it is possible. Raises RequestError
    for a model that is not known, an option out of range, or a prompt that is not UTF-8 text.
    """
    from flyweight.decode import sampling_defaults, stream
    from flyweight.model.kernels import check_engine

    _refuse_other_encodings(prompt)
    artifact = model_references.find(model, session.store, watch=session.watch)
    folder = artifact.path / "model"
    drawn = sampling_defaults.of(
        folder, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    device = session.runtime().device
    tokenizer = stream.tokenizer_of(folder)
    if note := stream.unknown_note(tokenizer.unknown_words(stream.text_of(prompt))):
        session.watch("unknown", {"note": note})
    _announce(drawn, session)
    if on_drawing is not None:
        on_drawing(drawn)
    options = {**asdict(drawn.sampling), "seed": seed, "engine": engine}
    check_engine(engine)
    return stream.text(folder, prompt, max_new_tokens, stop, on_text, device, options)


@in_use
def chat(
    model: Model,
    system: str | None = None,
    max_new_tokens: int = 256,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    engine: EngineName = "auto",
    session: Session = DEFAULT,
) -> Chat:
    """Return a conversation with a model: `chat(...).say("Hello")` returns its answer.

    Its `turns` keep every question and answer. A model whose files bring a chat template is talked
    to in it, after `system`. Any other model goes on with one running text. `temperature`, `top_k`,
    `top_p` and `min_p` that are None are the model's own, as in `generate`, and so is `engine`.
    Raises RequestError for a model that is not known or an option out of range.
    """
    from flyweight.decode.chat import Chat, Options
    from flyweight.model.kernels import check_engine

    artifact = model_references.find(model, session.store, watch=session.watch)
    options = Options(max_new_tokens, temperature, top_k, top_p, min_p, seed, tuple(stop), engine)
    check_engine(engine)
    conversation = Chat(artifact.path / "model", session.runtime().device, system, options)
    _announce(conversation.drawing, session)
    return conversation


def _announce(drawn: SamplingChoice, session: Session) -> None:
    """Show which defaults come from the model's own files."""
    if drawn.note:
        session.watch("drawing", {"note": drawn.note})


def _refuse_other_encodings(prompt: str) -> None:
    """Raise RequestError for a prompt whose bytes were not UTF-8.

    Such bytes arrive as lone surrogates.
    """
    wrong = next((at for at, letter in enumerate(prompt) if "\ud800" <= letter <= "\udfff"), None)
    if wrong is None:
        return
    byte = f"0x{ord(prompt[wrong]) & 0xFF:02x}"
    raise RequestError(
        f"the prompt is not UTF-8 text: byte {byte} follows {prompt[:wrong]!r}; the terminal or "
        f"the file that it comes from uses another encoding (for a file: iconv -f latin1 -t utf-8)"
    )
