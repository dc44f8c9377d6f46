"""Whatever is given, a reader returns what it should or raises the error that a user can read.

Nothing else comes through.
"""

from __future__ import annotations

import json
import math
import string
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from flyweight.api import model_references
from flyweight.checkpoints import read as checkpoint
from flyweight.config import load
from flyweight.config.schema import Recipe
from flyweight.config.units import parse_count, parse_size, parse_time
from flyweight.core.events import read_events
from flyweight.data.reading import read_pieces
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import FlyweightError, RequestError
from flyweight.records.run_summary import Summary
from flyweight.store.artifact import Artifact, Identity, Store
from flyweight.training import checkpoint as state

often = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
seldom = settings(often, max_examples=60)

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)
named = st.dictionaries(
    st.sampled_from(["name", "seed", "budget", "data", "train", "model", "stages", "report"]),
    plain,
    max_size=6,
)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=10,
)
yaml_like = st.text(alphabet="abx01 :-[]{}&*!|>'\"#\n\t,.?%@`~=<", max_size=60)
RECIPE: dict[str, Any] = {
    "name": "toy",
    "seed": 1,
    "budget": {"time": "10min", "memory": "2GB"},
    "data": {"corpus": "story.txt", "tokenizer": {"kind": "bpe", "vocab": 300}, "context": 32},
    "model": {
        "dim": 16,
        "layers": 1,
        "attention": {"heads": 2},
        "mlp": "swiglu",
        "linears": {"blocks.*": "dense"},
    },
    "train": {
        "steps": 12,
        "batch": 4,
        "optimizer": {"kind": "muon", "rest": {"lr": 0.01}},
        "schedule": {"tail": "linear"},
    },
    "stages": {
        "teacher": {"stage": "pretrain"},
        "student": {
            "stage": "distill",
            "teacher": "teacher",
            "train": {"same_as": {"stage": "teacher", "of": "flops"}},
        },
        "best": {"stage": "select", "among": ["teacher", "student"]},
        "int8": {"stage": "quantize", "input": "best", "kind": "int8"},
    },
    "report": {"compare": ["teacher", "int8"], "measure": ["evaluate"], "prompts": ["a"]},
}


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [place for key, each in inner for place in [(*here, key), *places(each, (*here, key))]]


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    copied = json.loads(json.dumps(value))
    *way, last = place
    inner = copied
    for key in way:
        inner = inner[key]
    inner[last] = new
    return copied


@often
@given(st.text(max_size=80) | yaml_like)
def test_yaml(text):
    try:
        load.parse_yaml(text, "here")
    except RequestError as error:
        assert str(error).startswith("here")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: &a {b: *a}",
        "[" * 3000,
        "{a: " * 900,
        "9" * 5000,
        "- !!python/object:os.x {}",
    ],
)
def test_yaml_that_would_never_end_or_do_more_than_say_something(text):
    with pytest.raises(RequestError, match="not valid YAML"):
        load.parse_yaml(text, "here")


