"""Train a model of one's own text: what `flyweight train` chooses and how it names the run.

Part of `flyweight.api`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from flyweight.api import model_references
from flyweight.api.forgetting import forget
from flyweight.api.recipes import shipped
from flyweight.api.runs import Run, plain_name, run_checked
from flyweight.api.session import DEFAULT, Session, shows_progress
from flyweight.config import load as config_load
from flyweight.config.words import field_words
from flyweight.core.files import digest, read_json, user_path, write_json
from flyweight.data.sources import SOURCES
from flyweight.errors import RequestError
from flyweight.planning.defaults import ChosenRecipe, suggest
from flyweight.planning.time import Machine
from flyweight.store.artifact import Store
from flyweight.studies import study_files

TEXTS = "texts.json"
"""The file in the runs root with the text of each run of `train`, by the run's name."""


@shows_progress
def train(
    data: str | Path | Sequence[str | Path],
    *overrides: str,
    time: str | None = None,
    parameters: str | int | None = None,
    bytes: str | None = None,
    memory: str | None = None,
    flops: str | float | None = None,
    model: str | Mapping[str, object] | None = None,
    train: Mapping[str, object] | None = None,
    name: str | None = None,
    fresh: bool = False,
    session: Session = DEFAULT,
) -> Run:
    """Train a good small model of one's own text within a budget, and return the run.

    `data` is a file, several, a folder, a glob or the name of a corpus. The budget: `time="10min"`
    (the default), `parameters="200k"`, `bytes="1MB"` of the model, `memory="300MB"` while training,
    `flops="1e12"`. `model` and `train` are fields as in a recipe. `overrides` are the command
    line's words (`data.context=128`), and win. Everything else is chosen for the text, the budget
    and this machine. `run["model"]` is the model. The run is called `train-<file>` unless `name` is
    given. `fresh` makes a finished run of that name anew.

    Raises RequestError for what is wrong with the text, the fields or the budget.
    """
    budget = {"time": time, "parameters": parameters, "bytes": bytes, "memory": memory}
    limits = {
        limit: value for limit, value in {**budget, "flops": flops}.items() if value is not None
    }
    words = [*field_words(budget=limits, model=model, train=train), *overrides]
    return _train(data, words, name, fresh, session)


def _train(
    data: str | Path | Sequence[str | Path],
    words: Sequence[str],
    name: str | None,
    fresh: bool,
    session: Session,
) -> Run:
    began = time.monotonic()
    corpus = _corpus(data)
    name = name or _name(session.store, corpus)
    choice = choose(data, *words, name=name, session=session)
    if fresh:
        forget(session.store, name, session)
    _remember(session.store, name, corpus)
    session.watch("chosen", {"lines": choice.lines})
    return run_checked(choice.recipe, session, began)


def choose(
    data: str | Path | Sequence[str | Path],
    *overrides: str,
    name: str | None = None,
    limits: Mapping[str, str] = MappingProxyType({}),
    session: Session = DEFAULT,
) -> ChosenRecipe:
    """Return what `train` would run: the recipe, and in words what was chosen.

    `limits` are those of the budget by name. The machine's rates are measured where the runs root
    has none. Raises RequestError for what is wrong with the text, the fields or the budget.
    """
    refuse_empty(limits)
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
    machine = Machine.of(session.store, session.runtime(), session.watch)
    return suggest(raw, machine, session.data_folder)


def refuse_empty(limits: Mapping[str, object]) -> None:
    """Raise RequestError for limits that are given and empty, as a shell's unset variable is."""
    if empty := [f"--{name}" for name, value in limits.items() if value == ""]:
        raise RequestError(f"{' and '.join(empty)}: the value is empty; leave it out, or give one")


def is_text(word: str, session: Session = DEFAULT) -> bool:
    """Return whether a word names a text that `train` takes.

    Names of recipes, studies, configs and models do not.
    """
    if word in shipped() or study_files.is_study(word) or model_references.is_config(word):
        return False
    if word in SOURCES:
        return True
    path = user_path(word)
    folders = (path, session.store.root / word)
    if any(
        (folder / file).exists() for folder in folders for file in ("manifest.json", "config.json")
    ):
        return False
    return path.exists() or any(mark in word for mark in "*?[")


def _corpus(data: str | Path | Sequence[str | Path]) -> str | list[str]:
    if isinstance(data, str | Path):
        return str(data)
    texts = [str(text) for text in data]
    if not texts:
        raise RequestError(
            "train needs a text: a file, several, a folder, a glob or the name of a corpus"
        )
    return texts if len(texts) > 1 else texts[0]


def _place(corpus: str | list[str]) -> str:
    """Return the paths of a text's files: they differ between texts of the same name."""
    words = [corpus] if isinstance(corpus, str) else corpus
    places = [str(path.resolve()) if (path := user_path(word)).exists() else word for word in words]
    return os.pathsep.join(sorted(places))


def _name(store: Store, corpus: str | list[str]) -> str:
    """Return `train-<text>` as the name of a text's run.

    Where a text of another folder has that name already, this one gets a longer one.
    """
    place = _place(corpus)
    if isinstance(corpus, str):
        path = Path(corpus)
    else:
        path = Path(os.path.commonpath([user_path(word).resolve().parent for word in corpus]))
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
