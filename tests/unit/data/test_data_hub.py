from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from flyweight.data.document import SPLITS, HeldOut, Source
from flyweight.data.sources import hub, ptb, resolve, tiny_shakespeare, wikitext
from flyweight.errors import RequestError

pyarrow = pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")


def texts(source: Source) -> dict[str, str]:
    return {
        split: "".join(document.text for document in source.documents(split)) for split in SPLITS
    }  # pyright: ignore


def parquet(path: Path, **columns: list[Any]) -> None:
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the hub: the same paths, read by the same `datasets.load_dataset`."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(hub, "_URL", f"{folder}/{{repository}}/{{revision}}/{{path}}")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return folder


def place(folder: Path, where: hub.Parquet, split: str) -> Path:
    name = where.files.format(split=split).replace(
        "*", "00000-of-00001" if "-*" in where.files else "0000"
    )
    return folder / where.repository / where.revision.replace("/", "%2F") / name


def test_ptb_rows_become_the_lines_of_the_files(mirror: Path):
    for split in SPLITS:
        parquet(place(mirror, ptb.HUB, split), sentence=[f"{split} of <unk> N", "second sentence"])
    source = resolve("ptb")
    assert source.about.origin.startswith("hf:ptb-text-only/ptb_text_only at refs/convert/parquet")
    assert texts(source) == {
        split: f" {split} of <unk> N \n second sentence \n" for split in SPLITS
    }


def test_tiny_shakespeare_rows_are_one_text_again(mirror: Path):
    whole = "".join(f"{number}. line of a play\n" for number in range(400))
    first, second = int(len(whole) * 0.9), int(len(whole) * 0.95)
    for split, text in zip(
        SPLITS, (whole[:first], whole[first:second], whole[second:]), strict=True
    ):
        parquet(place(mirror, tiny_shakespeare.HUB, split), text=[text])
    source = resolve("tiny-shakespeare")
    assert texts(source) == {
        "train": whole[:first],
        "validation": whole[first:second],
        "test": whole[second:],
    }


def test_wikitext_blank_rows_become_blank_lines(mirror: Path):
    rows = [
        "",
        " = Title = \n",
        "",
        " Some <unk> words . \n",
        " = = Part = = \n",
        "",
        " = Second = \n",
        "",
        " More . \n",
    ]
    for split in SPLITS:
        parquet(place(mirror, wikitext.hub("wikitext-2"), split), text=rows)
    documents = list(resolve("wikitext-2").documents("test"))
    assert [document.text for document in documents] == [  # pyright: ignore[reportAttributeAccessIssue]
        " \n = Title = \n \n Some <unk> words . \n = = Part = = \n",
        " \n = Second = \n \n More . \n",
    ]


def test_local_folder_comes_before_the_hub(mirror: Path, tmp_path: Path):
    (tmp_path / "ptb").mkdir()
    for short in ("train", "valid", "test"):
        (tmp_path / "ptb" / f"ptb.{short}.txt").write_text(f" local {short} \n")
    assert texts(resolve("ptb", tmp_path))["validation"] == " local valid \n"


def test_another_schema_is_refused(mirror: Path):
    for split in SPLITS:
        parquet(place(mirror, ptb.HUB, split), words=["a"])
    with pytest.raises(RequestError, match="has no column 'sentence', only words"):
        texts(resolve("ptb"))


def test_nothing_there_says_what_to_do(mirror: Path):
    with pytest.raises(
        RequestError, match=r"ptb .* could not be read from the hub .*--data-dir or FLYWEIGHT_DATA"
    ):
        texts(resolve("ptb"))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RequestError, match=r'pip install "flyweight\[hub\]".*--data-dir'):
        texts(resolve("ptb"))
    with pytest.raises(RequestError, match=r'pip install "flyweight\[hub\]"'):
        texts(resolve("hf:owner/name"))


# --- any dataset ---


def any_dataset(
    monkeypatch: pytest.MonkeyPatch, **splits: dict[str, list[Any]]
) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    loaded = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict(columns) for name, columns in splits.items()}
    )

    def load(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return loaded

    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


def test_splits_under_other_names(monkeypatch: pytest.MonkeyPatch):
    columns = {
        split: {"id": [1, 2], "text": [f"{split} 1", f"{split} 2"]}
        for split in ("train", "dev", "test", "extra")
    }
    calls = any_dataset(monkeypatch, **columns)
    source = resolve("hf:owner/name:config")
    assert texts(source) == {
        "train": "train 1train 2",
        "validation": "dev 1dev 2",
        "test": "test 1test 2",
    }
    assert calls == [("owner/name", "config")]
    assert source.about.separated


def test_missing_splits_are_taken_from_train(monkeypatch: pytest.MonkeyPatch):
    any_dataset(monkeypatch, train={"content": [f"row {n}\n" for n in range(2000)]})
    source = resolve("hf:owner/name", None, HeldOut(0.1, 0.2))
    rows = {split: part.splitlines() for split, part in texts(source).items()}
    assert sorted(row for part in rows.values() for row in part) == sorted(
        f"row {n}" for n in range(2000)
    )
    assert len(rows["validation"]) == pytest.approx(200, abs=60)
    assert len(rows["test"]) == pytest.approx(400, abs=80)


def test_only_the_missing_split_is_taken(monkeypatch: pytest.MonkeyPatch):
    any_dataset(
        monkeypatch,
        train={"text": [f"row {n}\n" for n in range(1000)]},
        test={"text": ["the test\n"]},
    )
    rows = {split: part.splitlines() for split, part in texts(resolve("hf:owner/name")).items()}
    assert rows["test"] == ["the test"]
    assert len(rows["train"]) + len(rows["validation"]) == 1000
    assert 20 < len(rows["validation"]) < 100


@pytest.mark.parametrize("standard", [(), ("test",), ("validation",)])
def test_few_rows_are_cut_in_parts(monkeypatch: pytest.MonkeyPatch, standard: tuple[str, ...]):
    texts_by_split = {
        "train": ["".join(f"line {n}\n" for n in range(500)), None],
        **{name: ["held\n"] for name in standard},
    }
    any_dataset(monkeypatch, **{name: {"text": rows} for name, rows in texts_by_split.items()})
    parts = texts(resolve("hf:owner/name"))
    from_train = "".join(part for split, part in parts.items() if split not in standard)
    assert from_train == texts_by_split["train"][0]
    assert all(
        len(part) > 0.03 * len(from_train) for split, part in parts.items() if split not in standard
    )
    assert all(parts[split] == "held\n" for split in standard)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"a": ["x"], "b": ["y"]}, r"which column is the corpus\? It has a, b: several are text"),
        ({"n": [1]}, r"It has n \(int64\): none of them is text"),
    ],
)
def test_the_text_column_is_not_guessed(
    monkeypatch: pytest.MonkeyPatch, columns: dict[str, list[Any]], message: str
):
    any_dataset(monkeypatch, train=columns)
    with pytest.raises(RequestError, match=message):
        texts(resolve("hf:owner/name"))


def test_no_train_split(monkeypatch: pytest.MonkeyPatch):
    any_dataset(monkeypatch, everything={"text": ["x"]})
    with pytest.raises(RequestError, match="has no train split, only everything"):
        texts(resolve("hf:owner/name"))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("offline"),
        ValueError("BuilderConfig 'x' not found"),
        RuntimeError("scripts"),
    ],
)
def test_what_datasets_raises_is_passed_on(monkeypatch: pytest.MonkeyPatch, error: Exception):
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(RequestError, match=str(error)):
        texts(resolve("hf:owner/name"))
