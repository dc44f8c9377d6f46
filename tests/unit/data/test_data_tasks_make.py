from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from flyweight.data.document import SPLITS
from flyweight.data.tasks import TASKS, make, read_examples
from flyweight.data.tasks.make import main, write_tasks
from flyweight.errors import RequestError


@pytest.fixture
def plays(tmp_path: Path) -> Path:
    names = ("First Citizen", "MENENIUS", "Nurse")
    speeches = (f"{names[at % 3]}:\nSpeech {at}, my lord,\nand well." for at in range(2400))
    place = tmp_path / "data" / "tiny-shakespeare"
    place.mkdir(parents=True)
    (place / "input.txt").write_text("\n\n".join(speeches) + "\n")
    return place.parent


def test_every_split_of_every_task_can_be_read_and_is_the_same_again(plays: Path, tmp_path: Path):
    counts = write_tasks(tmp_path / "a", plays)
    assert write_tasks(tmp_path / "b", plays) == counts
    seen: dict[str, set[str]] = {task: set() for task in TASKS}
    for task in TASKS:
        for split in SPLITS:
            examples = read_examples(task, split, tmp_path / "a")
            assert len(examples.rows) > 20 and not examples.dropped and not examples.division
            heads = {row.prompt_head for row in examples.rows}
            assert not heads & seen[task], "no context is in two splits"
            seen[task] |= heads
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.jsonl")]
    assert len(files) == 9
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_answers_stand_where_they_are_said_to(plays: Path, tmp_path: Path):
    write_tasks(tmp_path / "out", plays)
    lines = (tmp_path / "out" / "squad" / "test.jsonl").read_text().splitlines()
    questions = [json.loads(line) for line in lines]
    assert {row["question"].split()[1] for row in questions} == {"is", "does"}
    for row in questions:
        (answer,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert row["context"][start : start + len(answer)] == answer
        assert len(row["context"]) <= make.LONGEST


def test_nothing_is_overwritten_and_missing_plays_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def missing(*arguments: object) -> None:
        raise RequestError("no plays here")

    monkeypatch.setattr(make, "resolve", missing)
    monkeypatch.delenv("FLYWEIGHT_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["make", str(tmp_path / "out")])
    main()
    told = capsys.readouterr()
    assert "no dialogues are written: no plays here" in told.err
    assert "squad: train" in told.out and f"take them with --data-dir {tmp_path}/out" in told.out
    assert not (tmp_path / "out" / "daily-dialog").exists()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "there is something already" in capsys.readouterr().err
