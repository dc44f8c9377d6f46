from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyweight.config import schema
from flyweight.config.tasks import TaskData
from flyweight.data.batch import IGNORE
from flyweight.data.tasks import Example, read_examples
from flyweight.data.tasks.batches import ExampleBatches, packed_rows
from flyweight.data.tasks.encode import EncodedExample, TooLong, completion_end, encode_examples
from flyweight.data.tasks.files import reported_split
from flyweight.data.tasks.folder import (
    ExampleFolder,
    examples_fingerprint,
    read_splits,
    write_examples,
)
from flyweight.data.tokenizer import SEPARATOR, Tokenizer
from flyweight.data.tokenizer_training import train
from flyweight.errors import RequestError

REAL = Path(os.environ.get("FLYWEIGHT_DATA", "/nowhere"))


def byte_tokenizer(separated: bool = True) -> Tokenizer:
    return train(schema.ByteTokenizer(), lambda: iter("x"), lambda: iter(""), 1, separated)


BYTE = byte_tokenizer()
END = 256


def example(head: str, tail: str, completion: str, *references: str) -> Example:
    return Example(head, tail, completion, references or (completion.strip(),), "f:1")


def one(example: Example, tokenizer: Tokenizer, context: int, **options: Any) -> Any:
    (row,) = encode_examples([example], tokenizer, context, **options)
    return row


def test_a_completion_follows_its_prompt_and_ends_in_the_separator():
    row = one(example("ab", "?", " c"), BYTE, 100)
    assert row == EncodedExample((*b"ab? c", END), prompt=3)
    assert completion_end(BYTE).text == SEPARATOR


def test_without_a_separator_a_line_end_ends_a_completion_and_that_is_told(tmp_path: Path):
    plain = byte_tokenizer(separated=False)
    assert one(example("a", "?", "b"), plain, 100).ids == tuple(b"a?b\n")
    meta = written(tmp_path, [("a", "b")] * 10, tokenizer=plain)
    assert not meta.end_is_special
    assert "no separator token: completions end in '\\n'" in next(meta.remarks())


def test_only_the_head_is_cut_and_from_the_left():
    whole = example("0123456789", "?", " 9", "9", "8")
    assert len(one(whole, BYTE, 13).ids) == 14, "the last token is only a target"
    row = one(whole, BYTE, 8)
    assert row == EncodedExample((*b"56789? 9", END), prompt=6, cut=5)
    assert one(example("0123456789", "?", " 1"), BYTE, 8).answer_cut
    assert not one(example("0123456789", "?", " x"), BYTE, 8).answer_cut, "it never was there"
    assert one(whole, BYTE, 8, cut_head=False).reason == "it takes 14 tokens, more than 9"
    left = one(whole, BYTE, 4)
    assert left == EncodedExample((*b"9? 9", END), prompt=2, cut=9)
    refused = one(whole, BYTE, 3)
    assert (
        isinstance(refused, TooLong) and "take 4 of 4 tokens, and leave no room" in refused.reason
    )


def test_the_head_is_cut_at_whole_tokens_of_several_characters():
    text = "the cat sat on the mat and the cat sat "
    bpe = train(
        schema.BpeTokenizer(vocab=300), lambda: iter([text * 9]), lambda: iter(""), 99, True
    )
    whole = example(text * 3, "\n\nQuestion: who?\nAnswer:", " the cat")
    row = one(whole, bpe, 40)
    assert len(row.ids) == 41
    prompt = bpe.decode(row.ids[: row.prompt])
    assert (text * 3 + whole.prompt_tail).endswith(prompt) and prompt.endswith(whole.prompt_tail)
    assert bpe.decode(row.ids[row.prompt : -1]) == " the cat"


def test_begin_tokens_and_joined_words_of_a_real_llama_tokenizer():
    folder = REAL / "stories260k"
    if not folder.is_dir():
        pytest.skip("needs the real files")
    tokenizer = Tokenizer.load(folder)
    row = one(example("Once upon", "\n\nSummary:", " a time"), tokenizer, 100)
    prompt = tokenizer.encode("Once upon\n\nSummary:")
    assert list(row.ids[: row.prompt]) == prompt and prompt[0] == 1, "as generation reads it"
    assert list(row.ids[:-1]) == tokenizer.encode("Once upon\n\nSummary: a time")
    assert row.ids[-1] in tokenizer.ends


