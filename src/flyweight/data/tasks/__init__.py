"""Tasks: prompts with the completions that are to follow them, read from files or the hub.

A task is `squad`, `dialogue`, `summarize`, or a file of the user's. Its rows become examples
through fixed texts, see `templates`.
"""

from flyweight.data.tasks.example import (
    DroppedRow as DroppedRow,
    Example as Example,
    Examples as Examples,
    TaskKind as TaskKind,
)
from flyweight.data.tasks.reading import (
    holds_examples as holds_examples,
    read_examples as read_examples,
)
from flyweight.data.tasks.templates import (
    TASKS as TASKS,
    TEMPLATES as TEMPLATES,
    Template as Template,
)
