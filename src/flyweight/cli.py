"""The command line: words to `flyweight.api` calls, and answers to text or JSON. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from flyweight import __version__, daily, housekeeping
from flyweight.errors import FlyweightError, RequestError
from flyweight.options import MACHINE, WORK, Shared, verb

app = typer.Typer(
    help="Small language models under a budget: train, distil, quantize and measure them the same honest way.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[path=value ...]", help="Fields to change.")]
Without = Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Leave a stage out.")]
Data = Annotated[str | None, typer.Option(metavar="DATA", help="A corpus: name, file, folder, glob, hf:owner/name.")]
Split = Annotated[str, typer.Option(help="train, validation, test or validation+test.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="An artifact folder or RECIPE:STAGE.")]
AnyModel = Annotated[str, typer.Argument(metavar="MODEL|CONFIG", help="A model, a YAML config or a name of the catalogue.")]


# --- recipes ---


@verb(app, *WORK)
def quickstart(
    shared: Shared,
    overrides: Overrides = None,
    without: Without = None,
) -> None:
    """Run the shipped recipe: teacher, students, quantized; print the table and where the report is."""
    _run(shared, "quickstart", overrides, without)


@verb(app, *WORK)
def run(
    shared: Shared,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file or a shipped name (flyweight ls --recipes).")],
    overrides: Overrides = None,
    without: Without = None,
) -> None:
    """Run a recipe; what is finished is not done again."""
    _run(shared, recipe, overrides, without)


@verb(app, *WORK)
def study(
    shared: Shared,
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A YAML file or a shipped name (flyweight ls --studies).")],
    overrides: Overrides = None,
    yes: Annotated[bool, typer.Option("--yes", help="Start a grid that is over its limit.")] = False,
) -> None:
    """Run a grid of models under one protocol: table, plots, findings; what is finished is not done again."""
    from flyweight import answers, api

    with shared.session() as session:
        result = api.study(study, *(overrides or ()), yes=yes, session=session)
    if shared.as_json:
        print(result.summary.model_dump_json())
    else:
        answers.study(result)


def _run(shared: Shared, recipe: str, overrides: list[str] | None, without: list[str] | None) -> None:
    from flyweight import api

    checked = api.load(recipe, *(overrides or ()), without=without or ())
    with shared.session() as session:
        result = api.run(checked, session)
    shared.answer_run(result)


@verb(app, *WORK)
def train(
    shared: Shared,
    data: Annotated[str, typer.Argument(metavar="DATA", help="A text file, folder, glob or corpus name.")],
    overrides: Overrides = None,
) -> None:
    """Train a good small model of one's own text within budget.time (10min unless given)."""
    from flyweight import api

    with shared.session() as session:
        result = api.train(data, *(overrides or ()), session=session)
    shared.answer_run(result)


@verb(app, *WORK)
def plan(
    shared: Shared,
    target: Annotated[str, typer.Argument(metavar="RECIPE|STUDY|CONFIG|MODEL", help="What to plan.")],
    overrides: Overrides = None,
    memory: Annotated[str | None, typer.Option(help="Memory limit, for example 6GB.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit, for example 10min.")] = None,
    flops: Annotated[str | None, typer.Option(help="Limit of training FLOPs, for example 1e15.")] = None,
    parameters: Annotated[str | None, typer.Option(help="Limit of the smallest model's parameters, for example 5M.")] = None,
    size: Annotated[str | None, typer.Option("--bytes", help="Limit of the smallest model's bytes, for example 4MB.")] = None,
) -> None:
    """Say what a recipe, study, config or model needs, before anything runs. Exit status 1: it does not fit."""
    from flyweight import answers, api
    from flyweight.plan import show
    from flyweight.plan.grid import GridPlan

    given = {"memory": memory, "time": time, "flops": flops, "parameters": parameters, "bytes": size}
    limits = {name: value for name, value in given.items() if value is not None}
    with shared.session(quiet=True) as session:
        subject: Any = api.planned(target, overrides or (), limits)
        result = api.plan(subject, session)
    shared.answer(result.json(), lambda _: answers.say(*show.lines(result)))
    # What `run` would only warn of is no failure; a grid over its limit is what `study` refuses.
    if getattr(result, "faults", ()) or (isinstance(result, GridPlan) and result.warnings):
        raise typer.Exit(1)


