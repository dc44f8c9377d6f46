"""Streams: the same order from any place on, held-out documents, and shards that cannot be read."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from stream_fixture import documents, stream_data, write_jsonl, write_parquet, write_shards

from flyweight.config import schema
from flyweight.config.stream import Stream
from flyweight.data.document import SPLITS, Document
from flyweight.data.pack import pack, source_fingerprint
from flyweight.data.streams import open_stream
from flyweight.data.streams.held_out import StreamSample
from flyweight.data.streams.order import StreamOrder
from flyweight.data.streams.tokens import Edges, StreamPlace, TokenStream
from flyweight.data.streams.windows import StreamWindows
from flyweight.data.tokenizer_training import train
from flyweight.errors import FlyweightError, RequestError

ROWS, CONTEXT = 4, 32
BYTES = train(schema.ByteTokenizer(), lambda: iter(()), lambda: iter(()), 1, True)


def small(source: str, **fields) -> Stream:
    return schema.Data.model_validate(stream_data(source, **fields)).stream  # pyright: ignore


def token_stream(stream: Stream, seed: int = 0, rank: int = 0, world: int = 1, isolated=False):
    order = StreamOrder(stream, open_stream(stream), seed, rank, world, sleep=ignore_wait)
    assert BYTES.separator is not None
    return TokenStream(order, BYTES, Edges((), (BYTES.separator,), isolated))


def ignore_wait(seconds: float) -> None:
    assert seconds <= 30


def sequence(tokens: TokenStream, start: StreamPlace | None = None) -> list[np.ndarray]:
    return [step.tokens for step in tokens.steps(start or StreamPlace(), ROWS, CONTEXT)]


def texts_of(stream: Stream, seed: int = 0, **options) -> list[str]:
    order = StreamOrder(stream, open_stream(stream), seed, sleep=ignore_wait, **options)
    return [text for block in order.blocks() for text in block.documents]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl", ".parquet"])
def test_from_any_place_the_rest_is_the_same(tmp_path: Path, suffix: str):
    stream = small(write_shards(tmp_path, suffix=suffix), epochs=2)
    steps = list(token_stream(stream).steps(StreamPlace(), ROWS, CONTEXT))
    assert len(steps) > 100
    drawn = random.Random(0)
    for number in [0, *drawn.sample(range(len(steps)), 12)]:
        place = StreamPlace.read(json.loads(json.dumps(steps[number].place.json())))
        again = next(token_stream(stream).steps(place, ROWS, CONTEXT))
        assert np.array_equal(again.tokens, steps[number].tokens)
        assert again.place == steps[number].place and again.next == steps[number].next
    rest = sequence(token_stream(stream), steps[60].place)
    assert all(np.array_equal(a, b.tokens) for a, b in zip(rest, steps[60:], strict=True))


def test_every_training_document_comes_once_an_epoch_in_another_order(tmp_path: Path):
    stream = small(write_shards(tmp_path), epochs=2)
    texts = texts_of(stream)
    half = len(texts) // 2
    assert sorted(texts[:half]) == sorted(texts[half:]) and texts[:half] != texts[half:]
    assert texts == texts_of(stream) and texts != texts_of(stream, seed=1)
    assert len(set(texts[:half])) == half


def test_held_out_documents_are_never_learned_and_packed_once(tmp_path: Path):
    stream = small(write_shards(tmp_path))
    sample = StreamSample(stream, open_stream(stream))
    held_out = {
        split: {each.text for each in sample.documents(split) if isinstance(each, Document)}
        for split in SPLITS
    }
    learned = set(texts_of(stream))
    assert held_out["train"] <= learned
    assert not learned & (held_out["validation"] | held_out["test"])
    assert not held_out["validation"] & held_out["test"]
    for split in ("validation", "test"):
        size = sum(len(text) for text in held_out[split])
        assert 2000 <= size < 2500
    shards = {each.name.split("/")[0] for each in sample.documents("validation")}
    assert len(shards) == 4, "they come from all over the stream"


def test_processes_share_the_rows(tmp_path: Path):
    stream = small(write_shards(tmp_path))
    parts = [texts_of(stream, rank=rank, world=3) for rank in range(3)]
    assert sorted(text for part in parts for text in part) == sorted(texts_of(stream))
    assert min(map(len, parts)) > 60


def test_windows_follow_each_other_without_gaps(tmp_path: Path):
    stream = small(write_shards(tmp_path))
    steps = sequence(token_stream(stream))
    text = b"\0".join(text.encode() for text in texts_of(stream)) + b"\0"
    flat = np.concatenate([step[:, :-1].ravel() for step in steps])
    separator = BYTES.separator
    learned = bytes(np.where(flat == separator, 0, flat).astype(np.uint8))
    assert text.startswith(learned) and len(text) - len(learned) <= ROWS * CONTEXT
    for step in steps:
        assert np.array_equal(step[:-1, -1], step[1:, 0])
    for step, following in itertools.pairwise(steps):
        assert step[-1, -1] == following[0, 0]


def test_isolated_documents_have_ids(tmp_path: Path):
    stream = small(write_shards(tmp_path))
    tokens = token_stream(stream, isolated=True)
    steps = list(tokens.steps(StreamPlace(), ROWS, CONTEXT))
    flat = np.concatenate([step.tokens[:, :-1].ravel() for step in steps])
    ids = np.concatenate([step.ids[:, :-1].ravel() for step in steps if step.ids is not None])
    assert np.array_equal(np.cumsum(flat == BYTES.separator), ids)
    place = StreamPlace.read(steps[7].place.json())
    again = next(token_stream(stream, isolated=True).steps(place, ROWS, CONTEXT))
    assert again.ids is not None and np.array_equal(again.ids, steps[7].ids)


def test_a_thread_makes_the_same_steps_and_goes_on_anywhere(tmp_path: Path):
    stream = small(write_shards(tmp_path))
    expected = sequence(token_stream(stream))
    windows = StreamWindows(lambda rank, world: token_stream(stream, 0, rank, world), CONTEXT, ROWS)
    windows.start(0, None)
    for number in range(5):
        assert windows.ready(number)
        whole = windows.batch(number)
        halves = [windows.batch(number, slice(0, 2)), windows.batch(number, slice(2, 4))]
        assert whole.inputs.numpy().tolist() == expected[number][:, :-1].tolist()
        assert [row for half in halves for row in half.targets.tolist()] == whole.targets.tolist()
    with pytest.raises(FlyweightError, match="step 7 was asked for, and 5 is next"):
        windows.batch(7)
    place = windows.place(5).json()
    windows.start(5, place)
    for number in range(5, len(expected)):
        assert windows.batch(number).targets.tolist() == expected[number][:, 1:].tolist()
    assert not windows.ready(len(expected))
    assert (
        len(texts_of(stream)) - 5 < windows.place(len(expected)).documents < len(texts_of(stream))
    )
    windows.close()


# --- shards that cannot be read ---


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".parquet"])
def test_a_shard_that_was_cut_off_is_skipped_and_told(tmp_path: Path, suffix: str):
    source = write_shards(tmp_path, suffix=suffix)
    whole = set(texts_of(small(source)))
    truncated(tmp_path / f"part-002{suffix}")
    stream = small(source, bad_shards=0.25, retries=2)
    order = StreamOrder(stream, open_stream(stream), 0, sleep=ignore_wait)
    blocks = list(order.blocks())
    events = [event for block in blocks for event in block.events]
    assert [event.kind for event in events] == ["shard_retried"] * 2 + ["shard_skipped"]
    assert all(event.fields["shard"] == f"part-002{suffix}" for event in events)
    assert set(blocks[-1].next.ends) == {f"part-002{suffix}"}
    assert 100 < sum(len(block.documents) for block in blocks) < len(whole)
    steps = list(token_stream(stream).steps(StreamPlace(), ROWS, CONTEXT))
    for number in range(0, len(steps), 9):
        again = next(token_stream(stream).steps(steps[number].place, ROWS, CONTEXT))
        assert np.array_equal(again.tokens, steps[number].tokens), "the same rows after a resume"
    assert steps[-1].next.shards_skipped == 1


def test_too_many_bad_shards_end_it(tmp_path: Path):
    source = write_shards(tmp_path)
    truncated(tmp_path / "part-002.jsonl.gz")
    with pytest.raises(
        FlyweightError,
        match=r"1 of 4 shards .*bad_shards allows 0.01 .*part-002.jsonl.gz: is damaged",
    ):
        texts_of(small(source))


def test_the_share_that_is_advised_is_enough(tmp_path: Path):
    source = write_shards(tmp_path, shards=3)
    truncated(tmp_path / "part-002.jsonl.gz")
    with pytest.raises(FlyweightError, match=r"stream\.bad_shards=0\.34"):
        texts_of(small(source))
    assert texts_of(small(source, bad_shards=0.34))


def test_a_shard_of_another_schema_names_its_columns(tmp_path: Path):
    source = write_shards(tmp_path)
    write_jsonl(tmp_path / "part-009.jsonl.gz", documents(10), column="body")
    with pytest.raises(FlyweightError, match="another schema: no column 'text', only id, body"):
        texts_of(small(source, retries=0))
    write_parquet(tmp_path / "other" / "a.parquet", documents(500), column="body")
    stream = small(str(tmp_path / "other" / "*.parquet"))
    with pytest.raises(RequestError, match=r"no shard can be read: .*no column 'text', only body"):
        list(StreamSample(stream, open_stream(stream)).documents("train"))


def test_a_shard_that_fails_for_a_while_is_read_in_the_end(tmp_path: Path, monkeypatch):
    source = write_shards(tmp_path)
    stream = small(source)
    expected = texts_of(stream)
    found = open_stream(stream)
    opened, failures = type(found).open, iter([OSError(5, "Input/output error")] * 2)

    def flaky(self, shard):
        if shard.name == "part-001.jsonl.gz" and (error := next(failures, None)):
            raise error
        return opened(self, shard)

    monkeypatch.setattr(type(found), "open", flaky)
    blocks = list(StreamOrder(stream, found, 0, sleep=ignore_wait).blocks())
    assert [text for block in blocks for text in block.documents] == expected
    kinds = [event.kind for block in blocks for event in block.events]
    assert kinds == ["shard_retried"] * 2
    why = next(event for block in blocks for event in block.events).fields["why"]
    assert "Input/output error" in str(why)


def test_rows_without_text_are_counted(tmp_path: Path):
    texts = documents(400)
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    lines = path.read_text().splitlines()
    lines[7], lines[9], lines[11] = "{not json", '{"id": 9}', '{"text": "\\ud800"}'
    path.write_text("\n".join(lines))
    stream = small(str(path))
    blocks = list(StreamOrder(stream, open_stream(stream), 0).blocks())
    learned = {text for block in blocks for text in block.documents}
    assert 1 <= blocks[-1].next.rows_skipped <= 3
    assert not learned & {texts[7], texts[9], texts[11]}


def test_text_files_are_one_document_each(tmp_path: Path):
    for number in range(60):
        (tmp_path / f"{number:02d}.txt").write_text("\n".join(documents(10, number)))
    stream = small(str(tmp_path / "*.txt"))
    texts = texts_of(stream)
    assert 40 < len(texts) < 60 and all(text.count("\n") > 5 for text in texts)


# --- what it is ---


def test_the_fingerprint_is_of_names_sizes_and_beginnings(tmp_path: Path):
    source = write_shards(tmp_path)
    data = schema.Data.model_validate(stream_data(source))
    first = source_fingerprint(data)
    assert first == source_fingerprint(data.model_copy(update={"stream": small(source, shuffle=7)}))
    raw = bytearray((tmp_path / "part-001.jsonl.gz").read_bytes())
    raw[30] ^= 1
    (tmp_path / "part-001.jsonl.gz").write_bytes(bytes(raw))
    changed = source_fingerprint(data)
    (tmp_path / "part-000.jsonl.gz").rename(tmp_path / "part-0.jsonl.gz")
    assert len({first, changed, source_fingerprint(data)}) == 3


def test_the_head_of_a_stream_is_packed(tmp_path: Path):
    source = write_shards(tmp_path / "shards", rows=200, suffix=".jsonl")
    data = schema.Data.model_validate(stream_data(source))
    corpus = pack(data, None, tmp_path / "corpus")
    splits = corpus.meta.splits
    assert splits["train"].bytes >= 8000 > 7000 and splits["validation"].bytes >= 2000
    assert data.stream is not None
    facts = StreamSample(data.stream, open_stream(data.stream)).facts()
    learned = sum(len(text.encode()) for text in texts_of(data.stream))
    assert facts["text_bytes"] == pytest.approx(learned, rel=0.15) and not facts["exact"]
    whole = small(source, sample="1MB")
    facts = StreamSample(whole, open_stream(whole)).facts()
    assert facts["exact"] and facts["text_bytes"] == learned


def test_the_estimate_knows_what_gzip_saves(tmp_path: Path):
    texts = documents(20_000)
    write_jsonl(tmp_path / "a.jsonl.gz", texts)
    stream = small(str(tmp_path / "*.gz"), sample="200kB")
    facts = StreamSample(stream, open_stream(stream)).facts()
    learned = sum(len(text.encode()) for text in texts_of(stream))
    assert facts["text_bytes"] == pytest.approx(learned, rel=0.1)


# --- requests that are wrong ---


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "nowhere/*.jsonl"}, "no file matches 'nowhere/"),
        ({"source": "hf:allenai"}, "does not name a dataset; write hf:owner/name"),
        ({"source": "{folder}/*.pdf"}, "is not a shard of text; name files of the kinds .jsonl"),
        ({"source": "{folder}/*.jsonl"}, "all 1 shards are empty"),
        (
            {"source": "{folder}/*.gz", "validation": "1MB"},
            "1 MB for validation and 2 kB for test are more than half",
        ),
    ],
)
def test_a_stream_that_is_not_there(tmp_path: Path, fields: dict, message: str):
    write_shards(tmp_path)
    (tmp_path / "a.pdf").write_bytes(b"%PDF-")
    (tmp_path / "empty.jsonl").touch()
    fields = {**fields, "source": fields["source"].format(folder=tmp_path)}
    stream = small(**fields)
    with pytest.raises(RequestError, match=message.replace("(", r"\(")):
        StreamSample(stream, open_stream(stream)).facts()


def test_gzip_of_nothing_is_no_shard(tmp_path: Path):
    write_shards(tmp_path)
    (tmp_path / "part-009.jsonl.gz").write_bytes(gzip.compress(b""))
    assert len(texts_of(small(str(tmp_path / "*.gz")))) > 200


def test_notes_beside_shards_are_not_shards(tmp_path):
    write_shards(tmp_path / "shards", shards=2, rows=60)
    (tmp_path / "shards" / "README.md").write_text("About this dataset.")
    found = open_stream(small(str(tmp_path / "shards")))
    assert [shard.name for shard in found.shards] == ["part-000.jsonl.gz", "part-001.jsonl.gz"]
