"""Tab completion: the names that can take a word's place on the command line.

This module imports only the standard library, and yaml where it reads a recipe.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

BASH = "complete_bash"
"""The value of the variable by which typer knows that bash asks."""
VARIABLE = "_FLYWEIGHT_COMPLETE"
CORPORA = (
    "installed-packages",
    "ptb",
    "python-stdlib",
    "tiny-shakespeare",
    "wikitext-103",
    "wikitext-103-raw",
    "wikitext-2",
    "wikitext-2-raw",
)
"""The registered corpora; their own module takes too long to import for a key press."""
ARTIFACT = re.compile(r"[a-z_]+-[0-9a-f]{8}(\.partial)?")
PLAIN = re.compile(r"[\w.+-]+")
"""What a shell takes as it is."""
LONGEST = 2**18
"""Letters of a file that are read."""
DEEPEST, MOST_FIELDS = 8, 1000
"""How deep and how many fields of a file are offered: YAML can name one part many times."""


def names_for(metavar: str | None) -> Callable[[Any, str], list[str]] | None:
    """Return the completion of a parameter, by the kinds that its metavar names.

    Return None where the metavar names no kind.
    """
    words = re.findall(r"[A-Z]+|path=value", metavar or "")
    kinds = [kind for kind in words if kind in KINDS]
    if not kinds:
        return None

    def complete(ctx: object, incomplete: str) -> list[str]:
        names = {name for kind in kinds for name in KINDS[kind](ctx)}
        return sorted(name for name in names if name.startswith(incomplete))

    return complete


def _recipes(context: object) -> Iterator[str]:
    return _shipped("recipes")


def _studies(context: object) -> Iterator[str]:
    return _shipped("studies")


def _configs(context: object) -> Iterator[str]:
    return _shipped("catalogue")


def _shipped(folder: str) -> Iterator[str]:
    """Yield the names of shipped YAML files; the name of a file in a folder includes the folder."""
    yield from _yaml(resources.files("flyweight") / "assets" / folder, "")


def _yaml(folder: Traversable, before: str) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _yaml(entry, f"{before}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield before + entry.name.removesuffix(".yaml")


def _corpora(context: object) -> Iterator[str]:
    yield from CORPORA


def _root(context: Any) -> Path:
    runs = None if context is None else context.params.get("runs")
    return Path(runs or os.environ.get("FLYWEIGHT_RUNS") or "runs")


def _runs(context: object) -> Iterator[str]:
    """Yield the runs in the runs root that have a report; unfinished ones have none."""
    root = _root(context)
    if not root.is_dir():
        return
    for folder in sorted(root.iterdir()):
        if not ARTIFACT.fullmatch(folder.name) and (folder / "report.html").is_file():
            yield folder.name


def _models(context: object) -> Iterator[str]:
    """Yield `RUN:STAGE` for the links of a run to artifacts that hold a model."""
    root = _root(context)
    for run in _runs(context):
        links = sorted(path for path in (root / run).iterdir() if path.is_symlink())
        yield from (f"{run}:{link.name}" for link in links if (link / "model").is_dir())


def _fields(context: object) -> Iterator[str]:
    """Yield the fields that the command's recipe or study sets, each with its value."""
    import yaml

    class AsWritten(yaml.SafeLoader):
        """Reads every value as the string that it is written as."""

    AsWritten.yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("<<"))]}
    text = _text_of_recipe(context)
    if text is None:
        return
    try:
        raw = yaml.load(text, AsWritten)
    except (yaml.YAMLError, RecursionError):
        return
    yield from itertools.islice(_set_fields(raw, ""), MOST_FIELDS)


def _text_of_recipe(context: Any) -> str | None:
    """Return the YAML that a command's overrides change, or None where it names none."""
    params = context.params
    name = params.get("recipe") or params.get("study") or params.get("target") or context.info_name
    assets = resources.files("flyweight") / "assets"
    shipped = [assets / folder / f"{name}.yaml" for folder in ("recipes", "studies")]
    for file in (*shipped, Path(name)):
        with contextlib.suppress(OSError, ValueError):
            if file.is_file() and file.name.endswith((".yaml", ".yml")):
                with file.open(encoding="utf-8") as opened:
                    return opened.read(LONGEST)
    return None


def _set_fields(value: object, path: str) -> Iterator[str]:
    if isinstance(value, dict) and path.count(".") < DEEPEST:
        for key, inner in value.items():
            yield from _set_fields(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, str) and PLAIN.fullmatch(f"{path}{value}") and path:
        yield f"{path}={value}"


KINDS: dict[str, Callable[[Any], Iterator[str]]] = {
    "RECIPE": _recipes,
    "STUDY": _studies,
    "CONFIG": _configs,
    "MODEL": _models,
    "DATA": _corpora,
    "RUN": _runs,
    "path=value": _fields,
}


@contextlib.contextmanager
def whole_words() -> Iterator[None]:
    """Let bash complete `RUN:STAGE`.

    Bash takes a colon for the end of a word, and replaces only what follows it.
    """
    if os.environ.get(VARIABLE) != BASH or "COMP_WORDS" not in os.environ:
        yield
        return
    words, at = _joined(
        os.environ["COMP_WORDS"].split("\n"), int(os.environ.get("COMP_CWORD", "0"))
    )
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(words), str(at)
    run = words[at].rpartition(":")[0] if at < len(words) else ""
    start = f"{run}:" if run else ""
    answer = io.StringIO()
    try:
        with contextlib.redirect_stdout(answer):
            yield
    finally:
        for line in answer.getvalue().splitlines(keepends=True):
            sys.stdout.write(line.removeprefix(start))


def _joined(words: list[str], at: int) -> tuple[list[str], int]:
    """Return a line's words, joined around colons, and the new place of the word `at`."""
    joined: list[str] = []
    place = 0
    for number, word in enumerate(words):
        beside_colon = number > 1 and (word == ":" or joined[-1].endswith(":"))
        if beside_colon and joined[-1] != word:
            joined[-1] += word
        else:
            joined.append(word)
        if number == at:
            place = len(joined) - 1
    return joined, place if at < len(words) else len(joined)
