from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from flyweight.data.sources import hub
from flyweight.data.tasks import TASKS, TEMPLATES, Examples, read_examples
from flyweight.data.tasks.files import HUB
from flyweight.data.tasks.reading import holds_examples
from flyweight.errors import RequestError

REAL = Path(os.environ.get("FLYWEIGHT_DATA", "/nowhere"))
SQUAD = {
    "id": "q1",
    "title": "Bees",
    "context": "Bees make honey in June.",
    "question": "What do bees make?",
    "answers": {"text": ["honey", "honey", "honey in June"], "answer_start": [10, 10, 10]},
}
DIALOGUE = {"dialog": ["Hello . ", " Hello !", "Bye ."], "act": [1, 1, 1]}
SUMMARY = {"article": "A long story. It ends.", "highlights": "A story .\nIt ends .", "id": "s1"}


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def folder(tmp_path: Path, name: str, row: Any) -> Path:
    for split in ("train", "validation"):
        write(tmp_path / name / f"{split}.jsonl", row)
    return tmp_path


def test_squad_has_the_published_prompt_and_all_answers(tmp_path: Path):
    data = folder(tmp_path, "squad", SQUAD)
    examples = read_examples("squad", "validation", data)
    (example,) = examples.rows
    assert example.prompt_head == SQUAD["context"]
    assert example.prompt == ("Bees make honey in June.\n\nQuestion: What do bees make?\nAnswer:")
    assert example.completion == " honey"
    assert example.references == ("honey", "honey in June")
    assert example.source == f"{tmp_path}/squad/validation.jsonl:1"
    assert (examples.kind, examples.division, examples.dropped) == ("squad", "", ())


def test_the_nested_articles_are_the_same_questions(tmp_path: Path):
    nested = {
        "version": "1.1",
        "data": [
            {
                "title": "Bees",
                "paragraphs": [
                    {
                        "context": SQUAD["context"],
                        "qas": [
                            {
                                "id": "q1",
                                "question": SQUAD["question"],
                                "answers": [
                                    {"text": text, "answer_start": 10}
                                    for text in SQUAD["answers"]["text"]
                                ],
                            }
                        ],
                    }
                ],
            }
        ],
    }
    write(tmp_path / "squad" / "train-v1.1.json", json.dumps(nested, indent=1))
    write(tmp_path / "squad" / "dev-v1.1.json", nested)
    for split, name in (("train", "train-v1.1.json"), ("validation", "dev-v1.1.json")):
        (example,) = read_examples("squad", split, tmp_path).rows
        assert example.prompt.startswith("Bees make honey in June.\n\nQuestion: What")
        assert example.references == ("honey", "honey in June")
        assert example.source == f"{tmp_path}/squad/{name}, row 1"


def test_dialogues_in_every_form(tmp_path: Path):
    for name, row in (
        ("daily-dialog", DIALOGUE),
        ("dailydialog", {"utterances": DIALOGUE["dialog"]}),
    ):
        data = folder(tmp_path / name, name, row)
        (example,) = read_examples("dialogue", "train", data).rows
        assert (example.prompt_head, example.prompt_tail) == ("Hello .\nHello !", "\n")
        assert (example.completion, example.references) == ("Bye .", ("Bye .",))
    text = tmp_path / "text"
    for split in ("train", "validation"):
        write(
            text / "daily-dialog" / f"{split}.txt", "Hello . __eou__ Hello ! __eou__ Bye . __eou__"
        )
    (example,) = read_examples("dialogue", "train", text).rows
    assert example.prompt == "Hello .\nHello !\n"
    assert example.completion == "Bye ."


def test_summaries_from_parquet(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    place = tmp_path / "cnn_dailymail"
    place.mkdir()
    table = pyarrow.table({key: [value] for key, value in SUMMARY.items()})
    for part in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        parquet.write_table(table, place / f"{part}.parquet")
    examples = read_examples("summarize", "train", tmp_path)
    assert [row.source.rpartition("/")[2] for row in examples.rows] == [
        "train-00000-of-00002.parquet, row 1",
        "train-00001-of-00002.parquet, row 1",
    ]
    assert examples.rows[0].prompt == "A long story. It ends.\n\nSummary:"
    assert examples.rows[0].completion == " A story .\nIt ends ."


def test_own_prompts_and_completions(tmp_path: Path):
    rows = [
        {"prompt": f"{number} and one is", "completion": f" {number + 1}"} for number in range(99)
    ]
    path = write(tmp_path / "sums.jsonl", *rows)
    parts = {split: read_examples(str(path), split) for split in ("train", "validation", "test")}
    prompts = [row.prompt for part in parts.values() for row in part.rows]
    assert sorted(prompts) == sorted(str(row["prompt"]) for row in rows), "each row in one split"
    assert len(parts["train"].rows) > 60 and len(parts["test"].rows) > 4
    assert "by a hash of the prompt" in parts["train"].division
    longer = write(tmp_path / "more" / "sums.jsonl", {"prompt": "new", "completion": "x"}, *rows)
    again = read_examples(str(longer), "validation").rows
    assert {row.prompt for row in parts["validation"].rows} <= {row.prompt for row in again}
    example = parts["train"].rows[0]
    assert (example.prompt_tail, example.completion[0]) == ("", " ")
    assert example.references == (example.completion.strip(),)


def test_own_messages(tmp_path: Path):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([{"messages": turns}] * 10))
    examples = read_examples(str(path), "train")
    assert examples.kind == "messages"
    assert examples.rows[0].prompt == "System: Be brief.\nUser: Hi\nAssistant:"
    assert examples.rows[0].completion == " Hello."
    assert examples.rows[0].references == ("Hello.",)
    assert len(examples.rows) == 8 and "the first 80 %" in examples.division


