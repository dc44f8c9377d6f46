"""Quantizing in a recipe, by the verb and by the function: nearest and GPTQ, facts, ids, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import flyweight as fw
from flyweight.api import Session
from flyweight.cli.app import app
from flyweight.compression import stages as compression_stages
from flyweight.config import load as config_load
from flyweight.config.schema import Int3
from flyweight.errors import RequestError
from flyweight.model import folder
from flyweight.model.rounding import round_in_training

GPTQ = {"rounding": "gptq", "calibration": {"tokens": 1024}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("quantize")
    text = "".join(f"Line {n}: {n * n} is {n} times {n}.\n" for n in range(900))
    (place / "text.txt").write_text(text)
    (place / "other.txt").write_text(text[::-1])
    (place / "short.txt").write_text(text[:2000])
    return place


def recipe(place: Path, **stages: Any) -> dict[str, Any]:
    return {
        "name": "quantized",
        "data": {"corpus": str(place / "text.txt"), "tokenizer": "byte", "context": 32},
        "model": {"dim": 32, "layers": 2, "attention": {"heads": 2}},
        "train": {"steps": 40, "batch": 8, "validations": 1, "precision": "fp32"},
        "stages": {"dense": {"stage": "pretrain"}, **stages},
        "report": {"measure": ["evaluate"]},
    }


def quantized(**fields: Any) -> dict[str, Any]:
    return {"stage": "quantize", "input": "dense", "kind": "int3", **fields}


def session(place: Path) -> Session:
    return Session(runs=place / "runs", threads=1)


def run(place: Path, **stages: Any) -> fw.Run:
    return fw.run(config_load.recipe(recipe(place, **stages)), session=session(place))


def test_a_recipe_rounds_by_the_training_text_and_tells_the_errors(place: Path) -> None:
    result = run(place, nearest=quantized(), gptq=quantized(**GPTQ))
    facts = result["gptq"].facts["rounding"]
    assert facts["tokens"] == 1024
    assert facts["text"] == result["dense"].facts["corpus"] == result["gptq"].facts["corpus"]
    assert len(facts["errors"]) == 2 * 7
    assert all(error["gptq"] <= error["nearest"] for error in facts["errors"].values())
    assert facts["seconds"] > 0
    assert "rounding" not in result["nearest"].facts
    card = (result["gptq"].path / "README.md").read_text()
    assert "rounded by GPTQ on 1,024 tokens" in card
    models = [folder.load(result[name].path / "model") for name in ("nearest", "gptq")]
    assert models[0].config == models[1].config
    nll = {m.name: m.evaluate.nll.value for m in result.summary.models if m.evaluate}
    assert nll["gptq"] < nll["nearest"]
    again = run(place, nearest=quantized(), gptq=quantized(**GPTQ))
    assert again["gptq"].id == result["gptq"].id


def test_fields_at_their_defaults_change_no_id(place: Path) -> None:
    plain = config_load.check_stage({"stage": "quantize", "input": "m", "kind": "int8"})
    assert plain.model_dump(mode="json") == {
        "stage": "quantize",
        "input": "m",
        "kind": {"kind": "int8"},
        "embedding": {"kind": "int8"},
    }
    gptq = config_load.check_stage(quantized(rounding="gptq"))
    assert gptq.model_dump(mode="json")["calibration"] == {
        "tokens": 65536,
        "split": "train",
        "data": None,
        "damping": 0.01,
    }


def test_a_run_that_was_killed_gives_the_same_model(place: Path, monkeypatch) -> None:
    result = run(place, gptq=quantized(**GPTQ, clip=3.0))
    state = folder.load(result["gptq"].path / "model").state_dict()
    second = place / "killed"
    second.mkdir()
    for file in place.glob("*.txt"):
        (second / file.name).write_bytes(file.read_bytes())
    run(second)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compression_stages, "write_model", killed)
        with pytest.raises(KeyboardInterrupt):
            run(second, gptq=quantized(**GPTQ, clip=3.0))
    resumed = run(second, gptq=quantized(**GPTQ, clip=3.0))["gptq"]
    for name, tensor in folder.load(resumed.path / "model").state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_the_verb_and_the_function_are_one(place: Path) -> None:
    run(place)
    options = ["--kind", "int4", "--group", "16", "--rounding", "gptq", "--clip", "3"]
    words = ["quantize", "quantized:dense", *options, "--data", str(place / "other.txt")]
    shared = ["--runs", str(place / "runs"), "--threads", "1", "--json"]
    answer = CliRunner().invoke(app, [*words, "calibration.tokens=2048", *shared])
    assert answer.exit_code == 0, answer.output
    by_verb = json.loads(answer.stdout)
    by_function = fw.quantize(
        "quantized:dense",
        "calibration.tokens=2048",
        kind="int4",
        group=16,
        rounding="gptq",
        clip=3.0,
        data=place / "other.txt",
        session=session(place),
    )
    assert by_function["quantize"].id == by_verb["stages"][0]["id"]
    assert by_verb["name"] == "quantize-int4-gptq-quantized-dense"
    config = folder.load(by_function["quantize"].path / "model").config
    assert config.linears["blocks"].model_dump() == {"kind": "int4", "group": 16}
    # Another text calibrates; the model still belongs to the one that it was trained on.
    facts = by_function["quantize"].facts
    assert facts["rounding"]["text"] != facts["corpus"]


REFUSED = {
    "nearest with a text": (
        {"calibration": {"tokens": 512}},
        "rounding nearest reads no text; set rounding: gptq",
    ),
    "less than a window": ({"rounding": "gptq", "calibration": {"tokens": 20}}, "window of 32"),
    "more than there is": (
        {"rounding": "gptq", "calibration": {"tokens": "1M"}},
        "are not fewer than the",
    ),
    "nothing to round": (
        {"kind": "dense", **GPTQ},
        "all of them stay dense; use rounding: nearest",
    ),
    "unknown kind": ({"kind": "int5"}, "int5"),
    "no group": ({"kind": {"kind": "int4", "group": 0}}, "group"),
    "validation text": ({"rounding": "gptq", "calibration": {"split": "test"}}, "train"),
    "clip": ({"clip": -1}, "clip"),
}


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_refused(place: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        run(place, small=quantized(**fields))


def test_texts_that_do_not_fit_are_refused_before_anything_is_rounded(place, monkeypatch) -> None:
    run(place)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(compression_stages, "quantize_by_inputs", never)
    short = {"data": {"corpus": str(place / "short.txt"), "context": 32}, "tokens": 4096}
    with pytest.raises(RequestError, match=r"stages\.small\.calibration\.tokens: 4,096 are not"):
        run(place, small=quantized(rounding="gptq", calibration=short))
    words = {"corpus": str(place / "other.txt"), "tokenizer": "word", "context": 32}
    other = {"data": words, "tokens": 1024}
    with pytest.raises(RequestError, match=r"give this stage calibration\.data\.tokenizer=model"):
        run(place, small=quantized(rounding="gptq", calibration=other))
    long = {"data": {"corpus": str(place / "other.txt"), "context": 64}, "tokens": 1024}
    with pytest.raises(RequestError, match=r"calibration\.data\.context: 64 is longer"):
        run(place, small=quantized(rounding="gptq", calibration=long))


def test_gptq_needs_a_text_for_a_model_without_one(place: Path) -> None:
    shape = {"vocab_size": 256, "context": 32, "dim": 16, "layers": 1, "attention": {"heads": 2}}
    random = {"stage": "init", "model": shape}
    with pytest.raises(RequestError, match="came without a corpus; name a text with --data"):
        run(place, random=random, small={**quantized(**GPTQ), "input": "random"})


def test_a_group_is_for_kinds_that_have_groups(place: Path) -> None:
    run(place)
    with pytest.raises(RequestError, match="kind int8 has no groups of columns; int4 and int3"):
        fw.quantize("quantized:dense", kind="int8", group=16, session=session(place))


def test_a_packed_model_is_refused_before_it_is_calibrated(place: Path) -> None:
    with pytest.raises(RequestError, match="quantized already"):
        run(place, small=quantized(), twice={**quantized(**GPTQ), "input": "small"})


def test_a_model_trained_for_a_rounding_is_what_it_is_rounded_to(place: Path) -> None:
    tuned = {"stage": "finetune", "input": "dense", "method": "full", "train": {"steps": 4}}
    rounded = {**tuned, "round": "int3"}
    result = run(
        place, plain=tuned, qat=rounded, small={**quantized(embedding="dense"), "input": "qat"}
    )
    assert result["qat"].id != result["plain"].id
    assert "to be rounded to `int3`" in (result["qat"].path / "README.md").read_text()
    qat = folder.load(result["qat"].path / "model").eval()
    small = folder.load(result["small"].path / "model").eval()
    round_in_training(qat, qat.config, Int3())
    tokens = torch.arange(20)[None] + 40
    torch.testing.assert_close(small(tokens), qat(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"round": "int8_dynamic"}, "round: int8_dynamic is not a rounding of weights alone"),
        ({"round": "int3", "method": "lora"}, "round: this method leaves the matrices of blocks"),
        ({"round": "int9"}, "int9"),
        ({"round": "int3", "train": {"memory": {"weights": "bf16"}}}, "rounded already"),
    ],
)
def test_roundings_that_cannot_be_trained_are_refused(place, fields, message) -> None:
    tuned = {"stage": "finetune", "input": "dense", "method": "full", **fields}
    raw = recipe(place, tuned=tuned)
    raw["train"]["precision"] = "bf16"
    with pytest.raises(RequestError, match=message):
        config_load.recipe(raw)
