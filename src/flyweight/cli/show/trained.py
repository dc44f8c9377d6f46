"""What `flyweight train` ends with: the results, a sample, and the commands to go on with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.text import Text

from flyweight.api import Run
from flyweight.cli.show import results
from flyweight.cli.show.console import say

LONGEST_SAMPLE = 400
"""Characters of the sample that are shown."""


def trained(result: Run, words: Sequence[str]) -> None:
    """Print a finished run of `train`, which was given `words`."""
    results.run(result)
    for model in result.summary.models:
        name = f"{result.summary.name}:{model.name}"
        prompt = ""
        for sample in model.samples[:1]:
            prompt = sample.prompt
            text = sample.text.removeprefix(prompt)[:LONGEST_SAMPLE]
            say("", Text.assemble(("a sample: ", "dim"), (prompt, "bold"), text))
        say("", "go on with:", *(f"  {command}" for command in commands(name, prompt, words)))


def commands(name: str, prompt: str, words: Sequence[str]) -> list[str]:
    """Return commands that take a trained model further.

    `words` are those that `train` was given.
    """
    kept = [word for word in words if not word.startswith("budget.time=")]
    longer = " ".join(map(shlex.quote, kept))
    return [
        f"flyweight generate {name} {shlex.quote(prompt)}",
        f"flyweight quantize {name} --kind int8",
        f"flyweight export {name} --to hf --out {name.replace(':', '-')}",
        f"flyweight train {longer} budget.time=1h",
    ]
