"""Sampling defaults of a model's own files: used where the user says nothing, told, and overruled by options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chat_fixture
import pytest
import transformers
from typer.testing import CliRunner

import flyweight as fw
from flyweight.api import Session
from flyweight.checkpoints import tokenizer_files
from flyweight.cli.app import app
from flyweight.decode import sampling_defaults
from flyweight.decode.sampling import Sampling
from flyweight.errors import RequestError


def place(
    folder: Path, fields: dict[str, Any] | None, config: dict[str, Any] | None = None
) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **(config or {})}))
    if fields is not None:
        (folder / "generation_config.json").write_text(json.dumps(fields))
    return folder


LLAMA3 = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
GREEDY = {"do_sample": False, "temperature": 0.6}


@pytest.mark.parametrize(
    ("fields", "given", "expected", "own"),
    [
        (None, {}, Sampling(0.8), ()),
        ({"bos_token_id": 1, "do_sample": None}, {}, Sampling(0.8), ()),
        (LLAMA3, {}, Sampling(0.6, 50, 0.9), ("temperature", "top_k", "top_p")),
        ({"do_sample": True}, {}, Sampling(1.0, 50), ("temperature", "top_k")),
        (
            {"do_sample": True, "top_k": 0, "min_p": 0.1},
            {},
            Sampling(1.0, None, None, 0.1),
            ("temperature", "top_k", "min_p"),
        ),
        ({"top_k": 20.0}, {}, Sampling(1.0, 20), ("temperature", "top_k")),
        (GREEDY, {}, Sampling(0.0), ("temperature",)),
        (LLAMA3, {"temperature": 0.0}, Sampling(0.0), ()),
        (LLAMA3, {"temperature": 0.3}, Sampling(0.3, 50, 0.9), ("top_k", "top_p")),
        (
            LLAMA3,
            {"top_k": 5, "top_p": 1.0, "min_p": 0.2},
            Sampling(0.6, 5, 1.0, 0.2),
            ("temperature",),
        ),
        (GREEDY, {"temperature": 0.3}, Sampling(0.3), ()),
        (GREEDY, {"top_p": 0.5}, Sampling(0.8, None, 0.5), ()),
        ({"temperature": "hot"}, {"temperature": 0.0}, Sampling(0.0), ()),
    ],
)
def test_what_is_said_counts_before_the_files(fields, given, expected, own, tmp_path: Path) -> None:
    found = sampling_defaults.of(place(tmp_path, fields), **given)
    assert (found.sampling, found.own) == (expected, own)
    assert bool(found.note) == bool(own)


@pytest.mark.parametrize(
    "fields", [{"do_sample": True}, LLAMA3, {**LLAMA3, "top_k": 7}, {"do_sample": False}]
)
def test_the_defaults_are_those_of_transformers(fields: dict[str, Any], tmp_path: Path) -> None:
    place(tmp_path, fields)
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    theirs.update(
        **{
            k: v
            for k, v in theirs._get_default_generation_params().items()
            if getattr(theirs, k, None) is None
        }
    )
    found = sampling_defaults.of(tmp_path).sampling
    assert bool(theirs.do_sample) == (found.temperature > 0)
    if theirs.do_sample:
        ours = (found.temperature, found.top_k, found.top_p or 1.0)
        assert ours == (theirs.temperature, theirs.top_k, theirs.top_p)


def test_older_models_say_it_in_their_config(tmp_path: Path) -> None:
    found = sampling_defaults.of(place(tmp_path, None, {"temperature": 0.7, "do_sample": True}))
    assert found.sampling == Sampling(0.7, 50) and "config.json" in found.note
    assert sampling_defaults.of(place(tmp_path, {}, {"temperature": 0.7})).sampling == Sampling(0.8)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temperature": "hot"}, "temperature is 'hot'.*--temperature"),
        ({"temperature": 10**400}, "temperature is 1000.*--temperature"),
        ({"top_k": 1.5}, "top_k is 1.5.*--top-k"),
        ({"top_p": True}, "top_p is True.*--top-p"),
        ({"do_sample": True, "temperature": -1}, "temperature: -1 .*--temperature"),
        ({"top_p": 7}, "top_p: 7 .*--top-p"),
        ({"temperature": float("nan")}, "temperature: nan"),
    ],
)
def test_values_that_are_none_are_refused_by_file(
    fields: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=f"generation_config.json: {words}"):
        sampling_defaults.of(place(tmp_path, fields))


def test_what_is_not_done_here_is_told(tmp_path: Path) -> None:
    fields = {
        "repetition_penalty": 1.1,
        "num_beams": 1,
        "suppress_tokens": [],
        "no_repeat_ngram_size": 3,
    }
    found = sampling_defaults.of(place(tmp_path, fields))
    assert found.unused == ("repetition_penalty 1.1", "no_repeat_ngram_size 3")
    assert found.note == (
        "its repetition_penalty 1.1, no_repeat_ngram_size 3 not used here (generation_config.json)"
    )
    assert found.sampling == Sampling(0.8)


@pytest.fixture(scope="module", params=["Llama", "Mistral"], ids=["ours", "behind the adapter"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = chat_fixture.save(tmp_path_factory.mktemp("model"), request.param)
    (folder / "generation_config.json").write_text(
        json.dumps({**LLAMA3, "top_k": 9, "repetition_penalty": 1.2})
    )
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_generate_and_chat_draw_as_the_model_says(model: Path, runs: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    session = Session(runs=runs, threads=1, watch=lambda kind, fields: told.append((kind, fields)))
    own = fw.generate(model, "Hello", 12, session=session)
    same = fw.generate(model, "Hello", 12, temperature=0.6, top_k=9, top_p=0.9, session=session)
    greedy = fw.generate(model, "Hello", 12, temperature=0, session=session)
    assert own == same != greedy
    notes = [fields["note"] for kind, fields in told if kind == "drawing"]
    assert (
        "temperature 0.6, top_k 9, top_p 0.9" in notes[0]
        and "repetition_penalty 1.2 not used" in notes[0]
    )
    assert all("temperature" not in note for note in notes[1:])
    chat = fw.chat(model, max_new_tokens=5, session=session)
    assert chat.drawing.sampling == Sampling(0.6, 9, 0.9)
    assert chat.json()["sampling"]["from_model"] == ["temperature", "top_k", "top_p"]


def test_the_command_line_tells_them_once_and_as_json(model: Path, runs: Path) -> None:
    words = [
        "generate",
        str(model),
        "Hello",
        "--max-new-tokens",
        "4",
        "--runs",
        str(runs),
        "--threads",
        "1",
    ]
    plain = CliRunner().invoke(app, words)
    assert plain.exit_code == 0, plain.output
    assert (
        plain.stderr.count("the model's own defaults are used: temperature 0.6, top_k 9, top_p 0.9")
        == 1
    )
    assert "defaults" not in plain.stdout
    answer = json.loads(CliRunner().invoke(app, [*words, "--json", "--top-p", "0.5"]).stdout)
    assert answer["sampling"] == {
        **{"temperature": 0.6, "top_k": 9, "top_p": 0.5, "min_p": None},
        **{"from_model": ["temperature", "top_k"], "not_used": ["repetition_penalty 1.2"]},
    }


def test_an_import_keeps_them_for_us(model: Path, tmp_path: Path) -> None:
    from flyweight.checkpoints import read

    tokenizer_files.keep_generation(read.read(model), tmp_path)
    assert sampling_defaults.of(tmp_path).sampling == Sampling(0.6, 9, 0.9)
