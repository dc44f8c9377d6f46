"""Teachers with other tokenizers: a student learns from their record, in bits per byte; what cannot be compared is refused."""

import numpy as np
import pytest
import torch

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load as config_load
from flyweight.data.told import Told
from flyweight.errors import RequestError
from flyweight.evaluation.compared_run import ComparedRun
from flyweight.evaluation.run_checks import taught_text
from flyweight.records.run_summary import Summary
from flyweight.store.artifact import Store
from flyweight.training import reading, teach

STEPS, BATCH, T = 6, 4, 32
BPE = {"kind": "bpe", "vocab": 300}


@pytest.fixture
def raw(text_file):
    data = {"corpus": str(text_file), "tokenizer": "byte", "context": T}
    return {
        "name": "across",
        "data": data,
        "model": {"dim": 32, "layers": 1, "attention": {"heads": 2}},
        "train": {"steps": STEPS, "batch": BATCH, "validations": 1, "precision": "fp32"},
        "stages": {
            "teacher": {
                "stage": "pretrain",
                "data": {**data, "tokenizer": BPE},
                "train": {"steps": 20},
            },
            "student": {
                "stage": "distill",
                "teacher": "teacher",
                "model": {"dim": 16},
                "across": "tokenizers",
            },
        },
        "report": {"measure": ["evaluate"], "compare": ["teacher", "student"]},
    }


def session(tmp_path):
    return Session(runs=tmp_path / "runs", threads=1, quiet=True)


def run(raw, tmp_path):
    return fw.run(config_load.recipe(raw), session=session(tmp_path))


def test_a_student_learns_from_a_teacher_with_another_tokenizer(raw, tmp_path):
    raw["stages"]["student"]["controls"] = ["shuffled", "same_compute"]
    done = run(raw, tmp_path)
    record, student = done["student-told"], done["student"]
    assert 0.3 < record.facts["kept_mass"] < 1
    assert 0.2 < record.facts["aligned"] < 0.9, "a token of the teacher has several bytes"
    assert student.facts["aligned"] == record.facts["aligned"]
    spent = [done[name].facts["flops"] for name in ("teacher", "student-told", "student")]
    assert student.facts["total_flops"] == sum(spent)
    assert done["student-same-compute"].facts["flops"] == pytest.approx(sum(spent), rel=0.1)
    assert done["student-shuffled"].facts["best_nll"] != student.facts["best_nll"]
    assert done["student-shuffled"].identity["parents"]["told"] == record.id
    card = (student.path / "README.md").read_text()
    assert "across tokenizers where tokens of both end at the same byte (" in card
    text = record.identity["parents"]["corpus.teacher"]
    assert text == done["teacher"].facts["corpus"] != student.facts["corpus"]

    summary = Summary.read(tmp_path / "runs" / "across")
    store = Store(tmp_path / "runs")
    assert taught_text(ComparedRun.of(summary, store)).verdict == "pass"
    roles = {model.name: model.role for model in summary.models}
    assert roles["student"] == "distilled from teacher, across tokenizers"

    told = Told(record.path / "told")
    read = told.record(np.arange(STEPS * BATCH))
    known = read.log_probs[..., 0] > -torch.inf
    assert float(known.float().mean()) == pytest.approx(record.facts["aligned"], abs=1e-6)
    assert told.meta.across and read.shared == told.meta.vocabulary == record.facts["groups"]