def test_a_token_over_the_seam_is_not_learned_as_one():
    text = "foobar " * 50
    bpe = train(schema.BpeTokenizer(vocab=270), lambda: iter([text]), lambda: iter(""), 99, True)
    assert len(bpe.encode("foobar")) == 1
    row = one(example("foo", "", "bar"), bpe, 100)
    assert row.apart
    assert list(row.ids[:-1]) == [*bpe.encode("foo"), *bpe.encode("bar")]


def written(folder: Path, rows: list[tuple[str, str]], tokenizer: Tokenizer = BYTE, **fields: Any):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in rows))
    data = TaskData(task=str(path), **fields)
    return write_examples(data, read_splits(data), tokenizer, folder / "examples")


def test_a_folder_has_the_tokens_and_what_was_counted(tmp_path: Path):
    rows = [(f"{'x' * at} {at}:", f" {at}") for at in range(30)]
    meta = written(tmp_path, rows, context=20)
    opened = ExampleFolder.open(tmp_path / "examples")
    assert opened.meta == meta and opened.tokenizer.vocab_size == 257
    counts = meta.splits
    total = sum(split.examples for split in counts.values())
    assert 24 <= total <= 29 and counts["validation"].examples >= 1, "a test split is kept apart"
    split = opened.split("train")
    ids, prompt = split.example(0)
    assert bytes(ids[:-1].tolist()) == b" 0: 0" and (ids[-1], prompt) == (END, 3)
    assert counts["train"].tokens == split.starts[-1] == len(split.tokens)
    assert counts["train"].completion_tokens == sum(
        len(split.example(at)[0]) - split.example(at)[1] for at in range(len(split))
    )
    full = int((split.inputs == 20).sum())
    assert counts["train"].cut in (full, full - 1), "one row may fill its context exactly"
    assert any("lost the beginning of their input" in remark for remark in meta.remarks())


def test_rows_that_do_not_fit_are_refused_counted_or_dropped(tmp_path: Path):
    longest = [("p:", " no" * 30), *[("p:", " yes")] * 19]
    with pytest.raises(
        RequestError, match=r"1 of 16 rows .*rows\.jsonl:1: the completion .*raise data"
    ):
        written(tmp_path, longest, context=20)
    (tmp_path / "b").mkdir(), (tmp_path / "c").mkdir()
    meta = written(tmp_path / "b", longest, context=20, bad_rows=1)
    assert meta.splits["train"].dropped == 1
    assert "rows.jsonl:1: the completion" in meta.splits["train"].left_out[0]
    dropped = written(tmp_path / "c", longest, context=20, truncate="drop")
    assert "it takes 93 tokens, more than 21" in dropped.splits["train"].left_out[0]


def test_the_fingerprint_follows_the_texts_alone(tmp_path: Path):
    prints = set[str]()
    for name, last in (("a", " 1"), ("b", " 1"), ("c", " 2")):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "rows.jsonl"
        lines = [{"prompt": "p", "completion": " 1"}] * 19 + [{"prompt": "q", "completion": last}]
        path.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
        prints.add(examples_fingerprint(read_splits(TaskData(task=str(path)))))
    assert len(prints) == 2


def test_rows_are_filled_well_and_hold_every_example_once():
    lengths = np.random.default_rng(0).integers(1, 33, 500)
    rows = packed_rows(lengths, 64)
    assert sorted(np.concatenate(rows)) == list(range(500))
    used = [int(lengths[row].sum()) for row in rows]
    assert max(used) <= 64
    assert len(rows) <= np.ceil(lengths.sum() / 64) * 1.03
    assert [list(row) for row in packed_rows(np.asarray([64, 64]), 64)] == [[0], [1]]


def batches(folder: Path, packing: str, **options: Any) -> ExampleBatches:
    split = ExampleFolder.open(folder / "examples").split("train")
    return ExampleBatches(split, 24, 4, 3, packing, **options)  # pyright: ignore


