"""Weights & Biases, trackio and TensorBoard behind one interface: one tracker run for one run."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flyweight.api.tracked_results import PlainTable
from flyweight.errors import RequestError

PROJECT = "flyweight"


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told at once: the run's name, its id, the recipe and tags.

    A tracker that knows the id goes on with that run.
    """

    name: str
    id: str
    config: Mapping[str, Any]
    tags: Sequence[str]


class Tracker(Protocol):
    """One run of a tracker; anything may raise whatever its library raises."""

    where: str

    def log(self, stage: str, kind: str, values: Mapping[str, float], step: int) -> None:
        """Log numbers of a stage's step as `<stage>/<kind>/<name>`, over the stage's own steps."""

    def results(self, tables: Sequence[PlainTable], numbers: Mapping[str, float]) -> None:
        """Keep the final tables and numbers."""

    def close(self, failed: bool) -> None:
        """Send what is left and end the tracker's run."""


class TensorBoard:
    """Files for `tensorboard --logdir tensorboard`, in a folder for each run."""

    def __init__(self, library: Any, run: TrackedRun) -> None:
        folder = Path("tensorboard") / f"{run.name}-{run.id}"
        self.where = str(folder)
        self.writer = library.SummaryWriter(self.where)
        config = json.dumps(run.config, indent=2, ensure_ascii=False)
        self.writer.add_text("config", "\n".join(f"    {line}" for line in config.splitlines()))
        self.writer.add_text("tags", ", ".join(run.tags))

    def log(self, stage: str, kind: str, values: Mapping[str, float], step: int) -> None:
        """Add a scalar for each number."""
        for name, value in values.items():
            self.writer.add_scalar(f"{stage}/{kind}/{name}", value, step)

    def results(self, tables: Sequence[PlainTable], numbers: Mapping[str, float]) -> None:
        """Add each table as text, and each number as a scalar of one step."""
        for table in tables:
            head = [table.columns, ["---"] * len(table.columns)]
            lines = [f"| {' | '.join(cells)} |" for cells in [*head, *table.rows]]
            self.writer.add_text(f"tables/{table.title}", "\n".join(lines))
        for name, value in numbers.items():
            self.writer.add_scalar(f"results/{name}", value, 0)

    def close(self, failed: bool) -> None:
        """Write the files to their end."""
        self.writer.close()


class WeightsAndBiases:
    """A run of wandb, of the project `flyweight`; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, library: Any, run: TrackedRun) -> None:
        self.library = library
        self.run = library.init(
            project=PROJECT,
            name=run.name,
            id=run.id,
            resume="allow",
            config=dict(run.config),
            tags=list(run.tags),
            settings=library.Settings(console="off", quiet=True),
        )
        self.where = self.run.url or self.run.dir
        self.axes = set[tuple[str, str]]()

    def log(self, stage: str, kind: str, values: Mapping[str, float], step: int) -> None:
        """Log over an axis of the stage's own: wandb's own counts the calls of all stages."""
        axis = f"{stage}/step"
        if (stage, kind) not in self.axes:
            self.axes.add((stage, kind))
            self.run.define_metric(axis)
            self.run.define_metric(f"{stage}/{kind}/*", step_metric=axis)
        named = {f"{stage}/{kind}/{name}": value for name, value in values.items()}
        self.run.log({axis: step, **named})

    def results(self, tables: Sequence[PlainTable], numbers: Mapping[str, float]) -> None:
        """Log each table as a wandb.Table, and put the numbers into the run's summary."""
        for table in tables:
            rows = [list(row) for row in table.rows]
            data = self.library.Table(columns=list(table.columns), data=rows)
            self.run.log({f"tables/{table.title}": data})
        self.run.summary.update(dict(numbers))

    def close(self, failed: bool) -> None:
        """End the run; one that failed is marked so."""
        self.run.finish(exit_code=int(failed))


class Trackio:
    """A run of trackio, of the project `flyweight`, on this machine."""

    def __init__(self, library: Any, run: TrackedRun) -> None:
        self.library = library
        name = f"{run.name}-{run.id}"
        self.run = library.init(
            project=PROJECT,
            name=name,
            config={**run.config, "tags": list(run.tags)},
            resume="allow",
        )
        self.where = f"{PROJECT}/{name}"

    def log(self, stage: str, kind: str, values: Mapping[str, float], step: int) -> None:
        """Log at the stage's own step."""
        named = {f"{stage}/{kind}/{name}": value for name, value in values.items()}
        self.run.log(named, step=step)

    def results(self, tables: Sequence[PlainTable], numbers: Mapping[str, float]) -> None:
        """Log each table as a trackio.Table, and the numbers at step 0."""
        for table in tables:
            rows = [list(row) for row in table.rows]
            data = self.library.Table(columns=list(table.columns), data=rows)
            self.run.log({f"tables/{table.title}": data}, step=0)
        self.run.log({f"results/{name}": value for name, value in numbers.items()}, step=0)

    def close(self, failed: bool) -> None:
        """End the run, through the library: it would end it again at exit, and say so."""
        self.library.finish()


@dataclass(frozen=True)
class Library:
    """A tracker's module, the extra of flyweight that installs it, and what it is used through.

    `otherwise` is what helps where it cannot begin.
    """

    module: str
    extra: str
    start: Callable[[Any, TrackedRun], Tracker]
    otherwise: str = ""

    def load(self, name: str) -> Any:
        """Return the module; raise RequestError where it is not installed."""
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise RequestError(
                f"trackers: {name} is not installed; pip install 'flyweight[{self.extra}]'"
            ) from error


TRACKERS: dict[str, Library] = {
    "tensorboard": Library("torch.utils.tensorboard", "track", TensorBoard),
    "wandb": Library(
        "wandb",
        "wandb",
        WeightsAndBiases,
        "WANDB_MODE=offline keeps its files on this machine; or ",
    ),
    "trackio": Library("trackio", "trackio", Trackio),
}