def test_a_folder_of_splits_and_packed_files(tmp_path: Path):
    lines = (json.dumps({"prompt": "a", "completion": "b"}) + "\n") * 3
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    write(tmp_path / "valid.json", {"prompt": "c", "completion": "d"})
    assert len(read_examples(str(tmp_path), "train").rows) == 3
    assert read_examples(str(tmp_path), "validation").rows[0].prompt == "c"
    with pytest.raises(RequestError, match=r"no test split, only train, validation; put test"):
        read_examples(str(tmp_path), "test")


def test_one_file_of_a_task_is_divided_by_order(tmp_path: Path):
    rows = [{**SUMMARY, "article": f"Story {number}."} for number in range(10)]
    write(tmp_path / "cnn-dailymail" / "validation-1000.jsonl", *rows)
    parts = [
        read_examples("summarize", split, tmp_path) for split in ("train", "validation", "test")
    ]
    assert [[row.prompt_head for row in part.rows] for part in parts] == [
        [f"Story {number}." for number in range(8)],
        ["Story 8."],
        ["Story 9."],
    ]
    assert (
        "has only validation-1000.jsonl: of its rows, the first 80 % are train" in parts[0].division
    )


@pytest.mark.parametrize(
    "row, message",
    [
        ('{"prompt": ', r"it is not JSON"),
        ([1], r"it is a list, not an object with fields"),
        ({"text": "a"}, r"it has no 'prompt'"),
        ({"prompt": "a", "completion": " "}, r"'completion' is empty"),
        ({"prompt": 3, "completion": "b"}, r"'prompt' is a number, not text"),
        (
            {**SQUAD, "answers": {"text": [], "answer_start": []}},
            r"'What do bees make\?' has no answer",
        ),
        ({**SQUAD, "answers": {"text": ["wax"]}}, r"the answer 'wax' is not in its context"),
        ({**SQUAD, "answers": "honey"}, r"'answers' is not \{"),
        ({"dialog": ["Hello ."]}, r"needs two turns, and 'dialog' has 1"),
        ({"utterances": ["a", " ", "b"]}, r"turn 2 of 'utterances' is empty"),
        ({"messages": [{"role": "user", "content": "a"}]}, r"needs two messages"),
        (
            {"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]},
            r"the last message is by the user",
        ),
        (
            {"messages": [{"role": "boss", "content": "a"}]},
            r"message 1: the role 'boss' is not one",
        ),
        ({"prompt": "\ud800", "completion": "b"}, r"half a surrogate pair"),
    ],
)
def test_bad_rows_are_named_counted_and_limited(tmp_path: Path, row: Any, message: str):
    good = {
        "squad": SQUAD,
        "dialogue": DIALOGUE,
        "messages": {
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        },
    }
    kinds = {"context": "squad", "dialog": "dialogue", "utterances": "dialogue"}
    fields = [*row] if isinstance(row, dict) else []
    kind = next((kinds.get(name, name) for name in fields if name not in ("id", "title")), "")
    fine = good.get(kind, {"prompt": "a", "completion": "b"})
    path = write(tmp_path / "rows.jsonl", fine, row, *[fine] * 10)
    with pytest.raises(RequestError) as error:
        read_examples(str(path), "train")
    assert "1 of 12 rows cannot be used" in str(error.value)
    assert f"{path}:2: " in str(error.value)
    assert "leave them out with bad_rows=1 (--bad-rows 1)" in str(error.value)
    assert error.match(message)
    examples = read_examples(str(path), "train", bad_rows=1)
    assert [dropped.source for dropped in examples.dropped] == [f"{path}:2"]
    assert len(examples.rows) == 9


def test_more_bad_rows_than_allowed(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", *["{"] * 7, {"prompt": "a", "completion": "b"})
    with pytest.raises(RequestError, match=r"7 of 8 rows .* bad_rows allows 6.*:5: .*; and 2 more"):
        read_examples(str(path), "train", bad_rows=6)
    with pytest.raises(RequestError, match=r"no example is left for the test split \(1 row could"):
        read_examples(str(path), "test", bad_rows=7)


def test_leaving_all_rows_out_is_not_advised(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", *["{"] * 3)
    with pytest.raises(RequestError, match=r"3 of 3 rows cannot be used.*Repair them$"):
        read_examples(str(path), "train")


def test_a_pipe_is_refused_at_once(tmp_path: Path):
    pipe = tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(RequestError, match=r"rows.jsonl is a pipe or a device.*write it to a file"):
        read_examples(str(pipe), "train")


def test_what_is_missing_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_network(*arguments: object, **options: object) -> None:
        raise RequestError("no network")

    monkeypatch.setattr(hub, "_load", no_network)
    for data in (tmp_path, None):
        with pytest.raises(
            RequestError, match=r"Put \{train,validation\}\..* into DIR/squad .*--data"
        ):
            read_examples("squad", "train", data)
    with pytest.raises(RequestError, match="squad has no test split, only train, validation"):
        read_examples("squad", "test")
    (tmp_path / "squad").mkdir()
    with pytest.raises(RequestError, match=r"squad has none of its files; put"):
        read_examples("squad", "train", tmp_path)
    write(tmp_path / "squad" / "train.jsonl", SQUAD)
    write(tmp_path / "squad" / "train.json", SQUAD)
    with pytest.raises(RequestError, match=r"several files for its train split \(train.json, "):
        read_examples("squad", "train", tmp_path)
    with pytest.raises(
        RequestError, match=r"'squat' does not exist .*one of squad, dialogue, summ"
    ):
        read_examples("squat", "train")
    with pytest.raises(RequestError, match=r"'dev' is not one of train, validation, test"):
        read_examples("squad", "dev")


def test_the_hub_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pyarrow = pytest.importorskip("pyarrow")
    datasets = pytest.importorskip("datasets")
    from pyarrow import parquet

    monkeypatch.setattr(hub, "_URL", f"{tmp_path}/hub/{{repository}}/{{revision}}/{{path}}")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows: dict[str, dict[str, Any]] = {"squad": SQUAD, "dialogue": DIALOGUE, "summarize": SUMMARY}
    for task in TASKS:
        source = HUB[task]
        name = source.files.format(split="train").replace("*", "00000-of-00001")
        path = tmp_path / "hub" / source.repository / source.revision.replace("/", "%2F") / name
        path.parent.mkdir(parents=True)
        parquet.write_table(pyarrow.Table.from_pylist([rows[task]]), path)
        local = folder(tmp_path / "local", str(TEMPLATES[task].folder), rows[task])
        there, here = read_examples(task, "train"), read_examples(task, "train", local)
        assert without_source(there) == without_source(here)
        assert there.origin == f"hf:{source.repository} at {source.revision}"


def without_source(examples: Examples) -> list[tuple[object, ...]]:
    return [
        (row.prompt_head, row.prompt_tail, row.completion, row.references) for row in examples.rows
    ]


@pytest.mark.skipif(not (REAL / "squad").is_dir(), reason="needs the real files")
@pytest.mark.parametrize(
    "task, split, rows, references",
    [
        ("squad", "validation", 10_570, 34_726),
        ("dialogue", "validation", 1_000, 1_000),
        ("dialogue", "test", 1_000, 1_000),
        ("summarize", "train", 800, 800),
        ("summarize", "test", 100, 100),
    ],
)
def test_the_published_counts(task: str, split: str, rows: int, references: int):
    examples = read_examples(task, split, REAL)
    assert len(examples.rows) == rows and not examples.dropped
    if task != "squad":  # the published count has answers that are given more than once
        assert sum(len(row.references) for row in examples.rows) == references


def test_rows_of_no_schema_are_named_with_those_there_are(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"text": "a"})
    with pytest.raises(
        RequestError, match=r":1: its fields are 'text'; known are .*\"completion\""
    ):
        read_examples(str(path), "train")


@pytest.mark.parametrize(
    ("name", "row", "examples"),
    [
        ("rows.jsonl", {"prompt": "a", "completion": "b"}, True),
        ("rows.ndjson", {"prompt": "a", "completion": "b"}, True),
        ("folder/train.jsonl", {"prompt": "a", "completion": "b"}, True),
        ("rows.txt", {"prompt": "a", "completion": "b"}, False),
        ("folder/train.jsonl", {"text": "a"}, False),
        ("rows.jsonl", {"text": "a"}, False),
    ],
)
def test_files_and_folders_of_examples_are_told_from_text(
    name: str, row: Any, examples: bool, tmp_path: Path
) -> None:
    file = write(tmp_path / name, row)
    path = file if file.parent == tmp_path else file.parent
    assert holds_examples(path) is examples


def test_a_folder_of_texts_with_several_files_of_a_split_is_no_folder_of_examples(
    tmp_path: Path,
) -> None:
    for name in ("train.jsonl", "train-more.jsonl"):
        write(tmp_path / name, {"prompt": "a", "completion": "b"})
    assert not holds_examples(tmp_path)


def test_packed_rows_are_examples(tmp_path: Path) -> None:
    import lzma

    path = tmp_path / "rows.jsonl.xz"
    path.write_bytes(lzma.compress(b'{"prompt": "a", "completion": "b"}\n'))
    assert holds_examples(path)
