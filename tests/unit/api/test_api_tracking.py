import dataclasses
import json
import sys
import types

import pytest
from toy_recipe import toy

import flyweight as fw
from flyweight.api import Session, load
from flyweight.api.runs import request_of
from flyweight.api.trackers import TRACKERS
from flyweight.errors import RequestError
from flyweight.pipeline.runner import Runner
from flyweight.store import references


class FakeWandb(types.SimpleNamespace):
    """A module with the part of wandb's interface that is used, as version 0.31 has it."""

    def __init__(self, fails_at=None):
        super().__init__(
            Settings=lambda **fields: fields, Table=lambda columns, data: (columns, data)
        )
        self.runs, self.fails_at = [], fails_at

    def init(self, *, project, name, id, resume, config, tags, settings):
        json.dumps(config)
        assert all(0 < len(tag) <= 64 for tag in tags)
        run = FakeRun(self, id, resume, config, tags)
        self.runs.append(run)
        return run


class FakeRun:
    def __init__(self, library, id, resume, config, tags):
        self.library, self.id, self.resume, self.config, self.tags = (
            library,
            id,
            resume,
            config,
            tags,
        )
        self.url, self.dir, self.rows, self.axes, self.summary, self.ended = (
            None,
            "here",
            [],
            {},
            {},
            None,
        )

    def define_metric(self, name, step_metric=None):
        self.axes[name] = step_metric

    def log(self, values):
        self.rows.append(values)
        if len(self.rows) == self.library.fails_at:
            raise ConnectionError("the network is gone\nand more")

    def finish(self, exit_code):
        assert self.ended is None
        self.ended = exit_code

    def points(self, stage, kind, name="nll"):
        """The steps at which a curve was told."""
        return [row[f"{stage}/step"] for row in self.rows if f"{stage}/{kind}/{name}" in row]


@pytest.fixture
def wandb(monkeypatch):
    library = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", library)
    return library


def small(text_file, **fields):
    """A recipe of two trainings and a quantization, which is measured quickly."""
    raw = toy(text_file)
    stages = {
        "teacher": {"stage": "pretrain"},
        "student": {"stage": "distill", "teacher": "teacher"},
        "int8": {"stage": "quantize", "input": "student", "kind": "int8"},
    }
    report = {"compare": ["student", "int8"], "measure": ["evaluate"]}
    return {**raw, "stages": stages, "report": report, "trackers": "wandb", **fields}


@pytest.fixture
def session(tmp_path):
    notes = []
    session = Session(
        runs=tmp_path / "runs", threads=1, watch=lambda kind, fields: notes.append((kind, fields))
    )
    return session, notes


def test_a_recipe_is_one_run_with_curves_config_tags_table_and_numbers(wandb, session, text_file):
    run = fw.run(small(text_file), session=session[0])
    (told,) = wandb.runs
    assert told.ended == 0
    for stage in ("teacher", "student"):
        assert told.points(stage, "train") == list(range(1, 13))
        assert told.points(stage, "validation") == [6, 12]
        assert (
            told.axes[f"{stage}/train/*"] == told.axes[f"{stage}/validation/*"] == f"{stage}/step"
        )
    assert told.config["stages"]["student"]["stage"] == "distill"
    assert told.tags[:4] == ["toy", "pretrain", "distill", "quantize"]
    assert told.tags[4] == "seed 0" and told.tags[5].startswith("flyweight ")
    columns, rows = next(
        row["tables/comparison"] for row in told.rows if "tables/comparison" in row
    )
    assert columns[0] == "model"
    assert [row[0] for row in rows][:2] == ["student", "int8"]
    evaluation = run.summary.model("int8").evaluate
    assert told.summary["int8/bits_per_byte"] == evaluation.bits_per_byte.value
    assert told.summary["int8/bits_per_byte_low"] == evaluation.bits_per_byte.low


def test_trackers_change_no_id(wandb, session, text_file):
    tracked = load(small(text_file))
    plain = load(small(text_file, trackers=[]))
    assert request_of(tracked) == request_of(plain)
    assert "trackers" not in plain.model_dump(mode="json")
    first = fw.run(plain, session=session[0])
    again = fw.run(tracked, session=session[0])
    assert all(stage.reused for stage in again.summary.stages)
    assert first.summary.request == again.summary.request
    # what was there before the tracker is told from its log
    assert wandb.runs[0].points("teacher", "train") == list(range(1, 13))