def test_a_record_resumed_in_the_middle_is_the_same(raw, tmp_path, monkeypatch):
    raw["report"]["compare"] = ["teacher"]
    whole = run(raw, tmp_path / "whole")["student-told"]
    monkeypatch.setattr(teach, "TOKENS_AT_ONCE", 5 * T)
    monkeypatch.setattr(teach, "SAVED_EVERY", 0.0)
    read, calls = reading.OtherTokens.read, []

    def interrupted(self, first, count):
        calls.append(first)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(self, first, count)

    with monkeypatch.context() as patch:
        patch.setattr(reading.OtherTokens, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(raw, tmp_path / "parts")
    parts = run(raw, tmp_path / "parts")["student-told"]
    for name in ("aligned", "flops", "groups", "rows"):
        assert parts.facts[name] == whole.facts[name]
    numbers = np.arange(STEPS * BATCH)
    one, other = (Told(each.path / "told").record(numbers) for each in (whole, parts))
    torch.testing.assert_close(one.log_probs, other.log_probs, rtol=0, atol=2e-3)


def test_several_teachers_and_a_teacher_that_reads_less_at_once(raw, tmp_path):
    stages = raw["stages"]
    data = stages["teacher"]["data"]
    stages["short"] = {
        "stage": "pretrain",
        "data": {**data, "tokenizer": "char", "context": 12},
        "train": {"steps": 8},
    }
    stages["student"]["teacher"] = ["teacher", "short"]
    done = run(raw, tmp_path)
    assert done["student-told"].facts["aligned"] > 0.1
    reads = STEPS * BATCH * T
    assert done["student-told"].facts["flops"] > 0
    assert done["student-told"].facts["tokens"] == reads


def test_isolated_documents_are_read_apart_by_the_teacher_too(raw, tmp_path):
    stories = tmp_path / "stories.txt"
    stories.write_text(
        "<|story|>".join(f"Story {n} of a cat and {n} dogs. " * 2 for n in range(150))
    )
    apart = {"corpus": str(stories), "separator": "<|story|>", "documents": "isolated"}
    raw["data"] |= apart
    raw["stages"]["teacher"]["data"] |= apart
    raw["model"]["layers"] = 2
    made, compared = [], 0
    original = reading.OtherTokens.__init__

    def kept(self, *args):
        original(self, *args)
        made.append(self)

    reading.OtherTokens.__init__ = kept
    try:
        done = run(raw, tmp_path)
    finally:
        reading.OtherTokens.__init__ = original
    assert done["student"].facts["aligned"] > 0.2
    reader = made[-1]
    teacher = reader.teachers[0]
    for row in range(STEPS * BATCH):
        window = reader.aligned(0, row, 1)[0]
        tokens, ids = reader._tokens(teacher, window)
        last = np.flatnonzero(ids == ids[-1])
        if len(set(ids.tolist())) < 2 or not (window.positions >= last[0]).any():
            continue
        compared += 1
        whole = teacher.model.hidden(
            torch.from_numpy(tokens)[None], documents=torch.from_numpy(ids)[None]
        )[0]
        joined = teacher.model.hidden(torch.from_numpy(tokens)[None])[0]
        at = window.positions[window.positions >= last[0]]
        heard = reader.read(row, 1).hidden[0][-len(at) :]
        torch.testing.assert_close(heard, whole[at], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(heard, joined[at], rtol=1e-4, atol=1e-5)
    assert compared > 2


def test_the_text_behind_a_position_does_not_change_what_is_told_of_it(raw, tmp_path, text_file):
    """Alter the end of every window: what was told before it stays."""
    raw["stages"]["student"]["told"] = {"k": 256, "store": "fp32"}
    raw["report"]["compare"] = ["teacher"]
    done = run(raw, tmp_path)
    stage = config_load.recipe(raw).stages["student-told"]
    made = []
    original = reading.OtherTokens.__init__

    def kept(self, *args):
        original(self, *args)
        made.append(self)

    reading.OtherTokens.__init__ = kept
    try:
        again = {**raw, "stages": {**raw["stages"]}}
        again["stages"]["other"] = {**stage.model_dump(exclude_none=True), "rows": 2}
        run(again, tmp_path)
    finally:
        reading.OtherTokens.__init__ = original
    reader, record = made[-1], Told(done["student-told"].path / "told").record(np.arange(2))
    window = reader.aligned(0, 0, 1)[0]
    places = reader.teachers[0].places
    tokens = np.array(places.tokens)
    cut = window.segments[0][0] + window.tokens // 2
    tokens[cut:] = tokens[0]

    class Altered:
        def __getitem__(self, part):
            return tokens[part]

        def __len__(self):
            return len(tokens)

    _, states = 0, reader.read(0, 1)
    object.__setattr__(places, "tokens", Altered())
    positions = np.flatnonzero(window.positions >= 0)
    before = window.positions[positions] < window.tokens // 2
    altered, _ = reader._hidden(
        0, [window], np.zeros(len(positions), int), window.positions[positions]
    )
    chosen = torch.from_numpy(before)
    assert before.any() and not before.all()
    torch.testing.assert_close(altered[chosen], states.hidden[0][chosen])
    assert not torch.allclose(altered[~chosen], states.hidden[0][~chosen])
    assert record.log_probs.shape[-1] == 256


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"objective": {"hidden": {"places": {0: 0}}}}, "hidden states of other tokens do not"),
        ({"start": {"from": "teacher"}}, "start: the teacher's rows belong to other tokens"),
        ({"across": "languages"}, "across"),
        ({"data": {"tokenizer": {"kind": "model"}}}, "model is the teacher's own tokenizer"),
        ({"data": {"task": "squad"}}, "squad has examples, which a model learns by fine-tuning"),
        ({"train": {"steps": None, "time": "3s"}}, "how many rows are read has to be known"),
    ],
)
def test_contradictions_are_found_before_anything_runs(raw, stage, message):
    raw["stages"]["student"] |= stage
    with pytest.raises(RequestError, match=message):
        config_load.recipe(raw)


