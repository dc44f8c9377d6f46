"""Small task files from what is on this machine: `python -m flyweight.data.tasks.make DIR`.

Docstrings of the standard library become questions and summaries, the plays of Tiny Shakespeare
dialogues. The files are the same for the same Python and plays. `--data-dir DIR` reads them.

    DIR/squad/{train,validation,test}.jsonl
    DIR/cnn-dailymail/{train,validation,test}.jsonl
    DIR/daily-dialog/{train,validation,test}.jsonl
"""

from __future__ import annotations

import ast
import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flyweight.core.files import refuse_existing, user_path, write_text
from flyweight.core.terminal import prepare
from flyweight.data.document import SPLITS, Document, HeldOut, SplitName
from flyweight.data.sources import python_stdlib, resolve
from flyweight.data.sources.local import VARIABLE, data_folder
from flyweight.data.tasks.schemas import Json
from flyweight.errors import FlyweightError

HELD_OUT = HeldOut(0.1, 0.1)
"""The files whose docstrings are held out, by a hash of their names."""

LONGEST = 600
"""The most characters of a context, an article or a turn."""

SHORTEST_ARTICLE = 160
"""The fewest characters of an article: with fewer there is nothing to sum up."""

SHORTEST_SUMMARY = 10
"""The fewest characters of a docstring's first line that is taken as a summary."""

TURNS = 5
"""The most turns of a dialogue."""

_RETURNED = re.compile(r"\breturns?\s+(?=[a-z])([^.;:\n]{3,60}?)(?=[.;:\n])", re.IGNORECASE)
_SPEAKER = re.compile(r"[A-Z][A-Za-z' ]{1,30}:")

Rows = list[Mapping[str, Json]]


@dataclass(frozen=True)
class Documented:
    """A documented function: its name, arguments (with what is their default) and docstring."""

    name: str
    arguments: str
    defaults: tuple[tuple[str, str], ...]
    text: str

    @property
    def context(self) -> str:
        """The first line of the definition, then the docstring."""
        return f"def {self.name}({self.arguments}):\n{self.text}"


def write_tasks(folder: Path, data_dir: Path | None = None) -> dict[str, dict[str, int]]:
    """Write task files into a new folder and return how many rows each split of them has.

    A task whose text cannot be had is left out. Raises RequestError where there is something in
    `folder`, and FlyweightError where the disk refuses.
    """
    refuse_existing(folder)
    tasks: dict[str, dict[SplitName, Rows]] = {
        "squad": {split: [] for split in SPLITS},
        "cnn-dailymail": {split: [] for split in SPLITS},
        "daily-dialog": {},
    }
    seen: set[str] = set()
    for split in SPLITS:
        for place, function in _functions(split, seen):
            tasks["squad"][split] += _questions(place, function)
            tasks["cnn-dailymail"][split] += _summaries(place, function, seen)
    try:
        tasks["daily-dialog"] = {split: _dialogues(split, data_dir) for split in SPLITS}
    except FlyweightError as error:
        print(f"flyweight: no dialogues are written: {error}", file=sys.stderr)
    counts: dict[str, dict[str, int]] = {}
    for task, splits in tasks.items():
        for split, rows in splits.items():
            lines = (json.dumps(row, ensure_ascii=False) for row in rows)
            file = folder / task / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, "".join(f"{line}\n" for line in lines))
            counts.setdefault(task, {})[split] = len(rows)
    return counts


def _functions(split: SplitName, seen: set[str]) -> Iterator[tuple[str, Documented]]:
    """Yield a split's documented functions, each docstring once, under the name of their place."""
    source = python_stdlib.open_source(None, HELD_OUT)
    text = name = ""
    for document in source.documents(split):
        if not isinstance(document, Document):
            continue
        if document.continues:
            text += document.text
            continue
        yield from _in_file(name, text, seen)
        name, text = document.name, document.text
    yield from _in_file(name, text, seen)


def _in_file(name: str, text: str, seen: set[str]) -> Iterator[tuple[str, Documented]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old files
        try:
            tree = ast.parse(text)
        except SyntaxError:
            return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node)
        if docstring and len(docstring) <= LONGEST and docstring not in seen:
            seen.add(docstring)
            function = Documented(
                node.name, ast.unparse(node.args), _defaults(node.args), docstring
            )
            if len(function.context) <= LONGEST:
                yield f"{name}:{node.lineno}", function


def _defaults(arguments: ast.arguments) -> tuple[tuple[str, str], ...]:
    """Return the names of arguments with a default, and the default as it is written."""
    positional = [*arguments.posonlyargs, *arguments.args]
    names = positional[len(positional) - len(arguments.defaults) :]
    pairs = [
        *zip(names, arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return tuple((name.arg, ast.unparse(value)) for name, value in pairs if value is not None)


def _questions(place: str, function: Documented) -> Rows:
    """Return questions about a function whose answers stand in its definition or docstring."""
    asked: list[tuple[str, str]] = [("What is the name of the function?", function.name)]
    for name, value in function.defaults[:2]:
        asked.append((f"What is the default of {name}?", value))
    if match := _RETURNED.search(function.text):
        asked.append((f"What does {function.name} return?", match[1].strip()))
    return [
        {
            "id": f"{place}/{number}",
            "title": place.partition(":")[0],
            "context": function.context,
            "question": question,
            "answers": {"text": [answer], "answer_start": [function.context.index(answer)]},
        }
        for number, (question, answer) in enumerate(asked)
        if answer in function.context
    ]


def _summaries(place: str, function: Documented, seen: set[str]) -> Rows:
    """Return a docstring's body as an article, each once, and its first line as the summary."""
    summary, _, body = function.text.partition("\n")
    article = f"{function.name}({function.arguments})\n\n{body.strip()}"
    prose = ">>>" not in body and len(body.strip()) >= SHORTEST_ARTICLE
    if not prose or len(summary.strip()) < SHORTEST_SUMMARY or article in seen:
        return []
    seen.add(article)
    return [{"article": article, "highlights": summary.strip(), "id": place}]


def _dialogues(split: SplitName, data_dir: Path | None) -> Rows:
    """Return the speeches of a split's plays, a few in a row; stage directions end a dialogue."""
    source = resolve("tiny-shakespeare", data_dir)
    text = "".join(part.text for part in source.documents(split) if isinstance(part, Document))
    rows: Rows = []
    turns: list[str] = []

    def end() -> None:
        if len(turns) > 1:
            rows.append({"dialog": list(turns)})
        turns.clear()

    for block in text.split("\n\n"):
        speaker, _, speech = block.strip().partition("\n")
        speech = " ".join(speech.split())
        if not _SPEAKER.fullmatch(speaker) or not speech or len(speech) > LONGEST:
            end()
            continue
        turns.append(speech)
        if len(turns) == TURNS:
            end()
    end()
    return rows


def main() -> None:
    """Write task files into the folder named on the command line."""
    prepare()
    if len(sys.argv) != 2:
        sys.exit("python -m flyweight.data.tasks.make DIR")
    try:
        folder = user_path(sys.argv[1])
        for task, splits in write_tasks(folder, data_folder(None)).items():
            counts = ", ".join(f"{split} {rows:,}" for split, rows in splits.items())
            print(f"{folder / task}: {counts}")
        print(f"take them with --data-dir {folder}, or {VARIABLE}={folder}")
    except FlyweightError as error:
        print(f"flyweight: {error}", file=sys.stderr)
        sys.exit(error.status)


if __name__ == "__main__":
    main()
