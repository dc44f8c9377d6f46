"""The verbs that run and plan recipes and studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flyweight.cli.options import WORK, CommonOptions, Overrides, Without, verb
from flyweight.core.terminal import print_json
from flyweight.errors import FlyweightError, NothingFits, RequestError

if TYPE_CHECKING:
    from flyweight.api.session import Session
    from flyweight.planning.grid import GridPlan
    from flyweight.planning.model_plan import ModelPlan
    from flyweight.planning.recipe_plan import Plan

Fresh = Annotated[bool, typer.Option("--fresh", help="Make a finished run anew.")]


def quickstart(
    shared: CommonOptions,
    overrides: Overrides = None,
    without: Without = None,
    fresh: Fresh = False,
) -> None:
    """Run the shipped recipe: a teacher, its students, and quantized models.

    Print their table and the path of the report.
    """
    _run(shared, "quickstart", overrides, without, fresh)


def run(
    shared: CommonOptions,
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="A YAML file or a shipped name (flyweight ls --recipes)."
        ),
    ],
    overrides: Overrides = None,
    without: Without = None,
    fresh: Fresh = False,
) -> None:
    """Run a recipe; finished stages are not made again."""
    _run(shared, recipe, overrides, without, fresh)


def study(
    shared: CommonOptions,
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", help="A YAML file or a shipped name (flyweight ls --studies)."
        ),
    ],
    overrides: Overrides = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Start a grid that is over its limit.")
    ] = False,
) -> None:
    """Run a grid of models under one protocol: table, plots, findings.

    Finished models are not made again.
    """
    from flyweight import api
    from flyweight.cli.show import results

    with shared.session() as session:
        result = api.study(study, *(overrides or ()), yes=yes, session=session)
    if shared.as_json:
        print_json(result.summary.model_dump(mode="json"))
    else:
        results.any_study(result)


def _run(
    shared: CommonOptions,
    recipe: str,
    overrides: list[str] | None,
    without: list[str] | None,
    fresh: bool,
) -> None:
    from flyweight import api

    with shared.session() as session:
        result = api.run(
            recipe, *(overrides or ()), without=without or (), fresh=fresh, session=session
        )
    shared.answer_run(result)


def train(
    shared: CommonOptions,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA ... [path=value ...]",
            help="Text files, folders, globs or a corpus name; then fields.",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name of the run [train-<file>].")] = None,
    fresh: Fresh = False,
) -> None:
    """Train a good small model of your own text within a budget (default: budget.time=10min)."""
    from flyweight import api

    data, overrides = _apart(words)
    with shared.session() as session:
        result = api.train(data, *overrides, name=name, fresh=fresh, session=session)
    if shared.as_json:
        print_json(result.summary.model_dump(mode="json"))
    else:
        from flyweight.cli.show import trained

        trained.trained(result, words)


def _apart(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the texts and the path=value words of a command.

    Raises RequestError where no text is named.
    """
    texts = [word for word in words if "=" not in word or Path(word).exists()]
    overrides = [word for word in words if word not in texts]
    if not texts:
        raise RequestError(
            f"{' '.join(words)}: no text is named; for example flyweight train notes.txt "
            f"{overrides[0]}"
        )
    return texts, overrides


def plan(
    shared: CommonOptions,
    target: Annotated[
        str, typer.Argument(metavar="RECIPE|STUDY|CONFIG|MODEL|TEXT", help="What to plan.")
    ],
    overrides: Overrides = None,
    memory: Annotated[str | None, typer.Option(help="Memory limit, for example 6GB.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit, for example 10min.")] = None,
    flops: Annotated[
        str | None, typer.Option(help="Limit of training FLOPs, for example 1e15.")
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(help="Limit of the smallest model's parameters, for example 5M.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--bytes", help="Limit of the smallest model's bytes, for example 4MB."),
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Print the recipe changed so that its memory fits.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Make two steps of each training, and show planned against measured."
        ),
    ] = False,
    without: Without = None,
) -> None:
    """Say what a recipe, study, config or model needs, before anything runs.

    For a text, say what `train` would choose. Exit status 1: it does not fit.
    """
    from flyweight import api
    from flyweight.cli.show import plans
    from flyweight.planning.grid import GridPlan
    from flyweight.planning.recipe_plan import Plan

    limits = {
        "memory": memory,
        "time": time,
        "flops": flops,
        "parameters": parameters,
        "bytes": size,
    }
    if fit and check:
        raise RequestError("--fit: it prints a recipe; check that one in a second call")
    with shared.session(quiet=True) as session:
        if api.is_text(target, session) and not without:
            result, chosen = _planned_text([target, *(overrides or ())], limits, session)
        else:
            chosen = ()
            result = api.plan(
                target,
                *(overrides or ()),
                memory=memory,
                time=time,
                flops=flops,
                parameters=parameters,
                bytes=size,
                without=without or (),
                session=session,
            )
        if check:
            result = api.checked(result, session)
    if fit:
        if not isinstance(result, Plan) or chosen:
            raise RequestError(
                f"--fit: {target} is not a recipe; only a recipe can be changed to fit"
            )
        fields = _fitted(target, overrides or (), without or (), limits, result)
        shared.answer(fields, plans.recipe)
        return
    answer = result.json()
    if chosen:
        answer = {**answer, "chosen": chosen}
    shared.answer(answer, lambda _: plans.plan(result, chosen))
    # Only what `run` or `study` would refuse is a failure, such as a grid over its limit.
    if getattr(result, "faults", ()) or (isinstance(result, GridPlan) and result.warnings):
        raise typer.Exit(1)


def _fitted(
    target: str,
    overrides: Sequence[str],
    without: Sequence[str],
    limits: Mapping[str, str | None],
    planned: Plan,
) -> Mapping[str, object]:
    """Return a recipe's fields under these limits, changed so that its memory fits."""
    from flyweight import api

    given = [f"budget.{name}={value}" for name, value in limits.items() if value is not None]
    words = [*overrides, *given]
    written = api.with_words(target, words, without)["stages"]
    assert isinstance(written, Mapping), "a recipe that was planned has stages"
    return api.with_words(target, [*words, *planned.words(written)], without)


def _planned_text(
    words: list[str], limits: Mapping[str, str | None], session: Session
) -> tuple[Plan | GridPlan | ModelPlan, tuple[str, ...]]:
    """Return the plan of training on a text, and what was chosen for it, in words."""
    from flyweight import api

    texts, fields = _apart(words)
    named = {name: value for name, value in limits.items() if value is not None}
    try:
        choice = api.choose(texts, *fields, limits=named, session=session)
    except NothingFits as error:
        raise FlyweightError(str(error)) from error
    return api.plan(choice.recipe, session=session), choice.lines


def schema(
    study: Annotated[bool, typer.Option("--study", help="The schema of study files.")] = False,
) -> None:
    """Print the JSON Schema of recipe files, or of both forms of studies, for editors."""
    from flyweight.config import load, tuning_study

    print_json(tuning_study.json_schema_of_studies() if study else load.json_schema(), indent=1)


def add(app: typer.Typer) -> None:
    """Register these verbs."""
    verb(app, *WORK)(quickstart)
    verb(app, *WORK)(run)
    verb(app, *WORK)(study)
    verb(app, *WORK)(train)
    verb(app, *WORK)(plan)
    app.command()(schema)
