"""Malformed input of every kind, drawn from valid input by a seeded generator: what `fuzz.py` feeds to the command line."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from flyweight.core.files import sha256, write_sealed

LEAVES: tuple[Any, ...] = (
    *(
        None,
        True,
        [],
        {},
        "",
        " ",
        0,
        -1,
        0.5,
        -0.0,
        10**9,
        10**40,
        1e308,
        float("inf"),
        float("nan"),
        "1e999",
        "-5GB",
    ),
    *(
        "6 gigabytes",
        "NaN",
        "../../outside",
        "/etc/passwd",
        "a\0b",
        "\udcff",
        "x" * 5000,
        "\u202e",
        "[/]",
        "{}",
        "*",
        "~",
    ),
    *(
        [[[[1]]]],
        {"kind": "no"},
        {"kind": None},
        {"a": {"b": 1}},
        ["a", 1],
        "hf:",
        "hf:a/b/c:d",
        "toy:",
        ":",
        "0x10",
        "1_000",
    ),
    *(
        "pretrain-00000000",
        "quickstart",
        "ça",
        "日本",
        "💥",
        "-",
        "--runs",
        "%s",
        "${HOME}",
        "$(id)",
        "a" * 300 + "/b",
    ),
)
YAML_PIECES = (
    *(
        "\t",
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "!!python/object:os.system ",
        "!!binary ",
        "|\n",
        ">\n",
        "%YAML 9\n",
    ),
    *(
        "---\n",
        "...\n",
        "<<: *a\n",
        "? ",
        "\0",
        "\x07",
        "\ufeff",
        "\u2028",
        "'",
        '"',
        "#",
        "@",
        "`",
        "\\",
        "1e",
        "0o9",
        "=",
        "~",
    ),
    *(
        "[" * 2000,
        "{a: " * 500,
        "9" * 6000,
        "a: &x [*x]\n",
        "- !!set {a, a}\n",
        "2024-13-45",
        "!!timestamp x",
        "\r",
    ),
)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
)


def mutated(raw: bytes, draw: random.Random) -> bytes:
    """Return bytes with one to four random edits: flips, cuts, doublings, insertions."""
    out = bytearray(raw)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(out) + 1)
        match draw.randrange(6):
            case 0 if out:
                out[min(at, len(out) - 1)] ^= 1 << draw.randrange(8)
            case 1:
                del out[at : at + draw.choice((1, 2, 8, 64, 100_000))]
            case 2:
                out[at:at] = out[max(0, at - draw.randint(1, 80)) : at]
            case 3:
                out[at:at] = draw.randbytes(draw.randint(1, 9))
            case _:
                out[at:at] = draw.choice(YAML_PIECES).encode("utf-8", "surrogatepass")
    return bytes(out)


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside nested plain data."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, each in inner:
        yield (*here, key)
        yield from paths(each, (*here, key))


def twisted(value: Any, draw: random.Random, times: int = 1) -> Any:
    """Return nested data in which a value was replaced, removed or doubled under another name."""
    value = copy.deepcopy(value)
    for _ in range(times):
        places = list(paths(value))
        if not places:
            return draw.choice(LEAVES)
        *way, last = draw.choice(places)
        inner = value
        for key in way:
            inner = inner[key]
        match draw.randrange(4):
            case 0 if isinstance(inner, dict):
                inner[
                    draw.choice(
                        ("x", "../x", "", "kind", "stage", 7, "name", "a.b", "summary.json", "\0")
                    )
                ] = inner[last]
            case 1 if isinstance(inner, dict):
                del inner[last]
            case _:
                inner[last] = copy.deepcopy(draw.choice(LEAVES))
    return value


def yaml_text(value: Any) -> bytes:
    """Return plain data as YAML, lone surrogates and all."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode(
        "utf-8", "surrogatepass"
    )


