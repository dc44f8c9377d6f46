"""Streams of the hub: which files a name means, how they are read, and a hub that is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stream_fixture import documents, stream_data, write_jsonl, write_parquet

from flyweight.config import schema
from flyweight.data.pack import source_fingerprint
from flyweight.data.streams import open_stream
from flyweight.data.streams.held_out import StreamSample
from flyweight.data.streams.hub import HubShards
from flyweight.data.streams.order import StreamOrder
from flyweight.errors import RequestError

huggingface_hub = pytest.importorskip("huggingface_hub")

CARD = [
    {
        "config_name": "en",
        "data_files": [
            {"split": "train", "path": "en/c4-train.*.json.gz"},
            {"split": "validation", "path": "en/c4-validation.*.json.gz"},
        ],
    },
    {"config_name": "sample-10BT", "data_files": [{"split": "train", "path": "sample/10BT/*"}]},
]


class Hub:
    """A folder that stands for a repository: the same calls, the same layout."""

    def __init__(self, folder: Path, card: list[dict[str, Any]] | None) -> None:
        self.folder, self.card, self.asked = folder, card, list[Any]()

    def dataset_info(self, repository: str, revision: str | None, files_metadata: bool) -> Any:
        assert files_metadata
        self.asked.append((repository, revision))
        files = [file for file in sorted(self.folder.rglob("*")) if file.is_file()]
        siblings = [
            SimpleNamespace(
                rfilename=file.relative_to(self.folder).as_posix(),
                size=file.stat().st_size,
                blob_id=f"blob-{file.name}",
                lfs=SimpleNamespace(sha256="ab" * 32) if file.suffix == ".parquet" else None,
            )
            for file in files
        ]
        card = SimpleNamespace(configs=self.card)
        return SimpleNamespace(siblings=siblings, card_data=card, sha=revision or "c0ffee")

    def open(self, path: str, mode: str, revision: str) -> Any:
        assert mode == "rb" and revision == "c0ffee"
        return open(self.folder / path.removeprefix("datasets/owner/name/"), "rb")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    folder, texts = tmp_path / "hub", documents(1200)
    for number in range(4):
        part = texts[number * 200 : (number + 1) * 200]
        write_jsonl(folder / "en" / f"c4-train.{number:05d}-of-00004.json.gz", part)
    write_jsonl(folder / "en" / "c4-validation.00000-of-00001.json.gz", texts[800:900])
    write_jsonl(folder / "de" / "c4-de.00000.json.gz", texts[900:1000])
    write_jsonl(folder / "de" / "c4-de-validation.00000.json.gz", texts[1000:1010])
    write_parquet(folder / "sample" / "10BT" / "000_00000.parquet", texts[1000:])
    (folder / "README.md").write_text("about it")
    (folder / "dataset_infos.json").write_text("{}")
    fake = Hub(folder, CARD)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "HfFileSystem", lambda: fake)
    return fake


def names(source: str, revision: str | None = None) -> list[str]:
    return [shard.name for shard in HubShards.find(source, revision).shards]


def test_a_config_of_the_card_means_its_training_files(hub: Hub):
    assert names("hf:owner/name:en") == [
        f"en/c4-train.{number:05d}-of-00004.json.gz" for number in range(4)
    ]
    assert names("hf:owner/name:sample-10BT") == ["sample/10BT/000_00000.parquet"]


def test_a_folder_or_a_glob_means_its_files(hub: Hub):
    assert names("hf:owner/name:de") == ["de/c4-de.00000.json.gz"]
    assert names("hf:owner/name:*/*-validation*") == [
        "de/c4-de-validation.00000.json.gz",
        "en/c4-validation.00000-of-00001.json.gz",
    ]
    hub.card = None
    assert len(names("hf:owner/name")) == 6, "notes and files for validation are left out"


def test_what_is_not_there_is_named(hub: Hub):
    with pytest.raises(RequestError, match=r"several configs; name one: en, sample-10BT"):
        names("hf:owner/name")
    with pytest.raises(RequestError, match=r"'fr' is neither a config \(there are en, sample-10"):
        names("hf:owner/name:fr")


def test_a_stream_of_the_hub_is_read_and_pinned(hub: Hub):
    data = schema.Data.model_validate(stream_data("hf:owner/name:en"))
    stream = data.stream
    assert stream is not None
    found = open_stream(stream)
    sample = StreamSample(stream, found)
    assert sample.facts()["revision"] == "c0ffee" == found.revision
    assert sum(1 for _ in sample.documents("validation")) > 10
    learned = [text for block in StreamOrder(stream, found, 0).blocks() for text in block.documents]
    assert 200 < len(set(learned)) == len(learned) < 800
    pinned = data.model_copy(update={"stream": stream.model_copy(update={"revision": "c0ffee"})})
    assert source_fingerprint(pinned) == source_fingerprint(data)
    other = data.model_copy(update={"stream": stream.model_copy(update={"revision": "beef"})})
    assert source_fingerprint(other) != source_fingerprint(data)
    assert hub.asked[-1] == ("owner/name", "beef") or hub.asked[-2] == ("owner/name", "beef")


def test_a_hub_that_is_not_there_is_one_message(monkeypatch: pytest.MonkeyPatch):
    def refused(*arguments: Any, **options: Any) -> Any:
        raise ConnectionError("[Errno 111] Connection refused")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refused)
    with pytest.raises(
        RequestError, match=r"hf:allenai/c4:en could not be read from the hub \(Con"
    ):
        names("hf:allenai/c4:en")


def test_a_fault_of_the_program_is_not_the_hubs(monkeypatch: pytest.MonkeyPatch):
    def wrong(*arguments: Any, **options: Any) -> Any:
        raise TypeError("a mistake")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", wrong)
    with pytest.raises(TypeError, match="a mistake"):
        names("hf:allenai/c4:en")
