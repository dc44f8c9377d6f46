"""The default choice of the next token: as the model's own files say, else at temperature 0.8.

As in transformers, a model that says `do_sample: false` is greedy, and one that draws does so at
temperature 1 among the 50 likeliest tokens where its files name nothing else. Files that name a
temperature, top_k, top_p or min_p, but no `do_sample`, mean to draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flyweight.data.special import IDS, json_object
from flyweight.decode.sampling import Sampling
from flyweight.errors import RequestError

TEMPERATURE = 0.8
"""That of a model whose files do not say how it is drawn from."""

_NAMES = ("temperature", "top_k", "top_p", "min_p")
_DRAWN = {"temperature": 1.0, "top_k": 50}

# What transformers would apply as well and is not done here, with the value at which it does
# nothing.
_OTHERS: dict[str, Any] = {
    **{
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "typical_p": 1.0,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
    },
    **{
        "num_beams": 1,
        "min_length": 0,
        "min_new_tokens": 0,
        "penalty_alpha": 0.0,
        "guidance_scale": 1.0,
    },
    **dict.fromkeys(
        (
            "suppress_tokens",
            "begin_suppress_tokens",
            "bad_words_ids",
            "sequence_bias",
            "forced_bos_token_id",
        )
    ),
    **dict.fromkeys(("forced_eos_token_id", "exponential_decay_length_penalty", "top_h")),
}


@dataclass(frozen=True)
class SamplingChoice:
    """How tokens are chosen.

    `own` are the options that the model's file `file` decided, `unused` what else it says of them.
    """

    sampling: Sampling
    own: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    file: str = ""

    def json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            **asdict(self.sampling),
            "from_model": list(self.own),
            "not_used": list(self.unused),
        }

    @property
    def note(self) -> str:
        """What the user should know of the model's own defaults; empty where there are none."""
        options = []
        if self.own and not self.sampling.temperature:
            options.append("the likeliest token each time")
        elif self.own:
            values = ((name, getattr(self.sampling, name)) for name in self.own)
            options += [
                f"{name} {'off' if value is None else format(value, 'g')}" for name, value in values
            ]
        parts = [f"the model's own defaults are used: {', '.join(options)}"] if options else []
        parts += [f"its {', '.join(self.unused)} not used here"] if self.unused else []
        return f"{'; '.join(parts)} ({self.file})" if parts else ""


def of(folder: Path, **given: float | None) -> SamplingChoice:
    """Return how tokens are chosen with the model in a folder.

    What is `given` (temperature, top_k, ...) counts first.

    A filter that is given asks for drawing, from a greedy model too. Raises RequestError for
    options that make no sense.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    fields, file = _fields(folder)
    unused = tuple(
        f"{key} {_shown(fields[key])}"
        for key, off in _OTHERS.items()
        if fields.get(key) not in (None, off, [], {}, False)
    )
    Sampling(**_whole(asked))  # what is given is at fault, before what the model's files say
    defaults = {} if asked.get("temperature") == 0 else _own(fields, asked)
    _check(defaults, file)
    chosen = {"temperature": TEMPERATURE if asked or not defaults else 0.0, **defaults, **asked}
    return SamplingChoice(Sampling(**_whole(chosen)), tuple(defaults), unused, file.name)


def _fields(folder: Path) -> tuple[dict[str, object], Path]:
    """Return the fields of generation in a model's files, and the file that has them.

    Older models have them in their config.
    """
    file = next((folder / name for name in IDS if (folder / name).is_file()), folder / IDS[0])
    return json_object(file), file


def _own(fields: Mapping[str, object], asked: Mapping[str, object]) -> dict[str, object]:
    """Return the options that the model's files decide."""
    draws = fields.get("do_sample")
    named = {name: fields[name] for name in _NAMES if fields.get(name) is not None}
    if draws is False:
        return {} if asked else {"temperature": 0.0}
    if draws is None and not named:
        return {}
    return {name: value for name, value in {**_DRAWN, **named}.items() if name not in asked}


def _check(defaults: dict[str, Any], file: Path) -> None:
    """Raise RequestError for a value that is none.

    A `top_k` of 0 becomes None, which does not filter either.
    """
    for name, value in defaults.items():
        if not _is_number(value, whole=name == "top_k"):
            option = f"--{name.replace('_', '-')}"
            raise RequestError(
                f"{file}: {name} is {_shown(value)}, not such a number; say {option} yourself"
            )
        if name == "top_k" and value == 0:
            defaults[name] = None
    try:
        Sampling(**_whole(defaults))
    except RequestError as error:
        raise RequestError(
            f"{file}: {error}; say --{' or --'.join(defaults).replace('_', '-')} yourself"
        ) from error


def _is_number(value: object, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(value, int):
        return whole or abs(value) < 2**53
    return value.is_integer() or not whole


def _whole(options: Mapping[str, Any]) -> dict[str, Any]:
    top_k = options.get("top_k")
    return {**options, "top_k": top_k if top_k is None else int(top_k)}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
