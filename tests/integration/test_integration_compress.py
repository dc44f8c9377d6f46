"""`compress` on a toy model: the verb and the function, reuse, and what is refused before work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import flyweight as fw
from flyweight.api import Session
from flyweight.cli.app import app
from flyweight.compression.ways import Way
from flyweight.config import load as config_load
from flyweight.errors import FlyweightError, RequestError
from flyweight.pipeline.compress import Search
from flyweight.records.compression import Tried
from flyweight.store import gc
from flyweight.store.references import OTHERS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compress")
    text = "".join(f"Line {n}: {n * n} is {n} times {n}.\n" for n in range(900))
    (place / "text.txt").write_text(text)
    raw: dict[str, Any] = {
        "name": "toy",
        "data": {"corpus": str(place / "text.txt"), "tokenizer": "byte", "context": 32},
        "model": {"dim": 32, "layers": 1, "attention": {"heads": 2}},
        "train": {"steps": 150, "batch": 8, "validations": 1, "precision": "fp32"},
        "stages": {
            "dense": {"stage": "pretrain"},
            "packed": {"stage": "quantize", "input": "dense", "kind": "int8"},
        },
        "report": {"measure": ["evaluate"]},
    }
    fw.run(config_load.recipe(raw), session=session(place))
    return place


def session(place: Path) -> Session:
    return Session(runs=place / "runs", threads=1, quiet=True)


def test_the_verb_and_the_function_choose_within_bytes(place: Path) -> None:
    found = fw.compress("toy:dense", bytes="11kB", recover="5%", session=session(place))
    record = found.record
    assert record[record.chosen].bytes <= 11_000
    within = [one for one in record.tried if one.bytes <= 11_000]
    assert record[record.chosen].bits_per_byte.value == min(
        one.bits_per_byte.value for one in within
    )
    assert record.chosen in record.front
    assert set(record.test) == {record.chosen, record.plain}
    assert record[record.plain].plain
    assert any("back" in one.name for one in record.tried)
    trainings = {step for one in record.tried for step in one.steps if step.startswith("train")}
    assert trainings == {"train 1,920 tokens further"}  # 5 % of 150 steps of 8 rows of 32
    assert record.tokens % 1920 == 0 < record.tokens
    # The saved files of the result are the model that was measured.
    assert record.verification.passed
    assert {each.export for each in record.verification.exports} >= {"Hugging Face folder"}
    # Test text is read for two models alone.
    tested = [model.name for model in found.run.summary.models if model.evaluate]
    assert set(tested) == {record.chosen, record.plain}
    assert found.model.id == record[record.chosen].id
    validated = {stage.name for stage in found.run.summary.stages if stage.evaluate}
    assert validated >= {f"{one.name}-validation" for one in record.tried}

    words = ["compress", "toy:dense", "--bytes", "11kB", "--recover", "5%"]
    shared = ["--runs", str(place / "runs"), "--threads", "1"]
    answer = CliRunner().invoke(app, [*words, *shared, "--json"])
    assert answer.exit_code == (0 if record.passed else 1), answer.output
    assert not (found.run.folder / OTHERS).exists()  # nothing waits for it any more
    again = json.loads(answer.stdout)
    assert again["chosen"] == record.chosen
    assert again["name"] == "compress-toy-dense" == found.run.summary.name
    assert [one["id"] for one in again["tried"]] == [one.id for one in record.tried]
    shown = CliRunner().invoke(app, [*words, *shared])
    assert "plain quantization" in shown.stdout.lower()
    assert "Cost:" in shown.stdout
    assert "Verified: the saved files are the model that was measured" in shown.stdout


def test_a_loss_takes_the_smallest_and_skips_what_is_larger(place: Path) -> None:
    found = fw.compress("toy:dense", loss="5%", recover=0, session=session(place)).record
    most = found.bits_per_byte.value * 1.05
    within = [one for one in found.tried if one.bits_per_byte.value <= most]
    assert found[found.chosen].bytes == min(one.bytes for one in within)
    assert found.tokens == 0


def test_a_speed_is_measured_of_shapes_before_anything_is_trained(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rate(self: Search, config: Any) -> float:
        return 1e9 / config.resolved().mlp.width(config.dim)

    monkeypatch.setattr(Search, "_rate", rate)
    found = fw.compress("toy:dense", speed="1.5x", recover=0, session=session(place)).record
    assert found[found.chosen].speed is not None
    assert (found[found.chosen].speed or 0) >= 1.5
    assert not found.plain_fits
    with pytest.raises(RequestError, match="no way is so fast here; the nearest is"):
        fw.compress("toy:dense", speed="50x", session=session(place))


def test_what_an_interrupted_command_has_tried_is_no_garbage(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = session(place).store
    before = {item.path.name for item in gc.find(store).items}
    asked: dict[str, Any] = {"bytes": "12kB", "recover": "3%", "session": session(place)}
    tries, attempt = list[str](), Search._try

    def stopped(self: Search, way: Way) -> Tried:
        if len(tries) == 4:
            raise FlyweightError("stopped")
        tries.append(way.name)
        return attempt(self, way)

    with monkeypatch.context() as patched, pytest.raises(FlyweightError, match="stopped"):
        patched.setattr(Search, "_try", stopped)
        fw.compress("toy:dense", **asked)
    held = gc.find(store)
    assert {item.path.name for item in held.items} == before
    assert any("is unfinished" in line for line in held.kept)
    # The same command goes on under the same name, and nothing waits for it afterwards.
    found = fw.compress("toy:dense", **asked)
    assert [one.name for one in found.record.tried][:4] == tries
    assert not any(found.run.summary.name in line for line in gc.find(store).kept)
    assert {item.path.name for item in gc.find(store).items} == before


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no limit": ("toy:dense", {}, "needs one limit, and none is given"),
    "two limits": ("toy:dense", {"bytes": "1MB", "speed": "2x"}, "--bytes and --speed"),
    "already within": ("toy:dense", {"bytes": "1GB"}, "already, which is within the limit"),
    "too small": ("toy:dense", {"bytes": "100B"}, "no way is so small; the nearest is"),
    "packed": ("toy:packed", {"bytes": "11kB"}, "stored as int8 already; start from the dense"),
    "name": ("toy:dense", {"bytes": "11kB", "name": "a/b"}, "compress:\n +name: "),
    "separator": ("toy:dense", {"bytes": "11kB", "separator": "|"}, "--separator is of a text"),
    "share": ("toy:dense", {"bytes": "11kB", "recover": "20"}, "--recover: '20' is not a share"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_requests_are_refused_before_work(place: Path, case: str) -> None:
    model, fields, message = REFUSED[case]
    before = {path.name for path in (place / "runs").iterdir()}
    with pytest.raises(RequestError, match=message):
        fw.compress(model, **fields, session=session(place))
    assert {path.name for path in (place / "runs").iterdir()} == before
