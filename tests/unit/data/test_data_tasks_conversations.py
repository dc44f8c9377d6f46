"""Conversations: every answer is learned, in the form in which the model is asked later."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import chat_fixture
import numpy as np
import pytest
import transformers

from flyweight.config import schema
from flyweight.config.tasks import TaskData
from flyweight.data.batch import IGNORE
from flyweight.data.tasks import Example, read_examples
from flyweight.data.tasks.batches import ExampleBatches
from flyweight.data.tasks.encode import EncodedExample, Refused, TooLong, encode_examples
from flyweight.data.tasks.folder import (
    ExampleFolder,
    examples_fingerprint,
    read_splits,
    write_examples,
)
from flyweight.data.tokenizer import Tokenizer
from flyweight.data.tokenizer_training import train
from flyweight.decode import chat_template
from flyweight.decode.chat_template import ChatTemplate
from flyweight.errors import RequestError
from flyweight.evaluation.task_answers import task_prompts

REAL = Path(os.environ.get("FLYWEIGHT_DATA", "/nowhere"))
TALK = ["Hi <|im_end|> there", "Hello.\nMe too", "And 1+1?", "2", "Why?", "It  is so."]
BYTE = train(schema.ByteTokenizer(), lambda: iter("x"), lambda: iter(""), 1, True)


def rows(*talks: list[str], system: str = "") -> list[dict[str, Any]]:
    """Return rows of conversations whose messages are by user and assistant in turn."""
    opening = [{"role": "system", "content": system}] if system else []
    turns = [
        [
            {"role": ("user", "assistant")[at % 2], "content": content}
            for at, content in enumerate(talk)
        ]
        for talk in talks
    ]
    return [{"messages": [*opening, *each]} for each in turns]


def read(folder: Path, *values: dict[str, Any]) -> tuple[Example, ...]:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return read_examples(str(path), "train").rows


def parts(row: EncodedExample, tokenizer: Tokenizer) -> list[str]:
    """Return the text of each learned span, the completion last."""
    spans = [*row.earlier, (row.prompt, len(row.ids))]
    return [tokenizer.decode(row.ids[start:stop]) for start, stop in spans]


def qwen() -> tuple[Tokenizer, ChatTemplate, Any]:
    folder = REAL / "tokenizers" / "qwen3"
    if not folder.is_dir():
        pytest.skip("needs the real files")
    template = chat_template.of(folder)
    assert template
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    return Tokenizer.load(folder), template, theirs


@pytest.mark.parametrize("system", ["", "Be short."])
def test_ids_are_those_of_qwen3s_own_template_and_every_answer_is_learned(tmp_path, system):
    tokenizer, template, theirs = qwen()
    talk = [
        "Hi there",
        *TALK[1:],
    ]  # transformers makes a special token of "<|im_end|>" in a message
    value = rows(talk, system=system)[0]
    (row,) = encode_examples(read(tmp_path, value), tokenizer, 1000, template=template)
    assert isinstance(row, EncodedExample) and not row.apart and not row.cut
    expected = list(theirs.apply_chat_template(value["messages"], return_dict=False))
    assert [*row.ids, *tokenizer.encode("\n")] == expected
    asked = theirs.apply_chat_template(
        value["messages"][:-1], add_generation_prompt=True, return_dict=False
    )
    assert list(row.ids[: row.prompt]) == list(asked)
    thoughts = "<think>\n\n</think>\n\n"
    assert row.opening == thoughts
    assert parts(row, tokenizer) == [
        "Hello.\nMe too<|im_end|>",
        "2<|im_end|>",
        f"{thoughts}It  is so.<|im_end|>",
    ]


@pytest.mark.parametrize("source", [chat_fixture.CHATML, chat_fixture.STRICT])
def test_what_is_asked_in_a_score_is_what_chat_sends(tmp_path, source):
    chat_fixture.tokenizer(tmp_path, source)
    tokenizer, template = Tokenizer.load(tmp_path), chat_template.of(tmp_path)
    assert template
    examples = read(tmp_path, *rows(TALK))
    (row,) = encode_examples(examples, tokenizer, 1000, template=template)
    assert isinstance(row, EncodedExample)
    assert parts(row, tokenizer) == [f"{text}<|im_end|>" for text in TALK[1::2]]
    prompts = task_prompts(tokenizer, examples, 1000, 8, template)
    messages = [{"role": m.role, "content": m.content} for m in examples[0].messages[:-1]]
    sent = chat_template.tokens(template.marked(messages, tokenizer), tokenizer)
    assert list(prompts.prompts[0]) == sent == list(row.ids[: row.prompt])
    length = len(sent)
    short = task_prompts(tokenizer, examples, length + 7, 8, template)
    last = [{"role": m.role, "content": m.content} for m in examples[0].messages[2:-1]]
    assert short.cut == 1
    assert list(short.prompts[0]) == chat_template.tokens(
        template.marked(last, tokenizer), tokenizer
    )
    with pytest.raises(RequestError, match="do not fit into the window of 20"):
        task_prompts(tokenizer, examples, 20, 8, template)


def test_the_fixed_text_keeps_its_ids_and_learns_earlier_answers(tmp_path):
    (row,) = encode_examples(read(tmp_path, *rows(TALK)), BYTE, 1000)
    assert isinstance(row, EncodedExample)
    text = BYTE.decode(row.ids)
    assert text.startswith("User: Hi <|im_end|> there\nAssistant: Hello.\nMe too\nUser: And 1+1?\n")
    assert parts(row, BYTE) == [" Hello.\nMe too", " 2", " It  is so.<|endoftext|>"]


def test_a_token_over_the_end_of_an_answer_is_not_learned(tmp_path):
    tokenizer = qwen()[0]  # has a token for ".\n"
    examples = read(tmp_path, *rows(["a", "Yes.", "b", "No."]))
    (row,) = encode_examples(examples, tokenizer, 1000)
    assert isinstance(row, EncodedExample)
    assert list(row.ids[:-1]) == tokenizer.encode(examples[0].prompt + examples[0].completion)
    assert parts(row, tokenizer)[0] == " Yes"


@pytest.mark.parametrize("templated", [False, True])
def test_long_conversations_lose_their_oldest_turns_first(tmp_path, templated):
    chat_fixture.tokenizer(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    template = chat_template.of(tmp_path) if templated else None
    talk = [f"{at} what?" if at % 2 == 0 else f"{at} that." for at in range(10)]
    examples = read(tmp_path, *rows(talk, system="Be kind."))

    def encoded(context: int, **options: Any) -> Any:
        return next(encode_examples(examples, tokenizer, context, template=template, **options))

    whole = encoded(10_000)
    assert not whole.cut and len(whole.earlier) == 4
    exact = encoded(len(whole.ids) - 1)
    assert exact == whole
    shorter = encoded(len(whole.ids) - 2)
    assert 0 < shorter.cut == len(whole.ids) - len(shorter.ids)
    text = tokenizer.decode(shorter.ids)
    assert (
        "Be kind." in text and "2 what?" in text and "0 what?" not in text and "1 that" not in text
    )
    assert len(shorter.earlier) == 3
    assert parts(shorter, tokenizer) == parts(whole, tokenizer)[1:]
    assert "more than" in encoded(len(whole.ids) - 2, cut_head=False).reason
    last = encoded(80)
    assert "8 what?" in tokenizer.decode(last.ids) and not last.earlier
    too_long = encoded(20)
    assert isinstance(too_long, TooLong) or not templated  # the fixed text is cut further


def test_a_conversation_that_the_template_refuses_is_a_bad_row(tmp_path):
    chat_fixture.tokenizer(tmp_path, chat_fixture.STRICT)
    tokenizer, template = Tokenizer.load(tmp_path), chat_template.of(tmp_path)
    (row,) = encode_examples(
        read(tmp_path, *rows(["a", "b"], system="Be kind.")), tokenizer, 99, template=template
    )
    assert isinstance(row, Refused) and row.source.endswith("train.jsonl:1")
    data = TaskData(task=str(tmp_path), context=99, truncate="drop")
    read(tmp_path, *rows(["a", "b"], system="Be kind."), *rows(*[["a", "b"]] * 20))
    with pytest.raises(RequestError, match=r"1 of .*train\.jsonl:1: .*no system here"):
        write_examples(data, read_splits(data), tokenizer, tmp_path / "out", template)


@pytest.mark.parametrize(
    ("talk", "fault"),
    [
        (["a", "b", "c"], r"train\.jsonl:2: the last message is by the user"),
        (["a"], r"train\.jsonl:2: a conversation needs two messages"),
    ],
)
def test_a_row_without_a_last_answer_is_bad(tmp_path, talk, fault):
    with pytest.raises(RequestError, match=fault):
        read(tmp_path, *rows(["a", "b"], talk))


def test_a_template_without_an_end_gets_one(tmp_path):
    source = (
        "{% for m in messages %}{{ '\n' if not loop.first else '' }}## {{ m.role }}: {{ m.content }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '\n## assistant: ' }}{% endif %}"
    )
    chat_fixture.tokenizer(tmp_path, source)
    tokenizer, template = Tokenizer.load(tmp_path), chat_template.of(tmp_path)
    (row,) = encode_examples(
        read(tmp_path, *rows(["a", "b", "c", "d"])), tokenizer, 99, template=template
    )
    assert isinstance(row, EncodedExample)
    assert parts(row, tokenizer) == ["b", "d<|im_end|>"]


def test_a_template_that_asks_for_nothing_or_looks_ahead_is_refused(tmp_path):
    examples = read(tmp_path, *rows(["a", "b"]))
    for source, fault in (
        (
            "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}",
            "writes nothing before the last answer",
        ),
        (
            "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
            "in another way once it is given",
        ),
    ):
        chat_fixture.tokenizer(tmp_path, source)
        tokenizer, template = Tokenizer.load(tmp_path), chat_template.of(tmp_path)
        (row,) = encode_examples(examples, tokenizer, 99, template=template)
        assert isinstance(row, Refused) and fault in row.reason


def test_folders_batches_and_what_is_told(tmp_path):
    chat_fixture.tokenizer(tmp_path)
    tokenizer, template = Tokenizer.load(tmp_path), chat_template.of(tmp_path)
    talks = [[f"{at}?", f"{at}.", "b", f"x{at}"] for at in range(30)]
    read(tmp_path, *rows(*talks))
    data = TaskData(task=str(tmp_path), context=128)
    splits = read_splits(data)
    meta = write_examples(data, splits, tokenizer, tmp_path / "out", template)
    assert any("written by the model's chat template" in remark for remark in meta.remarks())
    plain = write_examples(data, splits, tokenizer, tmp_path / "plain")
    assert any("no chat template" in remark for remark in plain.remarks())
    counts = meta.splits["train"]
    assert counts.earlier_answers == counts.examples == 24
    split = ExampleFolder.open(tmp_path / "out").split("train")
    learned: dict[str, list[int]] = {}
    for packing in ("isolated", "padding"):
        source = ExampleBatches(split, 128, 1, 0, packing)
        whole = [source.batch(step) for step in range(source.rows)]
        assert sum(batch.real_targets for batch in whole) == counts.completion_tokens
        learned[packing] = sorted(int(at) for b in whole for at in b.targets[b.targets != IGNORE])
        for batch in whole:
            real = np.asarray(batch.targets != IGNORE)
            followed = np.asarray(batch.inputs)[:, 1:][real[:, :-1]]
            goal = np.asarray(batch.targets)[:, :-1][real[:, :-1]]
            within = followed != 0
            assert within.any()
            end = tokenizer.vocab["<|im_end|>"]
            assert ((followed == goal) | (goal == end)).all(), "a target is the next input"
    assert learned["isolated"] == learned["padding"]


def test_the_fingerprint_tells_messages_from_a_text_that_looks_like_them(tmp_path):
    prints = set[str]()
    for talk in (["a", "b", "c", "d"], ["a\nAssistant: b\nUser: c", "d"]):
        read(tmp_path, *rows(*[talk] * 20))
        prints.add(examples_fingerprint(read_splits(TaskData(task=str(tmp_path)))))
    assert len(prints) == 2
