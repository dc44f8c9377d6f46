"""The process that renders chat templates.

`decode.chat_template` asks it, and ends it where it takes too long.

A template is code from elsewhere: it runs in jinja's sandbox, with the variables and settings that
transformers gives it.
"""

from __future__ import annotations

import datetime
import functools
import json
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flyweight.core.helper import serve


class _Generation(Extension):
    """The tag around what the assistant says, which only training needs.

    Here its body is rendered as if there were no tag.
    """

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: Any) -> list[nodes.Node]:
        """Return the body of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


@functools.cache
def _compiled(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json  # jinja's own writes for HTML
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(source)


def render(question: dict[str, Any]) -> dict[str, object]:
    """Return the `text` of a conversation, or the reason why there is none.

    The reason's key is `unusable`, `refused` or `failed`.

    `source` is the template, `variables` what it is given, `longest` the most characters that it
    may make.
    """
    try:
        template = _compiled(question["source"])
    except MemoryError:
        raise
    except Exception as error:  # a template is code of other people, and fails in every way
        return {"unusable": _reason(error)}
    try:
        text = _joined(template, question["variables"], question["longest"])
    except jinja2.TemplateError as error:
        return {"refused": str(error)[:_LONGEST_REASON]}
    except MemoryError:
        raise
    except Exception as error:  # as above
        return {"failed": _reason(error)}
    return {"text": text} if text is not None else {"long": True}


def _joined(template: jinja2.Template, variables: dict[str, Any], longest: int) -> str | None:
    parts: list[str] = []
    for part in template.generate(**variables):
        longest -= len(part)
        if longest < 0:
            return None
        parts.append(part)
    return "".join(parts)


_LONGEST_REASON = 1000


def _reason(error: Exception) -> str:
    name = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
    return f"{name}{error}"[:_LONGEST_REASON]


if __name__ == "__main__":
    serve(render)