def test_aliases_that_grow_beyond_all_bounds_are_refused_at_once():
    lines = [
        "a: &a [x,x,x,x,x,x,x,x,x]",
        *(
            f"{b}: &{b} [{','.join(['*' + a] * 9)}]"
            for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
    ]
    with pytest.raises(RequestError, match="values"):
        load.parse_yaml("\n".join(lines), "here")


def test_an_alias_that_a_person_would_write_is_fine():
    assert load.parse_yaml("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}", "here")["d"] == {
        "b": 1,
        "e": 2,
    }


@often
@given(named | st.dictionaries(st.text(max_size=5), plain, max_size=3))
def test_recipes_of_anything(raw):
    try:
        assert isinstance(load.recipe(raw), Recipe)
    except RequestError as error:
        assert "Traceback" not in str(error) and len(str(error)) < 20_000


@often
@given(st.data())
def test_a_recipe_with_one_wrong_value(data):
    raw = put(RECIPE, data.draw(st.sampled_from(places(RECIPE))), data.draw(jsons))
    try:
        assert isinstance(load.recipe(raw, "toy"), Recipe)
    except RequestError as error:
        assert str(error).startswith("toy:")


@often
@given(
    st.sampled_from([".".join(map(str, place)) for place in places(RECIPE)]) | st.text(max_size=20),
    st.text(max_size=20),
)
def test_overrides(path, value):
    try:
        load.recipe(load.override(RECIPE, [f"{path}={value}"]))
    except RequestError as error:
        assert str(error)


@often
@given(st.text(max_size=12) | st.text(alphabet="0123456789.eE+-kMGTBims ", max_size=10))
def test_quantities(text):
    for parse in (parse_count, parse_size, parse_time):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert value >= 0 and math.isfinite(value) and value <= 1e30


ENCODINGS = (
    "utf-8",
    "utf-16",
    "utf-16-le",
    "utf-32",
    "latin-1",
    "cp1252",
    "shift-jis",
    "gb18030",
    "utf-7",
    "utf-8-sig",
)


@often
@given(st.binary(max_size=300) | st.tuples(st.text(min_size=1), st.sampled_from(ENCODINGS)))
def test_text_of_every_encoding_is_read_exactly_or_refused(tmp_path, content):
    raw = content if isinstance(content, bytes) else content[0].encode(content[1], "ignore")
    path = tmp_path / "text.txt"
    path.write_bytes(raw)
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
        good = b"\0" not in raw and not raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    except UnicodeDecodeError:
        text, good = "", False
    if good:
        assert "".join(read_pieces(path)) == text
    else:
        with pytest.raises(RequestError, match=r"text\.txt"):
            list(read_pieces(path))


@often
@given(
    st.lists(
        st.binary(max_size=30) | jsons.map(lambda value: json.dumps(value).encode()), max_size=4
    )
)
def test_json_lines(tmp_path, lines):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(lines))
    try:
        assert len(read_events(path)) <= len(path.read_bytes().splitlines())
    except FlyweightError as error:
        assert "events.jsonl, line" in str(error)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = Store(tmp_path_factory.mktemp("store"))

    def work(draft):
        (draft.path / "model").mkdir()
        (draft.path / "model" / "weights").write_bytes(b"12345678")
        return {"took": 1.0}

    made.obtain(Identity(stage="toy", version=1, config={"a": 1}), work)
    return made


@often
@given(
    st.text(max_size=30)
    | st.text(alphabet="./:hf~*?ab\\", max_size=300)
    | st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
)
def test_model_references(store, reference):
    with pytest.raises(RequestError, match="MODEL"):
        model_references.find(reference, store)


@seldom
@given(st.data())
def test_manifests(store, data):
    (path,) = store.root.glob("toy-*")
    file = path / "manifest.json"
    raw = file.read_bytes()
    manifest = json.loads(raw)
    changed = put(manifest, data.draw(st.sampled_from(places(manifest))), data.draw(jsons))
    assume(changed != manifest)
    try:
        file.write_text(json.dumps(changed))
        with pytest.raises(FlyweightError, match="manifest"):
            Artifact.open(path)
        assert [type(entry).__name__ for entry in store.entries()] == ["Damaged"]
    finally:
        file.write_bytes(raw)
    assert Artifact.open(path).id == path.name


@seldom
@given(st.binary(max_size=80) | jsons.map(lambda value: json.dumps(value).encode()))
def test_files_that_are_not_what_they_are_called(tmp_path, raw):
    for name, read in {
        "tokenizer.json": lambda: Tokenizer.load(tmp_path),
        "summary.json": lambda: Summary.read(tmp_path),
        "current.json": lambda: state.load(tmp_path, "toy", torch.nn.Linear(2, 2), []),
        "config.json": lambda: checkpoint.read(tmp_path),
    }.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(FlyweightError, match=str(tmp_path)):
            read()


@seldom
@given(st.text(alphabet=string.printable, max_size=80))
def test_names_of_runs_and_stages_stay_inside_their_folder(name):
    raw = put(RECIPE, ("name",), name)
    raw["stages"][name] = {"stage": "pretrain"}
    try:
        recipe = load.recipe(raw)
    except RequestError:
        return
    for each in (recipe.name, *recipe.stages):
        assert (
            "/" not in each
            and "\\" not in each
            and not each.startswith(".")
            and each.strip() == each
        )


@pytest.mark.parametrize(
    "name",
    ["../up", "a/b", ".hidden", "pretrain-0123abcd", "corpus-0123abcd.partial", "", "x" * 65],
)
def test_a_run_cannot_take_an_artifacts_name_or_leave_the_runs_root(name):
    with pytest.raises(RequestError, match="name"):
        load.recipe(put(RECIPE, ("name",), name))


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "summary.json", "a.b"])
def test_a_stage_cannot_take_a_name_that_leaves_its_folder(name):
    raw = put(RECIPE, ("report",), {})
    raw["stages"][name] = {"stage": "pretrain"}
    with pytest.raises(RequestError, match="stages"):
        load.recipe(raw)
