"""The verbs that write text: generate and chat."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flyweight.cli.options import MACHINE, CommonOptions, EngineOption, ModelName, verb
from flyweight.core.terminal import Speech

if TYPE_CHECKING:
    from flyweight.decode.sampling_defaults import SamplingChoice

Temperature = Annotated[
    float | None,
    typer.Option(min=0.0, help="0 is greedy [the model's own generation_config.json, else 0.8]."),
]
TopK = Annotated[
    int | None, typer.Option(min=1, help="Draw from the likeliest K [the model's own, else all].")
]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0.0, max=1.0, help="Draw from the likeliest that make up P [the model's own, else 1]."
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Leave out tokens less than P times as likely as the likeliest [its own].",
    ),
]


def generate(
    shared: CommonOptions,
    model: ModelName,
    prompt: Annotated[str, typer.Argument(metavar="TEXT")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to add.")] = 128,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text (may be repeated).")
    ] = None,
    engine: EngineOption = "auto",
) -> None:
    """Continue a text.

    Tokens are drawn as the model's own files say (generation_config.json), and a note says so.
    Options win over these files.
    """
    from flyweight import api

    speech = Speech(sys.stdout)
    waiting = [prompt]  # until the model is loaded and has something to add

    def speak(piece: str) -> None:
        speech.say("".join([*waiting, piece]))
        waiting.clear()

    drawn: list[SamplingChoice] = []
    with shared.session(quiet=True) as session:
        text = api.generate(
            model,
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=shared.seed,
            stop=stop or (),
            engine=engine,
            on_text=None if shared.as_json else speak,
            on_drawing=drawn.append,
            session=session,
        )
    shared.answer(
        {"prompt": prompt, "text": text, "sampling": drawn[0].json()}, lambda _: speak("\n")
    )


def chat(
    shared: CommonOptions,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An artifact folder or RECIPE:STAGE.")
    ],
    system: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Instructions, for a model with a chat template."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 256,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End answers before this text (may be repeated).")
    ] = None,
    engine: EngineOption = "auto",
) -> None:
    """Talk with a model, a line a turn, typed or piped.

    A model with a chat template is talked to in it. Any other goes on with one running text.
    """
    from flyweight import api
    from flyweight.cli import chat as conversation

    with shared.session(quiet=True) as session:
        chat = api.chat(
            model,
            system=system,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=shared.seed,
            stop=stop or (),
            engine=engine,
            session=session,
        )
        conversation.talk(chat, model, shared.as_json)
    shared.answer({"model": model, **chat.json()}, lambda _: None)


def add(app: typer.Typer) -> None:
    """Register these verbs."""
    verb(app, *MACHINE, "seed")(generate)
    verb(app, *MACHINE, "seed")(chat)