def test_records_and_students_agree_on_it(raw):
    told = {"stage": "teach", "teacher": "teacher", "rows": 24}
    raw["stages"] |= {"told": told}
    raw["stages"]["student"] |= {"told": "told"}
    with pytest.raises(RequestError, match=r"student.across: told, its record, has None"):
        config_load.recipe(raw)


def with_its_teacher_outside(raw, tmp_path):
    """Train the recipe's teacher, and return the recipe of the student alone."""
    student = raw["stages"].pop("student")
    teacher = run({**raw, "report": {"compare": ["teacher"]}}, tmp_path)["teacher"]
    stages = {"student": {**student, "teacher": str(teacher.path)}}
    return {**raw, "stages": stages, "report": {"compare": ["student"]}}


def test_a_teacher_of_words_cannot_be_aligned(raw, tmp_path):
    raw["stages"]["teacher"]["data"]["tokenizer"] = {"kind": "word"}
    with pytest.raises(RequestError, match="across: teacher is cut into words"):
        config_load.recipe(raw)
    raw = with_its_teacher_outside(raw, tmp_path)
    refused = "across: the tokenizer of teacher: its tokens have no bytes"
    with pytest.raises(RequestError, match=refused):
        run(raw, tmp_path)


def test_without_the_line_it_is_refused_and_named(raw, tmp_path):
    del raw["stages"]["student"]["across"]
    message = r"\(bpe of 300 and byte\); give both the same, or add across: tokenizers"
    with pytest.raises(RequestError, match=message):
        config_load.recipe(raw)
    raw = with_its_teacher_outside(raw, tmp_path)
    with pytest.raises(RequestError, match=r"different tokenizers.*or across: tokenizers"):
        run(raw, tmp_path)
    raw["stages"]["student"]["across"] = "tokenizers"
    assert run(raw, tmp_path)["student"].facts["aligned"] > 0.2


def test_a_published_model_teaches_a_student_of_characters(raw, tmp_path, real_data):
    if not (real_data / "stories260k").is_dir():
        pytest.skip("no local copy of stories260k")
    raw["stages"].pop("teacher")
    raw["data"] |= {"tokenizer": "char", "context": 96}
    raw["stages"]["student"] |= {"teacher": str(real_data / "stories260k")}
    raw["report"] = {"compare": ["student"]}
    assert run(raw, tmp_path)["student"].facts["aligned"] > 0.2


def test_a_model_without_tokenizer_is_refused(raw, tmp_path):
    sizes = {"vocab_size": 300, "context": T, "dim": 16, "layers": 1, "attention": {"heads": 2}}
    raw["stages"]["teacher"] = {"stage": "init", "model": sizes}
    with pytest.raises(RequestError, match="has no tokenizer, so it cannot read"):
        run(raw, tmp_path)


def test_tokenizers_that_are_the_same_are_refused(raw):
    raw["stages"]["teacher"]["data"]["tokenizer"] = "byte"
    with pytest.raises(RequestError, match="across: the tokenizers are the same; leave across"):
        config_load.recipe(raw)