@verb(app, *WORK, "seed")
def distill(
    shared: Shared,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The teacher.")],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
) -> None:
    """Distil MODEL into a smaller one: model.dim=128 model.layers=4 train.steps=800 data.corpus=... as path=value words."""
    _one(shared, "distill", {"teacher": model}, overrides, name)


@verb(app, *WORK)
def quantize(
    shared: Shared,
    model: ModelName,
    kind: Annotated[str, typer.Option(help="int8 or nf4.")] = "int8",
    data: Data = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
) -> None:
    """Store MODEL's matrices in fewer bits and measure what that cost."""
    _one(shared, "quantize", {"input": model, "kind": kind}, overrides, name, data)


def _one(
    shared: Shared,
    verb: str,
    fields: dict[str, Any],
    overrides: list[str] | None,
    name: str | None,
    data: str | None = None,
) -> None:
    from flyweight import api

    with shared.session() as session:
        result = api.stage(verb, fields, overrides or (), name, data, session)
    shared.answer_run(result)


# --- measurements ---


@verb(app, *WORK, name="eval")
def evaluate(
    shared: Shared,
    model: ModelName,
    data: Data = None,
    split: Split = "test",
    window: Annotated[int | None, typer.Option(help="Tokens read at once [the model's context].")] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens between windows [the window].")] = None,
    tasks: Annotated[str | None, typer.Option(metavar="A,B", help="lm-eval tasks instead of a text.")] = None,
    task_path: Annotated[Path | None, typer.Option(metavar="DIR", help="A folder of task files of your own.")] = None,
    few_shot: Annotated[int | None, typer.Option(min=0, help="Examples before each question [the task's].")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each task [all].")] = None,
) -> None:
    """Measure NLL, perplexities and bits per byte with intervals; or lm-eval's tasks."""
    from flyweight import answers, api

    if tasks is not None and (data or window or stride):
        raise RequestError("--tasks: lm-eval brings its own texts; leave --data, --window and --stride out")
    if tasks is None and (task_path or few_shot is not None or limit):
        raise RequestError("--task-path, --few-shot and --limit belong to --tasks")
    with shared.session() as session:
        if tasks is not None:
            names = [name.strip() for name in tasks.split(",") if name.strip()]
            found = {"tasks": api.tasks(model, names, task_path, few_shot, limit, session)}
        else:
            found = api.evaluate(model, data, split, window, stride, session).json()
    shared.answer(found, answers.metrics if tasks is None else answers.tasks)


@verb(app, "runs", "data_dir")
def floors(
    shared: Shared,
    data: Annotated[str, typer.Argument(metavar="DATA")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    tokenizer: Annotated[str | None, typer.Option(help="word, char, byte, bpe, or {kind: bpe, vocab: 1024}.")] = None,
) -> None:
    """Measure what any model has to beat: unigram, bigram and Kneser-Ney 5-gram, of DATA's own tokens unless told otherwise."""
    from flyweight import answers, api

    with shared.session() as session:
        result = api.floors(data, split, session, tokenizer)
    shared.answer(result.json(), answers.floors)


@verb(app, *MACHINE, "seed")
def bench(
    shared: Shared,
    model: AnyModel,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    new_tokens: Annotated[int | None, typer.Option(help="Tokens generated [64].")] = None,
    prompt: Annotated[int | None, typer.Option(help="Tokens of the prompt [64].")] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs.")] = 5,
) -> None:
    """Measure speed and memory in a fresh process."""
    from flyweight import answers, api

    with shared.session() as session:
        result = api.bench(model, session, batch=batch, new_tokens=new_tokens, prompt=prompt, repeats=repeats)
    shared.answer(result.json(), answers.metrics)


@verb(app, *WORK, "seed")
def audit(
    shared: Shared,
    model: AnyModel,
    data: Data = None,
) -> None:
    """Check what makes numbers worthless: leaks, padding, caches, sizes. Exit status 1: a check failed."""
    from flyweight import answers, api

    with shared.session() as session:
        result = api.audit(model, data, session)
    shared.answer(result.json(), answers.checks)
    if not result.passed:
        raise typer.Exit(1)


# --- text ---


@verb(app, *MACHINE, "seed")
def generate(
    shared: Shared,
    model: ModelName,
    prompt: Annotated[str, typer.Argument(metavar="TEXT")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to add.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1)] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    min_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text (may be repeated).")] = None,
) -> None:
    """Continue a text."""
    from flyweight import api

    unsaid = [prompt]  # until the model is there and has something to add

    def speak(piece: str) -> None:
        sys.stdout.write("".join([*unsaid, piece]))
        sys.stdout.flush()
        unsaid.clear()

    with shared.session(quiet=True) as session:
        text = api.generate(
            model,
            prompt,
            max_new_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
            shared.seed,
            stop or (),
            None if shared.as_json else speak,
            session,
        )
    shared.answer({"prompt": prompt, "text": text}, lambda _: speak("\n"))


# --- in and out ---


@verb(app, *MACHINE, name="import")
def import_(
    shared: Shared,
    model: Annotated[str, typer.Argument(metavar="HF", help="A Hugging Face folder, or hf:owner/name[@revision].")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="A new folder for it, besides the runs root.")] = None,
) -> None:
    """Make a GPT-2, Llama or Qwen3 model one of flyweight's own."""
    from flyweight import answers, api

    with shared.session() as session:
        artifact = api.import_(model, out, session)
    found = {"id": artifact.id, "path": str(artifact.path), **artifact.facts}
    shared.answer(found, lambda _: answers.say(f"{artifact.id}: {artifact.path}"))


