"""Training on a stream: as on a packed text, resumed to the bit, bounded, told in facts and cards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from stream_fixture import stream_data, write_shards

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load as config_load
from flyweight.data.batch import Batch
from flyweight.errors import FlyweightError, RequestError
from flyweight.model import folder
from flyweight.training import training_data as reading
from flyweight.training.trainer import Trainer

STEPS, BATCH = 24, 4


@pytest.fixture
def raw(tmp_path):
    return {
        "name": "streamed",
        "data": stream_data(write_shards(tmp_path / "shards", rows=150)),
        "model": {"dim": 16, "layers": 1, "attention": {"heads": 2}, "dropout": 0.1},
        "train": {"steps": STEPS, "batch": BATCH, "validations": 2, "precision": "fp32"},
        "stages": {"student": {"stage": "pretrain"}},
        "report": {"measure": []},
    }


def session(tmp_path: Path, name: str = "runs") -> Session:
    return Session(runs=tmp_path / name, threads=1, quiet=True)


def made(raw, tmp_path: Path, name: str = "runs"):
    return fw.run(config_load.recipe(raw), session=session(tmp_path, name))["student"]


def events(artifact, kind: str) -> list[dict]:
    lines = (artifact.path / "events.jsonl").read_text().splitlines()
    return [each for each in map(json.loads, lines) if each["event"] == kind]


def weights(artifact) -> dict[str, torch.Tensor]:
    return folder.load(artifact.path / "model").state_dict()


def same(a, b) -> bool:
    ours, theirs = weights(a), weights(b)
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_plan_tells_of_shards_that_are_not_there(raw, tmp_path):
    raw["data"]["stream"]["source"] = str(tmp_path / "none" / "*.jsonl")
    planned = fw.plan(config_load.recipe(raw), session=session(tmp_path))
    assert any("student: stream.source: no file matches" in note for note in planned.assumed)


def test_a_killed_training_goes_on_at_the_same_token(raw, tmp_path, monkeypatch):
    raw["train"]["checkpoint"] = "1ms"
    whole = made(raw, tmp_path)
    step = Trainer.step
    for number in (5, 6, 17):

        def killed(self, state, number=number):
            if state.progress.step == number:
                raise KeyboardInterrupt
            return step(self, state)

        monkeypatch.setattr(Trainer, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            made(raw, tmp_path, "killed")
    monkeypatch.setattr(Trainer, "step", step)
    resumed = made(raw, tmp_path, "killed")
    assert resumed.id == whole.id and same(resumed, whole)
    for name in ("documents_read", "bytes_read", "shards_skipped", "rows_skipped", "best_nll"):
        assert resumed.facts[name] == whole.facts[name]
    assert whole.facts["documents_read"] > 20 and whole.facts["stopped_by"] == "steps"


class Packed:
    """The tokens of a stream as they were written down, read window by window."""

    def __init__(self, tokens: np.ndarray, context: int) -> None:
        self.tokens, self.context = tokens, context

    def batch(self, step: int, rows: slice = slice(None), rank: int = 0, world: int = 1) -> Batch:
        first = step * BATCH * self.context
        flat = self.tokens[first : first + BATCH * self.context + 1]
        inputs = torch.from_numpy(flat[:-1].reshape(BATCH, self.context)[rows].copy())
        targets = torch.from_numpy(flat[1:].reshape(BATCH, self.context)[rows].copy())
        return Batch(inputs, targets, inputs.numel())


def test_streamed_and_packed_tokens_give_the_same_losses(raw, tmp_path, monkeypatch):
    streamed = made(raw, tmp_path)
    seen = list[np.ndarray]()
    built = reading.stream_windows

    def written_down(*arguments):
        windows = built(*arguments)
        for step in range(STEPS):
            batch = windows.batch(step)
            seen.append(batch.inputs.numpy().ravel())
            last = batch.targets.numpy()[-1, -1:]
        windows.close()
        packed = Packed(np.concatenate([*seen, last]), windows.context)
        windows.start(0, None)
        windows.batch = packed.batch
        return windows

    monkeypatch.setattr(reading, "stream_windows", written_down)
    packed = made(raw, tmp_path, "packed")
    losses = [[each["nll"] for each in events(one, "step")] for one in (streamed, packed)]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS
    assert same(streamed, packed)


def test_the_end_of_a_stream_ends_a_training(raw, tmp_path):
    raw["train"] = {**raw["train"], "steps": None, "time": "10min"}
    short = made(raw, tmp_path)
    assert short.facts["stopped_by"] == "stream" and short.facts["best_nll"] is not None
    raw["data"]["stream"]["epochs"] = 2
    longer = made(raw, tmp_path)
    assert longer.facts["steps"] == pytest.approx(2 * short.facts["steps"], abs=1)
    assert "by stream" in (longer.path / "README.md").read_text().replace("the end of its ", "")


def test_more_tokens_than_a_stream_has_are_refused(raw, tmp_path):
    raw["train"] |= {"steps": None, "tokens": "10M"}
    with pytest.raises(RequestError, match=r"10 M tokens are asked for, .* is read once and has"):
        made(raw, tmp_path)
    assert not list((tmp_path / "runs").glob("pretrain-*"))


def test_a_later_stage_that_asks_for_too_much_is_refused_before_the_first(raw, tmp_path):
    later = {"stage": "finetune", "input": "student", "method": "full", "train": {"steps": 10**6}}
    raw["stages"]["later"] = {**later, "data": {**raw["data"], "tokenizer": "byte"}}
    with pytest.raises(RequestError, match=r"stages\.later\.train: 128 M tokens are asked for"):
        made(raw, tmp_path)
    assert not list((tmp_path / "runs").glob("pretrain-*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"epochs": 2}}, "train.epochs: how many windows a stream has is not known"),
        ({"data": {"tokenizer": "char"}}, "char needs every character of a text"),
        ({"data": {"corpus": "ptb"}}, "corpus names a text as well"),
        ({"data": {"validation": 0.1}}, "a stream holds out a size"),
        ({"data": {"stream": {"source": "hf:a/b", "shufle": 3}}}, "shufle: unknown name"),
    ],
)
def test_requests_that_contradict_themselves(raw, tmp_path, changes, message):
    stage = raw["stages"]["student"]
    stage.update(changes)
    if "data" in changes:
        stage["data"] = {**raw.pop("data"), **changes["data"]}
    with pytest.raises(RequestError, match=message):
        made(raw, tmp_path)


def test_records_of_teachers_are_not_of_streams(raw, tmp_path):
    raw["stages"] = {
        "teacher": {"stage": "pretrain"},
        "student": {"stage": "distill", "teacher": "teacher", "told": {"k": 8}},
    }
    with pytest.raises(RequestError, match="a stream is read on the way; let the teacher run"):
        made(raw, tmp_path)


def test_a_stream_is_looked_for_before_anything_is_trained(raw, tmp_path):
    raw["stages"]["later"] = {
        "stage": "finetune",
        "input": "student",
        "method": "full",
        "data": {"stream": {"source": "nowhere/*.parquet"}},
    }
    with pytest.raises(RequestError, match="no file matches 'nowhere/"):
        made(raw, tmp_path)
    assert not list((tmp_path / "runs").glob("pretrain-*"))


def test_skipped_shards_are_told(raw, tmp_path):
    bad = tmp_path / "shards" / "part-001.jsonl.gz"
    bad.write_bytes(bad.read_bytes()[:200])
    raw["data"]["stream"] |= {"bad_shards": 0.25, "retries": 1}
    raw["train"] = {**raw["train"], "steps": None, "time": "10min"}
    artifact = made(raw, tmp_path)
    assert artifact.facts["shards_skipped"] == 1
    (skipped,) = events(artifact, "shard_skipped")
    assert skipped["shard"] == "part-001.jsonl.gz" and "damaged" in skipped["why"]
    assert len(events(artifact, "shard_retried")) == 1
    raw["data"]["stream"]["bad_shards"] = 0.1
    raw["train"]["seed"] = 1
    raw["train"].pop("seed")
    with pytest.raises(FlyweightError, match="1 of 4 shards cannot be read"):
        made(raw, tmp_path, "other")


def test_shards_that_cannot_be_read_are_refused_before_a_training_where_they_were_seen(
    raw, tmp_path
):
    bad = tmp_path / "shards" / "part-001.jsonl.gz"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(RequestError, match=r"1 of 4 shards cannot .* the last: part-001.*=0\.25"):
        made(raw, tmp_path)
    assert not list((tmp_path / "runs").glob("pretrain-*"))


def test_teachers_students_and_measurements_read_streams(raw, tmp_path):
    raw["stages"] = {
        "teacher": {"stage": "pretrain"},
        "distilled": {"stage": "distill", "teacher": "teacher"},
        "student": {"stage": "finetune", "input": "distilled", "method": "full"},
        "int8": {"stage": "quantize", "input": "student", "kind": "int8"},
    }
    raw["report"] = {"measure": ["evaluate"], "compare": ["student", "int8"]}
    plan = fw.plan(raw, session=session(tmp_path))
    assert any("the head of" in row.name for row in plan.beside)
    run = fw.run(config_load.recipe(raw), session=session(tmp_path))
    assert len({run[name].facts["corpus"] for name in raw["stages"]}) == 1
    assert run.summary.models[0].evaluate is not None and run.summary.corpus[0].floors
    card = (run["student"].path / "README.md").read_text()
    assert "A stream of 4 shards" in card


def test_the_memory_of_a_training_on_a_stream_is_measured_in_a_data_folder(raw, tmp_path):
    raw["data"]["stream"]["source"] = "shards/*.jsonl.gz"
    raw["report"] = {"measure": ["memory"]}
    found = Session(runs=tmp_path / "runs", threads=1, quiet=True, data_dir=tmp_path)
    fw.run(config_load.recipe(raw), session=found)
    (measured,) = (tmp_path / "runs").glob("memory-*/metrics.json")
    assert json.loads(measured.read_text())["peak_bytes"] > 0