def test_batches_learn_completions_alone(tmp_path: Path):
    rows = [(f"{'x' * (at % 7)}{at}:", f" {at}") for at in range(40)]
    meta = written(tmp_path, rows, context=24)
    completions = meta.splits["train"].completion_tokens
    for packing in ("isolated", "padding"):
        source = batches(tmp_path, packing)
        assert source.batch(3).inputs.shape == (4, 24)
        drawn = [source.batch(step) for step in range(source.rows)]  # four epochs
        assert sum(batch.real_targets for batch in drawn) == 4 * completions
        learned = [batch.targets[batch.targets != IGNORE].tolist() for batch in drawn]
        assert {id for ids in learned for id in ids} <= {*b" 0123456789", END}
        assert source.examples_in(4 * source.rows) == 4 * source.examples
        assert source.examples_in(0) == 0
    whole = batches(tmp_path, "padding", loss="all").batch(0)
    assert whole.real_targets > int((whole.targets == END).sum()) * 4
    padded = batches(tmp_path, "padding")
    assert padded.rows == padded.examples and padded.batch(0).documents is None
    packed = batches(tmp_path, "isolated")
    assert packed.rows < padded.rows / 2 and packed.batch(0).documents is not None


def test_every_epoch_has_a_new_order_and_slices_are_parts_of_a_step(tmp_path: Path):
    written(tmp_path, [(f"{at}:", f" {at}") for at in range(40)], context=24)
    source = batches(tmp_path, "isolated")
    again = batches(tmp_path, "isolated")
    assert source.batch(7).inputs.equal(again.batch(7).inputs), "a step number is all it takes"
    whole = source.batch(5)
    parts = [source.batch(5, slice(at, at + 2)) for at in (0, 2)]
    shared = [source.batch(5, rank=rank, world=2) for rank in (0, 1)]
    for halves in (parts, shared):
        assert np.concatenate([half.inputs for half in halves]).tolist() == whole.inputs.tolist()
    first = [source.batch(step).inputs.tolist() for step in range(source.rows)]
    assert len({str(row) for batch in first for row in batch}) == source.rows
    evaluated = source.first(24 * 3, batch=2)
    assert [batch.inputs.shape[0] for batch in evaluated] == [2, 1]


@pytest.mark.parametrize("name", ["tokenizers/qwen3", "stories260k"])
@pytest.mark.parametrize("task", ["squad", "dialogue", "summarize"])
def test_ids_are_those_of_the_whole_text(name: str, task: str):
    if not (REAL / name).is_dir():
        pytest.skip("needs the real files")
    tokenizer = Tokenizer.load(REAL / name)
    rows = read_examples(task, "validation", REAL).rows[:60]
    for row, encoded in zip(rows, encode_examples(rows, tokenizer, 10**6), strict=True):
        assert isinstance(encoded, EncodedExample) and not encoded.apart
        assert list(encoded.ids[: encoded.prompt]) == tokenizer.encode(row.prompt)
        whole = tokenizer.encode(row.prompt + row.completion)
        assert list(encoded.ids) == [*whole, *completion_end(tokenizer).ids]


def test_a_question_without_its_white_space(tmp_path: Path):
    row = {
        "context": "It is red.",
        "question": " " * 900 + "What is it? ",
        "answers": {"text": ["red"]},
    }
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (only,) = read_examples(str(tmp_path), "train").rows
    assert only.prompt_tail == "\n\nQuestion: What is it?\nAnswer:"


def test_a_task_without_a_test_split_chooses_by_rows_of_its_train_split(tmp_path):
    rows = [{"prompt": f"question {n}:", "completion": f" answer {n}"} for n in range(200)]
    for name, part in (("train", rows[:150]), ("validation", rows[150:])):
        text = "\n".join(map(json.dumps, part))
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    assert reported_split(str(tmp_path)) == "validation"
    splits = read_splits(TaskData(task=str(tmp_path)))
    learned, choosing = (
        {row.prompt_head for row in splits[name].rows} for name in ("train", "validation")
    )
    assert choosing
    assert not learned & choosing
    assert learned | choosing == {row["prompt"] for row in rows[:150]}
    (tmp_path / "test.jsonl").write_text(json.dumps(rows[0]), encoding="utf-8")
    assert reported_split(str(tmp_path)) == "test"
    whole = read_splits(TaskData(task=str(tmp_path)))
    assert [len(whole[name].rows) for name in ("train", "validation")] == [150, 50]
