"""The options that most verbs share, and how a verb is registered and answers."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer
from typer.core import TyperCommand

from flyweight.cli.completion import names_for
from flyweight.config.speed import EngineName
from flyweight.core.terminal import print_json
from flyweight.errors import RequestError

if TYPE_CHECKING:
    from flyweight.api import Run, Session

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class CommonOptions:
    """The values of the shared options for one command.

    Options that its verb does not have keep their defaults.
    """

    runs: Path | None = None
    data_dir: Path | None = None
    device: str | None = None
    threads: int | None = None
    seed: int = 0
    trust_remote_code: bool = False
    as_json: bool = False

    @contextmanager
    def session(self, quiet: bool = False) -> Iterator[Session]:
        """Yield a session whose progress is shown on standard error, unless `quiet`."""
        from flyweight.api import Session
        from flyweight.api.progress import Display
        from flyweight.core.console import Terminal

        command = " ".join(["flyweight", *map(shlex.quote, sys.argv[1:])])
        with Display(Terminal(stderr=True), quiet) as display:
            yield Session(
                runs=self.runs,
                data_dir=self.data_dir,
                device=self.device,
                threads=self.threads,
                seed=self.seed,
                watch=display,
                command=command,
                trust_remote_code=self.trust_remote_code,
            )

    def answer(self, value: T, show: Callable[[T], object]) -> None:
        """Print a result as one JSON object with --json, else by `show`."""
        if self.as_json:
            print_json(value)
        else:
            show(value)

    def answer_run(self, result: Run) -> None:
        """Print the results of a run."""
        if self.as_json:
            print_json(result.summary.model_dump(mode="json"))
        else:
            from flyweight.cli.show import results

            results.run(result)


OPTIONS: dict[str, tuple[Any, Any]] = {
    "runs": (
        Path | None,
        typer.Option("--runs", metavar="DIR", help="Runs root [FLYWEIGHT_RUNS, else ./runs]."),
    ),
    "data_dir": (
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Local copies of corpora [FLYWEIGHT_DATA]."),
    ),
    "device": (str | None, typer.Option(help="cpu, cuda or mps [the machine's best].")),
    "threads": (int | None, typer.Option(help="CPU threads [all cores].")),
    "seed": (int, typer.Option(help="Seed of random weights and samples.")),
    "trust_remote_code": (
        bool,
        typer.Option(
            "--trust-remote-code", help="Let a model's folder run Python code of its own."
        ),
    ),
    "as_json": (bool, typer.Option("--json", help="One JSON object on standard output.")),
}

MACHINE = ("runs", "device", "threads", "trust_remote_code")
WORK = ("runs", "data_dir", "device", "threads", "trust_remote_code")


class _Verb(TyperCommand):
    """A verb that answers an option such as `--time 60s` with the recipe's field of that name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command's words.

        Raises RequestError for an option that is a field of a recipe.
        """
        names = {name for parameter in self.params for name in parameter.opts}
        takes_fields = any("path=value" in str(parameter.metavar) for parameter in self.params)
        if takes_fields and not ctx.resilient_parsing:
            options = args[: args.index("--")] if "--" in args else args
            for option in (word.partition("=")[0] for word in options if word.startswith("--")):
                if option not in names and (paths := _fields_called(option)):
                    known = " or ".join(f"{path}=..." for path in paths)
                    raise RequestError(f"{option}: no such option; write {known} (without dashes)")
        return super().parse_args(ctx, args)


def _fields_called(option: str) -> list[str]:
    from flyweight.config.places import recipe_places

    return recipe_places(option.removeprefix("--").replace("-", "_"))


def verb(
    app: typer.Typer, *options: str, name: str | None = None
) -> Callable[
    [Callable[Concatenate[CommonOptions, P], None]],
    Callable[Concatenate[CommonOptions, P], None],
]:
    """Register a function as a verb of the command line.

    Its parameters after the first become options and arguments. The `options` are names of OPTIONS
    that it takes besides; every verb takes --json.
    """

    def register(
        function: Callable[Concatenate[CommonOptions, P], None],
    ) -> Callable[Concatenate[CommonOptions, P], None]:
        names = [*options, "as_json"]

        def command(**words: Any) -> None:
            shared = CommonOptions(**{name: words.pop(name) for name in names})
            function(shared, **words)  # pyright: ignore[reportCallIssue]

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        for parameter in own:
            for info in getattr(parameter.annotation, "__metadata__", ()):
                info.autocompletion = names_for(info.metavar)
        added = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=getattr(CommonOptions, name),
                annotation=Annotated[OPTIONS[name]],
            )
            for name in names
        ]
        signature = inspect.Signature([*own, *added])
        command.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        app.command(name=name, cls=_Verb)(command)
        return function

    return register


Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[path=value ...]", help="Fields to change.")
]
Without = Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Leave a stage out.")]
Data = Annotated[
    str | None,
    typer.Option(metavar="DATA", help="A corpus: name, file, folder, glob, hf:owner/name."),
]
Separator = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="The text between the documents of a text file."),
]
Task = Annotated[
    str | None,
    typer.Option(
        metavar="TASK",
        help="squad, dialogue, summarize, or a file of prompts and completions.",
    ),
]
EngineOption = Annotated[
    EngineName,
    typer.Option(
        help="eager: torch's products; compiled: this machine's, made once by its C compiler.",
    ),
]
LmEvalTasks = Annotated[
    str | None, typer.Option(metavar="A,B", help="Tasks or groups of tasks of lm-eval.")
]
TaskPath = Annotated[
    Path | None, typer.Option(metavar="DIR", help="A folder of lm-eval task files of your own.")
]
FewShot = Annotated[
    int | None, typer.Option(min=0, help="Examples before each lm-eval question [the task's].")
]
TaskSplit = Annotated[
    str | None,
    typer.Option(help="train, validation, test or validation+test [test; validation of a task]."),
]
NewTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens of an answer at most [as the task needs].")
]
BadRows = Annotated[
    int | None, typer.Option(min=0, help="Rows of a task that may be left out as faulty [0].")
]
ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="An artifact folder or RECIPE:STAGE[@0.5].")
]
AnyModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|CONFIG", help="A model, a YAML config or a name of the catalogue."
    ),
]

Audited = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|CONFIG|RUN", help="A model, a config, or the name of a finished run."
    ),
]


def listed(names: str | None) -> list[str]:
    """Return the names of an option that lists several, with commas between them."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]
