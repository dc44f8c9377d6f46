"""Tab completion: the names that can take a word's place on the command line.

This module imports only the standard library.
"""

from __future__ import annotations

import contextlib
import io
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


def names_for(metavar: str | None) -> Callable[[Any, str], list[str]] | None:
    """Return the completion of a parameter, by the kinds that its metavar names.

    Return None where the metavar names no kind.
    """
    kinds = [kind for kind in re.findall(r"[A-Z]+", metavar or "") if kind in KINDS]
    if not kinds:
        return None

    def complete(ctx: Any, incomplete: str) -> list[str]:
        names = {name for kind in kinds for name in KINDS[kind](ctx)}
        return sorted(name for name in names if name.startswith(incomplete))

    return complete


def _recipes(context: Any) -> Iterator[str]:
    return _shipped("recipes")


def _studies(context: Any) -> Iterator[str]:
    return _shipped("studies")


def _configs(context: Any) -> Iterator[str]:
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


def _corpora(context: Any) -> Iterator[str]:
    yield from CORPORA


def _root(context: Any) -> Path:
    runs = None if context is None else context.params.get("runs")
    return Path(runs or os.environ.get("FLYWEIGHT_RUNS") or "runs")


def _runs(context: Any) -> Iterator[str]:
    """Yield the runs in the runs root that have a report; unfinished ones have none."""
    root = _root(context)
    if not root.is_dir():
        return
    for folder in sorted(root.iterdir()):
        if not ARTIFACT.fullmatch(folder.name) and (folder / "report.html").is_file():
            yield folder.name


def _models(context: Any) -> Iterator[str]:
    """Yield `RUN:STAGE` for the links of a run to artifacts that hold a model."""
    root = _root(context)
    for run in _runs(context):
        links = sorted(path for path in (root / run).iterdir() if path.is_symlink())
        yield from (f"{run}:{link.name}" for link in links if (link / "model").is_dir())


KINDS: dict[str, Callable[[Any], Iterator[str]]] = {
    "RECIPE": _recipes,
    "STUDY": _studies,
    "CONFIG": _configs,
    "MODEL": _models,
    "DATA": _corpora,
    "RUN": _runs,
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