def encoded(text: str, draw: random.Random) -> bytes:
    """Return text as bytes that are not the UTF-8 of a corpus: other encodings, NULs, broken sequences, too little."""
    raw = text.encode()
    match draw.randrange(9):
        case 0:
            return text.encode(draw.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7")))
        case 1:
            return ("café " + text).encode("latin-1")
        case 2:
            return raw[: draw.randint(0, 90)]
        case 3:
            at = draw.randrange(len(raw))
            return (
                raw[:at]
                + draw.choice((b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"))
                + raw[at:]
            )
        case 4:
            return draw.randbytes(draw.randint(1, 4000))
        case 5:
            return b"\xef\xbb\xbf" + raw[:40]
        case 6:
            return b"\x1f\x8b\x08" + raw
        case 7:
            return b" \n" * draw.randint(0, 30)
        case _:
            return ("日本" + text[:200]).encode(draw.choice(("shift-jis", "euc-jp", "gb18030")))


def rows(text: str, draw: random.Random) -> tuple[str, bytes]:
    """Return the name and bytes of a file of rows, a page or a packed text with damage, or of a file without text."""
    lines = text.split("\n")[:60]
    json_lines = "".join(json.dumps({"id": n, "text": line}) + "\n" for n, line in enumerate(lines))
    table = "id,text\n" + "".join(f'{n},"{line}"\n' for n, line in enumerate(lines))
    signatures = (
        b"%PDF-1.7",
        b"PK\x03\x04",
        b"\x89PNG\r\n",
        b"\xd0\xcf\x11\xe0",
        b"PAR1",
        b"\x28\xb5\x2f\xfd",
        b"BZh91AY&SY",
    )
    match draw.randrange(6):
        case 0:
            return "rows.jsonl", mutated(
                json_lines.replace('"text"', draw.choice(('"text"', '"a", "b"', "5"))).encode(),
                draw,
            )
        case 1:
            return draw.choice(("rows.csv", "rows.tsv")), mutated(
                table.replace(",", draw.choice(",;\t|")).encode(), draw
            )
        case 2:
            return "rows.jsonl.gz", mutated(gzip.compress(json_lines.encode()), draw)
        case 3:
            return draw.choice(("text.txt", "a.parquet", "a.docx", "a.json")), draw.choice(
                signatures
            ) + draw.randbytes(200)
        case 4:
            return "a.json", json.dumps(
                draw.choice(([{"text": text}], {"text": lines}, 5, "text", None, [[]]))
            ).encode()
        case _:
            return "page.html", encoded(f"<html><p>{text[:500]}<![CDATA[<!--<script></", draw)


def reference(draw: random.Random, known: list[str]) -> str:
    """Return a MODEL that is none."""
    letters = "abcXYZ019-_.:/\\ *?[]{}~$%\n\t'\"üß日💥\u202e\x7f"
    match draw.randrange(6):
        case 0:
            return "".join(draw.choices(letters, k=draw.randint(0, 40)))
        case 1:
            return draw.choice([str(leaf) for leaf in LEAVES if "\0" not in str(leaf)])
        case 2:
            return (
                mutated(draw.choice(known).encode(), draw)
                .replace(b"\0", b"0")
                .decode("utf-8", "surrogateescape")
            )
        case 3:
            return draw.choice(
                (
                    "",
                    "x" * 300,
                    "a/" * 3000,
                    "x" * 70_000,
                    ".",
                    "..",
                    "/",
                    "/dev/null",
                    "/proc/self/mem",
                    "~root",
                )
            )
        case 4:
            return f"{draw.choice(known).split(':')[0]}:{draw.choice(('', ':', 'x', '../..', 'summary.json', '%00'))}"
        case _:
            return f"hf:{''.join(draw.choices(letters[:14], k=draw.randint(0, 12)))}"


TEMPLATES = (
    *(
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ 'x' * 10**10 }}",
        "{{ messages[0].content * 10**9 }}",
        "{{ 9**9**9 }}",
    ),
    "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "{% set x = namespace(v='aa') %}{% for i in range(60) %}{% set x.v = x.v + x.v %}{% endfor "
    "%}{{ x.v }}",
    "{% for a in range(900) %}{% for b in range(900) %}{% for c in range(900) %}{{ a }}{% endfor "
    "%}{% endfor %}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__ }}",
    "{% include '/etc/passwd' %}",
    "{{ raise_exception('\x1b[31m\u202e') }}",
    "{% if x %}",
    "{{ '%0999999999d' % 3 }}",
    "{{ messages | tojson(indent=10**8) }}",
    "{{ 'x'.ljust(10**10) }}",
    "{{ (1, 2) * 10**9 }}",
    "{{ 'ab' | center(10**10) }}",
    "{% set l = [] %}{{ l.append(l) }}{{ l | tojson }}",
    "{{ lipsum(n=10**6) }}",
)
"""Chat templates that loop, recurse, multiply, reach for what is not theirs, or are none."""


def template(draw: random.Random) -> Any:
    """Return a chat template that must be stopped or refused, or something that is no template."""
    if draw.random() < 0.2:
        return draw.choice(
            [leaf for leaf in LEAVES if leaf is not None and not isinstance(leaf, str)]
        )
    return "".join("{% if true %}" for _ in range(draw.choice((0, 0, 0, 5000)))) + draw.choice(
        TEMPLATES
    )


def forge(folder: Path, name: str, raw: bytes) -> None:
    """Replace a file of an artifact and make its manifest agree, so that what lies behind the checksums is reached."""
    (folder / name).write_bytes(raw)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(raw), "sha256": sha256(folder / name)}
    write_sealed(
        folder / "manifest.json", {key: value for key, value in manifest.items() if key != "digest"}
    )


def json_or_bytes(raw: bytes, draw: random.Random) -> bytes:
    """Return a JSON file's bytes, broken as JSON or twisted as data."""
    if draw.random() < 0.4:
        return mutated(raw, draw)
    return json.dumps(twisted(json.loads(raw), draw, draw.randint(1, 3))).encode()


Generator = Callable[[random.Random], tuple[Any, ...]]
"""Prepares one input and returns the words of the command that reads it."""
