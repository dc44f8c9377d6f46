"""Everything a report says about finished runs, worked out once and read by every writer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flyweight.records.run_summary import Summary
from flyweight.reports.findings import run as run_findings
from flyweight.reports.findings.advice import Advice, advice
from flyweight.reports.findings.phrases import RunFinding
from flyweight.reports.findings.tasks import task_findings
from flyweight.reports.layouts.content import LayoutContent
from flyweight.reports.layouts.registry import layout_of
from flyweight.reports.models import ModelGroup, RankedModel, groups, ranked_models
from flyweight.reports.tables.lm_eval import LmEvalTable, lm_eval_tables
from flyweight.reports.tables.tasks import TaskTable, task_tables
from flyweight.tables.engine import Table


@dataclass(frozen=True)
class RunReport:
    """The models, verdicts and findings of one run or several.

    Pages, terminals and cards read the same one, so that none of them can disagree.
    """

    summaries: tuple[Summary, ...]

    @cached_property
    def groups(self) -> tuple[ModelGroup, ...]:
        """The models by the text that they were measured on."""
        return groups(ranked_models(self.summaries))

    @property
    def models(self) -> list[RankedModel]:
        """All models, group by group."""
        return [model for group in self.groups for model in group.models]

    @cached_property
    def advice(self) -> tuple[Advice | None, ...]:
        """Which model to take from each group; None where nothing was measured."""
        return tuple(advice(group) for group in self.groups)

    @cached_property
    def findings(self) -> tuple[RunFinding, ...]:
        """What paid and what did not, then warnings."""
        of_tasks = [
            finding for task in self.tasks for finding in task_findings(task.scores, task.pairs)
        ]
        if len(self.summaries) == 1:
            return (*run_findings.findings(self.summaries[0], self.groups), *of_tasks)
        return (*run_findings.across(self.summaries, self.groups), *of_tasks)

    @cached_property
    def tasks(self) -> tuple[TaskTable, ...]:
        """The tasks that models were scored on, run by run."""
        return tuple(table for summary in self.summaries for table in task_tables(summary))

    @cached_property
    def lm_eval(self) -> tuple[LmEvalTable, ...]:
        """lm-eval's tasks that models were measured on, a table for each run."""
        return tuple(lm_eval_tables(self.summaries))

    @cached_property
    def layouts(self) -> tuple[tuple[Summary, LayoutContent], ...]:
        """The papers' tables and figures, of each run whose recipe asks for a layout."""
        filled = ((summary, layout_of(summary)) for summary in self.summaries)
        return tuple((summary, content) for summary, content in filled if content is not None)

    @property
    def task_tables(self) -> list[tuple[str, Table[Any]]]:
        """The title and the table of every task, lm-eval's last."""
        return [
            *((each.title, each.table) for each in self.tasks),
            *((each.title, each.table) for each in self.lm_eval),
        ]

    @cached_property
    def parts(self) -> tuple[RunReport, ...]:
        """The report of each run alone; itself where it is about one."""
        if len(self.summaries) == 1:
            return (self,)
        return tuple(RunReport((summary,)) for summary in self.summaries)
