"""Everything a report says about finished runs, worked out once and read by every writer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from flyweight.records.run_summary import Summary
from flyweight.reports.findings import run as run_findings
from flyweight.reports.findings.advice import Advice, advice
from flyweight.reports.findings.phrases import Finding
from flyweight.reports.models import Group, RankedModel, groups, ranked_models


@dataclass(frozen=True)
class RunReport:
    """The models, verdicts and findings of one run or several.

    Pages, terminals and cards read the same one, so that none of them can disagree.
    """

    summaries: tuple[Summary, ...]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
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
    def findings(self) -> tuple[Finding, ...]:
        """What paid and what did not, then warnings."""
        if len(self.summaries) == 1:
            return run_findings.findings(self.summaries[0], self.groups)
        return run_findings.across(self.summaries, self.groups)

    @cached_property
    def parts(self) -> tuple[RunReport, ...]:
        """The report of each run alone; itself where it is about one."""
        if len(self.summaries) == 1:
            return (self,)
        return tuple(RunReport((summary,)) for summary in self.summaries)