def test_a_run_again_goes_on_with_its_tracker_and_tells_no_step_twice(wandb, session, text_file):
    recipe = small(text_file)
    fw.run(recipe, session=session[0])
    fw.run(recipe, session=session[0])
    first, second = wandb.runs
    assert first.id == second.id and second.resume == "allow"
    assert first.id.startswith(request_of(load(recipe)))
    assert second.points("teacher", "train") == []
    assert second.summary == first.summary
    fw.run(recipe, fresh=True, session=session[0])
    assert wandb.runs[2].id != first.id
    assert wandb.runs[2].points("teacher", "train") == list(range(1, 13))


def test_a_killed_run_goes_on_where_it_was(wandb, session, text_file, monkeypatch):
    recipe = small(text_file, train={**small(text_file)["train"], "checkpoint": "0.01ms"})
    make = Runner.make

    def killed_in_the_student(runner, name, config, artifacts):
        if name == "student":
            watch = runner.context.watch

            def until_step_7(kind, fields):
                watch(kind, fields)
                if kind == "step" and fields["step"] == 7:
                    raise KeyboardInterrupt

            runner.context = dataclasses.replace(runner.context, watch=until_step_7)
        return make(runner, name, config, artifacts)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Runner, "make", killed_in_the_student)
        fw.run(recipe, session=session[0])
    unfinished = references.of(session[0].store.root / "toy")
    assert unfinished.others and not unfinished.results  # how far it was told is no result
    fw.run(recipe, session=session[0])
    killed, after = wandb.runs
    assert killed.ended == 1 and after.ended == 0 and killed.id == after.id
    assert killed.points("student", "train") == list(range(1, 8))
    assert after.points("student", "train") == list(range(8, 13))
    assert after.points("teacher", "train") == []


def test_the_trackers_run_is_noted_with_its_first_point(wandb, session, text_file):
    session, _ = session
    noted = []

    def watch(kind, fields):
        files = list((session.store.root / "toy").glob("wandb-*.tracked"))
        if kind == "step" and files and not noted:
            noted.append((fields["step"], json.loads(files[0].read_text())["run"]))

    fw.run(small(text_file), session=dataclasses.replace(session, watch=watch))
    assert noted == [(2, wandb.runs[0].id)]  # a kill at the second step would go on with it


def test_a_tracker_that_fails_does_not_end_the_run(monkeypatch, session, text_file):
    library = FakeWandb(fails_at=5)
    monkeypatch.setitem(sys.modules, "wandb", library)
    session, notes = session
    run = fw.run(small(text_file), session=session)
    assert run.report.is_file()
    assert len(library.runs[0].rows) == 5
    assert [fields for kind, fields in notes if kind == "untracked"] == [
        {"tracker": "wandb", "why": "the network is gone"}
    ]
    library.fails_at = None
    fw.run(small(text_file), session=session)  # which tells what is missing
    assert library.runs[1].points("teacher", "train") == list(range(5, 13))


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_a_tracker_that_is_not_installed_is_refused_before_any_work(
    monkeypatch, session, text_file, name
):
    monkeypatch.setitem(sys.modules, TRACKERS[name].module, None)
    extra = TRACKERS[name].extra
    with pytest.raises(
        RequestError, match=rf"trackers: {name} .* pip install 'flyweight\[{extra}\]'"
    ):
        fw.run(small(text_file, trackers=[name]), session=session[0])
    assert not session[1]


def test_a_tracker_that_cannot_begin_is_refused_before_training(monkeypatch, session, text_file):
    def init(**fields):
        raise ValueError("No API key configured.")

    library = FakeWandb()
    library.init = init
    monkeypatch.setitem(sys.modules, "wandb", library)
    with pytest.raises(RequestError, match=r"cannot begin \(No API key configured\); WANDB_MODE"):
        fw.run(small(text_file), session=session[0])
    assert not list(session[0].store.root.glob("pretrain-*"))


