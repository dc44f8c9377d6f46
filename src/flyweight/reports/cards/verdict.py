"""The verdict of a run on a model's card: the same one as on the run's page and in its terminal."""

from __future__ import annotations

from flyweight.records.run_summary import Summary
from flyweight.reports.findings.advice import Advice
from flyweight.reports.report import RunReport
from flyweight.tables.markdown import code, text


def sections(summary: Summary) -> dict[str, list[str]]:
    """Return the lines of a run's verdict for the card of each model, by the model's name.

    A model that was measured on a text without any verdict has no lines.
    """
    report = RunReport((summary,))
    return {
        model.model.name: _section(summary.name, advice, model.label)
        for group, advice in zip(report.groups, report.advice, strict=True)
        if advice is not None
        for model in group.models
    }


def _section(run: str, advice: Advice, label: str) -> list[str]:
    lines = [f"## Verdict of {code(run)}", "", f"{_marked(advice.title)}.", ""]
    for choice in advice.choices:
        roles = text(", ".join(choice.roles))
        lines.append(f"- {roles}: {code(choice.label)}, {text(choice.details)}")
    lines += [f"- {_marked(note)}" for note in advice.notes]
    return [*lines, "", _standing(advice, label), ""]


def _standing(advice: Advice, label: str) -> str:
    """Say what this card's model is in the verdict."""
    roles = [role for choice in advice.choices if choice.key == label for role in choice.roles]
    if not roles:
        return "This card's model is not one of those to take."
    return f"This card's model: {text(', '.join(roles))}."


def _marked(sentence: str) -> str:
    """Return a sentence in Markdown, the names between its backticks as code."""
    parts = sentence.rstrip(".").split("`")
    return "".join(code(part) if place % 2 else text(part) for place, part in enumerate(parts))
