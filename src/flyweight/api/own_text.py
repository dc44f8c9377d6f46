"""One's own text, the shortest way in: what `flyweight train` chooses, runs and calls the result.

Part of `flyweight.api`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flyweight.api import model_references
from flyweight.api.forgetting import forget
from flyweight.api.runs import Run, plain_name, run_checked, shipped
from flyweight.api.session import DEFAULT, Session, shows_progress
from flyweight.config import load as config_load
from flyweight.config.words import field_words
from flyweight.core.files import digest, read_json, write_json
from flyweight.core.runtime import Precision
from flyweight.data.sources import SOURCES
from flyweight.errors import RequestError
from flyweight.planning import rate
from flyweight.planning.defaults import Choice, suggest
from flyweight.store.artifact import Store
from flyweight.studies import cells as studies

TEXTS = "texts.json"
"""In the runs root: which text each run of `train` was made from, by the run's name."""


@shows_progress
def train(
    data: str | Path | Sequence[str | Path],
    *overrides: str,
    time: str | None = None,
    parameters: str | int | None = None,
    bytes: str | None = None,
    memory: str | None = None,
    flops: str | float | None = None,
    model: str | Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    name: str | None = None,
    fresh: bool = False,
    session: Session = DEFAULT,
) -> Run:
    """Train a good small model of one's own text within a budget, and return the run.

    `data` is a file, several, a folder, a glob or the name of a corpus. The budget: `time="10min"`
    (unless given), `parameters="200k"`, `bytes="1MB"` of the model, `memory="300MB"` while
    training, `flops="1e12"`. `model` and `train` are fields as in a recipe, `overrides` the
    command line's words (`data.context=128`), which win. What is left open is chosen for the text,
    the budget and this machine. `run["model"]` is the model. The run is called `train-<file>`
    unless `name` says otherwise; `fresh` makes a finished run of that name anew.

    Raises RequestError for what is wrong with the text, the fields or the budget.
    """
    budget = {"time": time, "parameters": parameters, "bytes": bytes, "memory": memory}
    limits = {
        limit: value for limit, value in {**budget, "flops": flops}.items() if value is not None
    }
    words = [*field_words(budget=limits, model=model, train=train), *overrides]
    return _trained(data, words, name, fresh, session)


def _trained(
    data: str | Path | Sequence[str | Path],
    words: Sequence[str],
    name: str | None,
    fresh: bool,
    session: Session,
) -> Run:
    began = time.monotonic()
    corpus = _corpus(data)
    called = name or _name(session.store, corpus)
    choice = choose(data, *words, name=called, session=session)
    recipe = choice.recipe
    if fresh:
        forget(session.store, called, session)
    _remember(session.store, called, corpus)
    session.watch("chosen", {"lines": choice.lines})
    return run_checked(recipe, session, began)


def choose(
    data: str | Path | Sequence[str | Path],
    *overrides: str,
    name: str | None = None,
    limits: Mapping[str, str] = MappingProxyType({}),
    session: Session = DEFAULT,
) -> Choice:
    """Return what `train` would do, without doing it: the raw recipe, and in words what was chosen.

    `limits` are those of the budget by name. The machine's rates are measured where the runs root
    has none.
    """
    corpus = _corpus(data)
    text = (resources.files("flyweight") / "assets" / "recipes" / "train.yaml").read_text(
        encoding="utf-8"
    )
    raw = config_load.parse_yaml(text, "train")
    raw = {
        **raw,
        "name": name or _name(session.store, corpus),
        "data": {**raw["data"], "corpus": corpus},
    }
    words = [*overrides, *(f"budget.{limit}={value}" for limit, value in limits.items())]
    raw = config_load.override(raw, words)
    runtime = session.runtime()

    def kept_for(precision: Precision) -> rate.Kept:
        return rate.kept(session.store, runtime, precision, session.watch)

    return suggest(raw, runtime, session.data_folder, kept_for)


def is_text(word: str, session: Session = DEFAULT) -> bool:
    """Return whether a word names a text that `train` takes, and neither a recipe, a study, a config nor a model."""
    if word in shipped() or studies.is_study(word) or model_references.is_config(word):
        return False
    if word in SOURCES:
        return True
    path = Path(word).expanduser()
    folders = (path, session.store.root / word)
    if any(
        (folder / file).exists() for folder in folders for file in ("manifest.json", "config.json")
    ):
        return False
    return path.exists() or any(mark in word for mark in "*?[")


def _corpus(data: str | Path | Sequence[str | Path]) -> str | list[str]:
    if isinstance(data, str | Path):
        return str(data)
    several = [str(each) for each in data]
    if not several:
        raise RequestError(
            "train needs a text: a file, several, a folder, a glob or the name of a corpus"
        )
    return several if len(several) > 1 else several[0]


def _place(corpus: str | list[str]) -> str:
    """Return what tells a text from others of the same name: the paths of its files."""
    words = [corpus] if isinstance(corpus, str) else corpus
    places = [
        str(path.resolve()) if (path := Path(word).expanduser()).exists() else word
        for word in words
    ]
    return os.pathsep.join(sorted(places))


def _name(store: Store, corpus: str | list[str]) -> str:
    """Return `train-<text>`.

    A text of another folder that came first keeps that name, and this one gets a longer one.
    """
    place = _place(corpus)
    if isinstance(corpus, str):
        path = Path(corpus)
    else:
        path = Path(
            os.path.commonpath([Path(word).expanduser().resolve().parent for word in corpus])
        )
    name = f"train-{plain_name(path.stem or path.resolve().name)}"
    owner = _texts(store).get(name)
    if owner in (None, place) or not (store.root / name).exists():
        return name
    return f"{name}-{digest(place)[:4]}"


def _texts(store: Store) -> dict[str, str]:
    file = store.root / TEXTS
    if not file.is_file():
        return {}
    content = read_json(file)
    if not isinstance(content, dict):
        raise RequestError(
            f"{file} does not say which run belongs to which text; delete it and run again"
        )
    return {str(name): str(place) for name, place in content.items()}


def _remember(store: Store, name: str, corpus: str | list[str]) -> None:
    """Note which text a run belongs to, before it begins."""
    store.prepare()
    with store.locked(TEXTS):
        write_json(store.root / TEXTS, {**_texts(store), name: _place(corpus)})
