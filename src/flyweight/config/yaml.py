"""YAML as recipes are written: safe, limited in size, without YAML 1.1's surprises."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

import yaml
from yaml.scanner import ScannerError

from flyweight.errors import RequestError

LARGEST = 50_000
"""Values in a YAML file, aliases written out."""
DEEPEST = 60
"""Levels of nesting; a recipe has some six."""
MOST_DIGITS = 100
"""Characters of a whole number; Python neither prints nor converts one of some thousand digits."""
LONGEST = 4_000_000
"""Bytes of a YAML file: more would take minutes to read, and a device never ends."""


def read_yaml(path: Path) -> dict[str, object]:
    """Return a YAML file's mapping; raise RequestError with the line of a syntax error."""
    try:
        text = _text(path)
    except FileNotFoundError as error:
        raise RequestError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise RequestError(f"{path}: this is a folder, not a YAML file") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise RequestError(
            f"{path}: expected `key: value` lines, found "
            f"{'nothing' if value is None else type(value).__name__}"
        )
    return value


def _text(path: Path) -> str:
    """Return a file's text.

    A pipe is read where the shell has opened it (`<(...)`), others could be waited for in vain.
    """
    if (
        not path.is_file()
        and path.exists()
        and not path.is_dir()
        and not str(path).startswith(("/dev/fd/", "/dev/stdin"))
    ):
        raise ValueError("this is a device or a pipe, not a file")
    with open(path, "rb") as file:
        raw = file.read(LONGEST + 1)
    if len(raw) > LONGEST:
        raise ValueError(f"it has more than {LONGEST:,} bytes; a recipe has some thousand")
    return raw.decode("utf-8")


class _Loader(yaml.SafeLoader):
    """Safe YAML without the surprises of YAML 1.1.

    A key given twice is an error, `1e-3` is a number, and `no` and `on` are ordinary words.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, object]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *defaults` may stand several times, and is resolved below
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, typing.Hashable) and key in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            if isinstance(key, typing.Hashable):
                keys.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Refuse a number that no field could hold, whatever its base."""
        if len(node.value) > MOST_DIGITS:
            problem = f"a number of {len(node.value):,} digits; {MOST_DIGITS} are the most"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_yaml_int(node)

    def fetch_flow_collection_start(self, TokenClass: object) -> None:
        """Refuse a depth that takes the scanner's time, which grows with its square."""
        self._refuse_depth(self.flow_level)
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        """Refuse the same depth written as indented blocks."""
        self._refuse_depth(len(self.indents))
        return super().add_indent(column)

    def _refuse_depth(self, depth: int) -> None:
        if depth > DEEPEST:
            raise ScannerError(None, None, f"nested more than {DEEPEST} deep", self.get_mark())


_REPLACED = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "float", "bool")}
_Loader.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in pairs if tag not in _REPLACED]
    for key, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(true|false|True|False)$"), list("tfTF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?([0-9]+\.[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of YAML text; raise RequestError that says where it breaks."""
    try:
        value = yaml.load(text, _Loader)
        _refuse_expansion(value)
        return value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RequestError(
            f"{where}{place}: not valid YAML: {error.problem or error.context}"
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RequestError(f"{where}: not valid YAML: {error}") from error
    except (
        AttributeError,
        LookupError,
        TypeError,
    ) as error:  # what PyYAML raises for values that their own tags do not fit
        raise RequestError(
            f"{where}: not valid YAML: a value does not fit its tag (`!!...`); leave the tag out"
        ) from error


def _refuse_expansion(value: object) -> None:
    """Raise ValueError where aliases make a value endless, or larger than any recipe."""
    waiting, count = [value], 0
    while waiting:
        count += 1
        if count > LARGEST:
            raise ValueError(
                f"written out it has more than {LARGEST:,} values; an alias may refer to itself"
            )
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set):
            waiting += item