@verb(app, *MACHINE)
def export(
    shared: Shared,
    model: ModelName,
    out: Annotated[Path, typer.Option(metavar="DIR|FILE", help="Where it goes; it must not exist yet.")],
    to: Annotated[str, typer.Option(help="hf or gguf.")] = "hf",
    type: Annotated[str, typer.Option(help="Of a GGUF file's matrices: f32, f16, q8_0 or q4_0.")] = "f16",
) -> None:
    """Write MODEL for other programs: a Hugging Face folder or a GGUF file."""
    from flyweight import answers, api
    from flyweight.config.units import format_size

    with shared.session() as session:
        done = api.export(model, to, out, type, session)
    lines = [
        f"{done.path}: {done.kind}, {format_size(done.bytes)}",
        *(f"note: {note}" for note in done.notes),
        f"card: {done.card}",
    ]
    shared.answer(done.json(), lambda _: answers.say(*lines))


# --- housekeeping ---


@verb(app, "runs")
def report(
    shared: Shared,
    names: Annotated[list[str], typer.Argument(metavar="RUN ...", help="Finished runs.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR|FILE", help="A folder, or a page (.html) [the run's own; report/ for several].")
    ] = None,
) -> None:
    """Write the report of a finished run anew, or one page over several runs."""
    from flyweight import answers, api

    with shared.session(quiet=True) as session:
        path = api.report(names, out, session)
    shared.answer({"report": str(path)}, lambda value: answers.say(f"report: {value['report']}"))


housekeeping.add(app)


@app.command()
def schema(
    study: Annotated[bool, typer.Option("--study", help="Of study files.")] = False,
) -> None:
    """Print the JSON Schema of recipe files, for editors."""
    from flyweight.config import load, study as study_config

    print(json.dumps(study_config.json_schema() if study else load.json_schema(), indent=1))


daily.add(app)


def _version(asked: bool) -> None:
    if asked:
        print(f"flyweight {__version__}")
        raise typer.Exit


@app.callback()
def _top(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


def _fail(error: FlyweightError | str, status: int) -> NoReturn:
    text = re.sub(r"\S{1000,}", lambda word: f"{word[0][:200]}...", str(error))  # what was given may be endless
    print(f"flyweight: {text}", file=sys.stderr)
    sys.exit(status)


NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What torch says where an allocation fails: on a CPU it is a plain RuntimeError."""


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
    except OSError as error:
        _fail(f"the system refused: {error}", 1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error).lower() for words in NO_MEMORY):
            raise
        _fail("out of memory; a smaller train.batch, data.context or model needs less (`flyweight plan` tells how much)", 1)
