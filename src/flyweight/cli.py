"""The command line: words to `flyweight.api` calls, and answers to text or JSON. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from flyweight import __version__
from flyweight.errors import FlyweightError

if TYPE_CHECKING:
    from flyweight.api import Run, Session

app = typer.Typer(
    help="Small language models under a budget: train, distil, quantize and measure them the same honest way.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Runs = Annotated[Path | None, typer.Option("--runs", metavar="DIR", help="Runs root [FLYWEIGHT_RUNS, else ./runs].")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", metavar="DIR", help="Local copies of corpora [FLYWEIGHT_DATA].")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps [the best there is].")]
Threads = Annotated[int | None, typer.Option(help="CPU threads [all cores].")]
Seed = Annotated[int, typer.Option(help="Seed of random weights and samples.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[path=value ...]", help="Fields to change.")]
Without = Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Leave a stage out.")]
Data = Annotated[str | None, typer.Option(metavar="DATA", help="A corpus: name, file, folder, glob, hf:owner/name.")]
Split = Annotated[str, typer.Option(help="train, validation or test.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="An artifact folder or RECIPE:STAGE.")]
AnyModel = Annotated[str, typer.Argument(metavar="MODEL|CONFIG", help="A model, a YAML config or a name of the catalogue.")]


@contextmanager
def _session(
    runs: Path | None, data_dir: Path | None, device: str | None, threads: int | None, seed: int = 0, quiet: bool = False
) -> Iterator[Session]:
    """Yield a session whose progress is shown on standard error."""
    from rich.console import Console

    from flyweight.api import Session
    from flyweight.terminal import Display

    command = " ".join(["flyweight", *map(shlex.quote, sys.argv[1:])])
    with Display(Console(stderr=True), quiet) as display:
        yield Session(runs, data_dir, device, threads, seed, display, command)


def _answer(value: Any, as_json: bool, show: Callable[[Any], Any]) -> None:
    """Print a result: as one JSON object, or as `show` has it."""
    if as_json:
        print(json.dumps(value, ensure_ascii=False, allow_nan=False))
    else:
        show(value)


def _answer_run(result: Run, as_json: bool) -> None:
    if as_json:
        print(result.summary.model_dump_json())
    else:
        from flyweight import answers

        answers.run(result)


# --- recipes ---


@app.command()
def quickstart(
    overrides: Overrides = None,
    without: Without = None,
    runs: Runs = None,
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Run the shipped recipe: teacher, students, quantized; print the table and where the report is."""
    _run("quickstart", overrides, without, runs, data_dir, device, threads, as_json)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file or a shipped name (flyweight ls --recipes).")],
    overrides: Overrides = None,
    without: Without = None,
    runs: Runs = None,
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Run a recipe; what is finished is not done again."""
    _run(recipe, overrides, without, runs, data_dir, device, threads, as_json)


def _run(
    recipe: str,
    overrides: list[str] | None,
    without: list[str] | None,
    runs: Path | None,
    data_dir: Path | None,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    from flyweight import api

    checked = api.load(recipe, *(overrides or ()), without=without or ())
    with _session(runs, data_dir, device, threads) as session:
        result = api.run(checked, session)
    _answer_run(result, as_json)


@app.command()
def train(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A text file, folder, glob or corpus name.")],
    overrides: Overrides = None,
    runs: Runs = None,
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train a good small model of one's own text within budget.time (10min unless given)."""
    from flyweight import api

    with _session(runs, data_dir, device, threads) as session:
        result = api.train(data, *(overrides or ()), session=session)
    _answer_run(result, as_json)


