"""The summary of a finished study, `study.json`: every run, every cell and every finding.

All reports are drawn from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, Field

from flyweight.config.metrics import metric_kind
from flyweight.core.student import student
from flyweight.records.run_summary import CorpusSummary, Environment
from flyweight.records.sealed import Record, SealedRecord

FILE = "study.json"
LEAST_SEEDS = 3
"""The fewest runs for an interval; with fewer the t distribution would decide it."""

Standing = Literal["ok", "collapsed", "invalid"]
Verdict = Literal["confirmed", "refuted", "undecided"]


class Spread(Record):
    """A mean over seeds with its 95 % Student t interval; no interval for fewer than three."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        if len(values) < LEAST_SEEDS or not all(map(math.isfinite, values)):
            return cls(mean=math.fsum(values) / len(values), low=None, high=None, n=len(values))
        mean, low, high = student(values)
        return cls(mean=mean, low=low, high=high, n=len(values))

    def map(self, function: Callable[[float], float]) -> Spread:
        """Return the spread under a rising function."""
        ends = [None if end is None else function(end) for end in (self.low, self.high)]
        return Spread(mean=function(self.mean), low=ends[0], high=ends[1], n=self.n)


class RunSummary(Record):
    """One training of a cell: its artifact, its cost and its test metrics.

    `id` is None where training diverged. `validation` is the best validation NLL of the training,
    `memory_used` the most bytes that it held, where they were watched.
    Runs with `chosen` false lost the sweep over learning rates: they are not tested and count in no
    result.
    """

    seed: int
    lr: float | None
    id: str | None
    evaluation: str | None = None
    chosen: bool = True
    steps: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    validation: float | None = None
    memory_used: int | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    standing: Standing = "ok"
    why: str = ""


class CellSummary(Record):
    """One model on one text at one context for one budget, with its runs.

    The cell has means only where all of its runs are sound. `memory_planned` are the bytes that
    each training was planned with.
    """

    name: str
    model: str
    family: str
    fields: dict[str, str] = Field(default_factory=dict)
    data: str
    context: int
    budget: str
    config_line: str
    parameters: int
    lr: float | None
    at_edge: bool = False
    memory_planned: int | None = None
    runs: tuple[RunSummary, ...]

    @property
    def tested(self) -> list[RunSummary]:
        """The runs that count: those at the chosen learning rate."""
        return [run for run in self.runs if run.chosen]

    @property
    def standing(self) -> Standing:
        """`invalid` or `collapsed` where one of its runs is, else `ok`.

        A mean over the other runs alone would flatter the cell.
        """
        standings = {run.standing for run in self.tested}
        if "invalid" in standings:
            return "invalid"
        if "collapsed" in standings:
            return "collapsed"
        return "ok"

    @property
    def why(self) -> str:
        """How many of its runs are not sound, and the first one's reason; empty if all are."""
        bad = [run for run in self.tested if run.standing != "ok"]
        if not bad:
            return ""
        return f"{len(bad)} of {len(self.tested)} runs: {bad[0].why}"

    def spread(self, metric: str) -> Spread | None:
        """Return a metric over the seeds, or None for a cell that is not sound.

        A perplexity is averaged by its logarithm.
        """
        if self.standing != "ok":
            return None
        values = [run.metrics[metric] for run in self.tested]
        if metric_kind(metric).logs and all(map(math.isfinite, values)):
            return Spread.of([math.log(value) for value in values]).map(math.exp)
        return Spread.of(values)

    @property
    def validation(self) -> float:
        """Mean best validation NLL, by which models are chosen.

        Infinite for a cell that is not sound.
        """
        values = [run.validation for run in self.tested]
        if self.standing != "ok" or any(value is None for value in values):
            return math.inf
        return math.fsum(value for value in values if value is not None) / len(values)

    @property
    def finished(self) -> list[RunSummary]:
        """The runs that count and did not diverge: the cost of one that diverged is unknown."""
        return [run for run in self.tested if run.id is not None]

    @property
    def memory_used(self) -> int | None:
        """The most bytes that any of its trainings held; None where nobody looked."""
        used = [run.memory_used for run in self.finished if run.memory_used is not None]
        return max(used, default=None)

    @property
    def flops(self) -> float:
        """Mean training FLOPs of a finished run; 0 without one."""
        return math.fsum(run.flops for run in self.finished) / max(1, len(self.finished))

    @property
    def seconds(self) -> float:
        """Mean training seconds of a finished run; 0 without one."""
        return math.fsum(run.seconds for run in self.finished) / max(1, len(self.finished))


class ClaimComparison(Record):
    """One comparison of a finding: `below` minus `factor` times `above`.

    It is taken over the seeds that both have; of perplexities, between their logarithms. `p` is
    two-sided.
    """

    where: str
    below: str
    above: str
    below_flops: float
    above_flops: float
    how: str
    factor: float = 1.0
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 0
    verdict: Verdict = "undecided"
    why: str = ""


class FindingSummary(Record):
    """A claim with the study's verdict on it; `method` describes the test."""

    claim: str
    verdict: Verdict
    metric: str
    method: str
    contests: tuple[ClaimComparison, ...]


class StudySummary(SealedRecord):
    """All results of a finished study."""

    file: ClassVar[str] = FILE
    again: ClassVar[str] = "run the study again, which writes it anew"
    unfinished: ClassVar[str] = (
        f"is not a finished study: it has no {FILE}; run it with `flyweight study`"
    )

    format: Literal[1] = 1
    name: str
    about: str
    protocol: str
    protocol_line: str
    seeds: tuple[int, ...]
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    created: AwareDatetime
    command: str
    request: str = ""
    """Digest of the study as it was run; empty where an earlier version wrote the summary."""
    seconds: float
    environment: Environment
    corpus: dict[str, CorpusSummary]
    left_out: tuple[str, ...] = ()
    cells: tuple[CellSummary, ...]
    findings: tuple[FindingSummary, ...] = ()