def test_single_verbs_are_tracked_too(wandb, session, text_file):
    session, _ = session
    fw.run(small(text_file, trackers=[]), session=session)
    fw.quantize("toy:teacher", "trackers=wandb", session=session)
    fw.distill(
        "toy:teacher",
        "trackers=wandb",
        data=str(text_file),
        model={"dim": 16, "layers": 1, "attention": {"heads": 2}},
        train={"steps": 2},
        session=session,
    )
    quantized, distilled = wandb.runs
    assert quantized.tags[1] == "quantize" and "quantize/bits_per_byte" in quantized.summary
    assert distilled.points("distill", "train") == [1, 2]


def test_a_tracker_inside_a_training_is_told_where_it_stands(text_file):
    with pytest.raises(RequestError, match=r"train.trackers: .*did you mean trackers, at the top"):
        load({**small(text_file), "train": {"steps": 3, "trackers": ["wandb"]}})


def test_trackers_are_named_once(text_file):
    named = load(small(text_file, trackers=["wandb", "tensorboard", "wandb"])).trackers
    assert named == ("wandb", "tensorboard")
    with pytest.raises(RequestError, match="'mlflow' is not one of"):
        load(small(text_file, trackers=["mlflow"]))


def test_a_damaged_note_is_named(wandb, session, text_file):
    recipe = small(text_file)
    run = fw.run(recipe, session=session[0])
    (note,) = run.folder.glob("wandb-*.tracked")
    note.write_text("[]")
    with pytest.raises(RequestError, match="does not say how far a tracker was told; delete it"):
        fw.run(recipe, session=session[0])


def test_tensorboard_has_curves_text_and_numbers(session, text_file, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    fw.run(small(text_file, trackers="tensorboard"), session=session[0])
    (folder,) = (tmp_path / "tensorboard").iterdir()
    found = EventAccumulator(str(folder))
    found.Reload()
    scalars = found.Tags()["scalars"]
    assert [point.step for point in found.Scalars("student/train/nll")] == list(range(1, 13))
    assert "results/int8/bits_per_byte" in scalars
    texts = found.Tags()["tensors"]
    assert {"config/text_summary", "tags/text_summary", "tables/comparison/text_summary"} <= {
        *texts
    }


class FakeTrackio(types.SimpleNamespace):
    """A module with the part of trackio's interface that is used, as version 0.43 has it."""

    def __init__(self):
        super().__init__(Table=lambda *, columns, data: [*columns, *data], rows=[], ended=0)

    def init(self, *, project, name, config, resume):
        json.dumps(config)
        print("* Trackio project initialized")  # as the real one does, on standard output
        return types.SimpleNamespace(log=lambda values, step: self.rows.append((values, step)))

    def finish(self):
        self.ended += 1


def test_trackio_gets_steps_of_each_stage_and_prints_nothing(
    monkeypatch, session, text_file, capsys
):
    library = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", library)
    fw.run(small(text_file, trackers="trackio"), session=session[0])
    steps = [step for values, step in library.rows if "student/train/nll" in values]
    assert steps == list(range(1, 13)) and library.ended == 1
    assert any("results/int8/bits_per_byte" in values for values, _ in library.rows)
    out = capsys.readouterr()
    assert "Trackio" not in out.out and "Trackio" in out.err


def records(path):
    """The records of a wandb file: LevelDB's log format behind 7 bytes of its own."""
    import struct

    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_wandb_offline_keeps_everything_in_its_own_file(session, text_file, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    fw.run(small(text_file), session=session[0])
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    found = list(records(file))
    history = [
        {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]
    for stage in ("teacher", "student"):
        steps = [int(row[f"{stage}/step"]) for row in history if f"{stage}/train/nll" in row]
        assert steps == list(range(1, 13))
    axes = {record.metric.glob_name: record.metric.step_metric for record in found}
    assert axes["student/validation/*"] == "student/step"
    run = next(record.run for record in found if record.run.run_id)
    assert {"toy", "distill", "seed 0"} <= {*run.tags}
    assert "stages" in {update.key for update in run.config.update}
    summary = {update.key for record in found for update in record.summary.update}
    assert "int8/bits_per_byte" in summary
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/table/tables/comparison*.json"))
    assert next(record.exit.exit_code for record in found if record.HasField("exit")) == 0