@app.command()
def plan(
    target: Annotated[str, typer.Argument(metavar="RECIPE|CONFIG|MODEL", help="What to plan.")],
    overrides: Overrides = None,
    memory: Annotated[str | None, typer.Option(help="Memory limit, for example 6GB.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit, for example 10min.")] = None,
    flops: Annotated[str | None, typer.Option(help="Limit of training FLOPs, for example 1e15.")] = None,
    runs: Runs = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Say what a recipe, config or model needs, before anything runs. Exit status 1: it does not fit."""
    from flyweight import answers, api
    from flyweight.plan import show
    from flyweight.plan.plan import Plan

    limits = [f"budget.{name}={value}" for name, value in (("memory", memory), ("time", time), ("flops", flops)) if value]
    with _session(runs, None, device, threads, quiet=True) as session:
        subject: Any = api.planned(target, [*(overrides or ()), *limits], session)
        result = api.plan(subject, session)
    _answer(result.json(), as_json, lambda _: answers.say(*show.lines(result)))
    if isinstance(result, Plan) and (result.faults or result.warnings):
        raise typer.Exit(1)


@app.command()
def distill(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The teacher.")],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    runs: Runs = None,
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Distil MODEL into a smaller one: model.dim=128 model.layers=4 train.steps=800 data.corpus=... as path=value words."""
    _one("distill", {"teacher": model}, overrides, name, runs, data_dir, device, threads, seed, as_json)


@app.command()
def quantize(
    model: ModelName,
    kind: Annotated[str, typer.Option(help="int8 or nf4.")] = "int8",
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    runs: Runs = None,
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Store MODEL's matrices in fewer bits and measure what that cost."""
    _one("quantize", {"input": model, "kind": kind}, overrides, name, runs, data_dir, device, threads, 0, as_json)


def _one(
    verb: str,
    fields: dict[str, Any],
    overrides: list[str] | None,
    name: str | None,
    runs: Path | None,
    data_dir: Path | None,
    device: str | None,
    threads: int | None,
    seed: int,
    as_json: bool,
) -> None:
    from flyweight import api

    with _session(runs, data_dir, device, threads, seed) as session:
        result = api.stage(verb, fields, overrides or (), name, session)
    _answer_run(result, as_json)


# --- measurements ---


@app.command(name="eval")
def evaluate(
    model: ModelName,
    data: Data = None,
    split: Split = "test",
    window: Annotated[int | None, typer.Option(help="Tokens read at once [the model's context].")] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens between windows [the window].")] = None,
    runs: Runs = None,
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure NLL, perplexities and bits per byte with intervals."""
    from flyweight import answers, api

    with _session(runs, data_dir, device, threads) as session:
        result = api.evaluate(model, data, split, window, stride, session)
    _answer(result.json(), as_json, answers.metrics)


@app.command()
def floors(
    data: Annotated[str, typer.Argument(metavar="DATA")],
    split: Split = "test",
    runs: Runs = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Measure what any model has to beat: unigram, bigram and Kneser-Ney 5-gram."""
    from flyweight import answers, api

    with _session(runs, data_dir, "cpu", None) as session:
        result = api.floors(data, split, session)
    _answer(result.json(), as_json, answers.metrics)


@app.command()
def bench(
    model: AnyModel,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    new_tokens: Annotated[int, typer.Option(help="Tokens generated.")] = 64,
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 64,
    repeats: Annotated[int, typer.Option(help="Timed runs.")] = 5,
    runs: Runs = None,
    device: Device = None,
    threads: Threads = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure speed and memory in a fresh process."""
    from flyweight import answers, api

    with _session(runs, None, device, threads, seed) as session:
        result = api.bench(model, session, batch=batch, new_tokens=new_tokens, prompt=prompt, repeats=repeats)
    _answer(result.json(), as_json, answers.metrics)


@app.command()
def audit(
    model: AnyModel,
    data: Data = None,
    runs: Runs = None,
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Check what makes numbers worthless: leaks, padding, caches, sizes. Exit status 1: a check failed."""
    from flyweight import answers, api

    with _session(runs, data_dir, device, threads, seed) as session:
        result = api.audit(model, data, session)
    _answer(result.json(), as_json, answers.checks)
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def compare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL ...")],
    data: Data = None,
    split: Split = "test",
    runs: Runs = None,
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Order models by bits per byte, each with its paired interval against the best."""
    from flyweight import answers, api

    with _session(runs, data_dir, device, threads) as session:
        rows = api.compare(models, data, split, session)
    _answer({"models": [row.json() for row in rows]}, as_json, lambda _: answers.rows(rows))


# --- text ---


@app.command()
def generate(
    model: ModelName,
    prompt: Annotated[str, typer.Argument(metavar="TEXT")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to add.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1)] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    min_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    seed: Seed = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text (may be repeated).")] = None,
    runs: Runs = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Continue a text."""
    from flyweight import api

    def speak(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    with _session(runs, None, device, threads, quiet=True) as session:
        if not as_json:
            speak(prompt)
        text = api.generate(
            model,
            prompt,
            max_new_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            stop or (),
            None if as_json else speak,
            session,
        )
    _answer({"prompt": prompt, "text": text}, as_json, lambda _: speak("\n"))


# --- housekeeping ---


@app.command()
def report(
    names: Annotated[list[str], typer.Argument(metavar="RUN ...", help="Finished runs.")],
    out: Annotated[Path, typer.Option(help="Where a page over several runs goes.")] = Path("report.html"),
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Write the report of a finished run anew, or one page over several runs."""
    from flyweight import answers, api

    with _session(runs, None, None, None, quiet=True) as session:
        path = api.report(names, out, session)
    _answer({"report": str(path)}, as_json, lambda value: answers.say(f"report: {value['report']}"))


@app.command()
def ls(
    catalogue: Annotated[bool, typer.Option("--catalogue", help="Shipped model configs.")] = False,
    recipes: Annotated[bool, typer.Option("--recipes", help="Shipped recipes.")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """List artifacts, or what is shipped."""
    from flyweight import answers, api

    with _session(runs, None, None, None, quiet=True) as session:
        found = api.shipped_models() if catalogue else api.shipped() if recipes else api.artifacts(session)
    _answer({"items": found}, as_json, lambda value: answers.items(value["items"]))


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipe files, for editors."""
    from flyweight.config.load import json_schema

    print(json.dumps(json_schema(), indent=1))


@app.command()
def doctor(runs: Runs = None, device: Device = None, threads: Threads = None, as_json: Json = False) -> None:
    """Say what this machine can do."""
    from flyweight import answers, api

    with _session(runs, None, device, threads, quiet=True) as session:
        found = api.doctor(session)
    _answer(found, as_json, lambda value: answers.say(*(f"{key:14} {text}" for key, text in value.items())))


def _version(asked: bool) -> None:
    if asked:
        print(f"flyweight {__version__}")
        raise typer.Exit


@app.callback()
def _top(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


def _fail(error: FlyweightError | str, status: int) -> NoReturn:
    print(f"flyweight: {error}", file=sys.stderr)
    sys.exit(status)


def main() -> None:
    """Run the command line: exit status 0 done, 1 failed, 2 the request was wrong."""
    try:
        app()
    except FlyweightError as error:
        _fail(error, error.status)
    except KeyboardInterrupt:
        _fail("interrupted; what was finished is kept, and the same command goes on from there", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError:
        _fail("out of memory; a smaller train.batch, data.context or model needs less (`flyweight plan` tells how much)", 1)
