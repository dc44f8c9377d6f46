import json
import math
from dataclasses import replace
from pathlib import Path

import chat_fixture
import numpy as np
import pytest
import torch

from flyweight.checkpoints import load_any
from flyweight.config.schema import Score
from flyweight.data.tasks import read_examples
from flyweight.data.tokenizer import Tokenizer
from flyweight.decode.generate import generate
from flyweight.errors import RequestError
from flyweight.evaluation import task_answers
from flyweight.evaluation.task_answers import answers, completion_scores, task_prompts
from flyweight.evaluation.tasks import RULES, sampled, score_model, task_fingerprint
from flyweight.records.scores import TaskScores

FOLDERS = ("Bees make honey.", "Cows give milk.", "Hens lay eggs.", "Sheep have wool.")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return chat_fixture.save(tmp_path_factory.mktemp("model"), context=128, template=None)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """SQuAD's schema: four contexts with two questions each."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for context in FOLDERS:
        subject, verb, thing = context.rstrip(".").split()
        for question, answer in ((f"What do {subject} {verb}?", thing), ("Who?", subject)):
            texts = {"text": [answer, answer], "answer_start": [0, 0]}
            rows.append({"context": context, "question": question, "answers": texts})
    (folder / "squad").mkdir()
    for split in ("train", "validation"):
        path = folder / "squad" / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def score(**fields) -> Score:
    return Score(stage="score", input="m", task="squad", new_tokens=6, **fields)


def test_batched_answers_are_those_of_each_prompt_alone(model_folder, data_dir):
    model, tokenizer = load_any.load(model_folder), Tokenizer.load(model_folder)
    rows = read_examples("squad", "validation", data_dir).rows
    prompts = task_prompts(tokenizer, rows, 128, 6).prompts
    assert prompts[0] == tuple(tokenizer.encode(rows[0].prompt))
    options = {"new_tokens": 6, "one_line": False}
    together = answers(model, tokenizer, prompts, batch=3, **options)
    assert together == [
        answers(model, tokenizer, [prompt], batch=1, **options)[0] for prompt in prompts
    ]
    (new,) = generate(model, prompts[:1], max_new_tokens=6, stop_tokens=tokenizer.ends, tokens=259)
    assert together[0] == tokenizer.decode(new, skip_special=True).strip()


def test_an_answer_of_one_line_ends_with_its_first_line_that_has_text(model_folder):
    tokenizer = Tokenizer.load(model_folder)
    ends = task_answers._LineEnds(tokenizer)
    new: list[int] = []
    for letter, ended in zip("\n \nyes\n", [False] * 6 + [True], strict=True):
        new += tokenizer.encode(letter, start=False)
        assert ends.ended(0, new) is ended, repr(letter)
    assert not ends.ended(1, tokenizer.encode("\n", start=False))  # another row has no text yet
    assert task_answers._answer("\n yes\nno", one_line=True) == "yes"
    assert task_answers._answer("\n yes\nno", one_line=False) == "yes\nno"


def test_completions_are_scored_token_by_token_and_padding_never(model_folder, data_dir):
    model, tokenizer = load_any.load(model_folder), Tokenizer.load(model_folder)
    examples = read_examples("squad", "validation", data_dir).rows
    prompts = task_prompts(tokenizer, examples, 128, 6)
    scores = completion_scores(model, prompts, batch=3, vocab_size=259)
    for at, example in enumerate(examples):
        prompt = tokenizer.encode(example.prompt)
        rest = [*tokenizer.encode(example.completion, start=False), tokenizer.separator]
        text = [*prompt, *rest]
        with torch.no_grad():
            logits = model.logits(model.hidden(torch.tensor([text[:-1]])))[0].double()
        nll = -torch.log_softmax(logits, -1)[torch.arange(len(text) - 1), torch.tensor(text[1:])]
        own = nll[-len(rest) :]
        assert scores.nll[at] == pytest.approx(float(own.sum()), rel=1e-5)
        assert scores.marks[at] == pytest.approx(float(own[-1]), rel=1e-5)
        assert scores.tokens[at] == len(rest)


def test_a_long_prompt_is_cut_from_the_left_to_leave_room(model_folder, data_dir):
    tokenizer = Tokenizer.load(model_folder)
    examples = read_examples("squad", "validation", data_dir).rows[:2]
    whole = task_prompts(tokenizer, examples, 128, 6)
    length = len(whole.prompts[0])
    assert whole.cut == 0 and len(whole.prompts[1]) < length
    exact = task_prompts(tokenizer, examples, length + 6, 6)
    assert exact.prompts == whole.prompts and exact.cut == 0
    short = task_prompts(tokenizer, examples, length + 4, 6)
    assert short.prompts[0] == whole.prompts[0][2:] and short.cut == 1


def test_a_completion_longer_than_the_window_has_no_perplexity(model_folder, data_dir):
    tokenizer, model = Tokenizer.load(model_folder), load_any.load(model_folder)
    first, second = read_examples("squad", "validation", data_dir).rows[:2]
    long = replace(first, completion=" word" * 40)
    prompts = task_prompts(tokenizer, [long, second], 128, 6)
    assert prompts.rows[0] is None and prompts.cut == 0
    scores = completion_scores(model, prompts, batch=2)
    assert scores.tokens[0] == scores.nll[0] == 0 and scores.tokens[1] > 0


def test_a_limit_draws_over_all_contexts_and_a_larger_one_holds_it(data_dir):
    rows = read_examples("squad", "validation", data_dir).rows
    three, five = sampled(rows, 3), sampled(rows, 5)
    assert set(three) < set(five) and three != list(rows[:3])
    assert five == sorted(five, key=rows.index)
    assert sampled(rows[::-1], 3)[::-1] == three
    assert sampled(rows, 3, seed=1) != three and sampled(rows, 99) == list(rows)
    assert task_fingerprint(three) != task_fingerprint(five)


def test_a_score_has_every_metric_and_the_floor_beside_it(model_folder, data_dir):
    heard: list[float] = []
    scored = score_model(model_folder, score(batch=3), data_dir, "cpu", heard.append)
    record, units = scored.record, scored.units
    assert list(record.metrics) == [
        "exact_match", "f1", "rouge1", "rouge2", "rougeL", "distinct_1", "distinct_2",
        "completion_perplexity",
    ]  # fmt: skip
    assert (record.rows, record.contexts, record.floor) == (8, 4, "first_sentence")
    assert set(record.floor_metrics) == set(record.metrics) - {"completion_perplexity"}
    # "Bees make honey." holds one word of "honey" or "Bees": precision 1/3, recall 1.
    assert record.floor_metrics["f1"].value == pytest.approx(50)
    assert record.standing == "below" and record.decides == "f1"
    perplexity = record.metrics["completion_perplexity"]
    assert perplexity.value == pytest.approx(math.exp(units.nll.sum() / units.counts.sum()))
    assert units.kind == "context" and len(units.nll) == 4
    assert units.bytes.sum() == sum(len(f" {a}") for c in FOLDERS for a in c[:-1].split()[::2])
    assert units.metrics["f1"].value == pytest.approx(record.metrics["f1"].value)
    assert heard == sorted(heard) and heard[-1] == 1
    again = TaskScores.from_metrics(json.loads(json.dumps(record.to_metrics())))
    assert again == record
    assert again.answers[0].references == ("honey",) and len(again.answers) == 8


def test_right_answers_are_above_the_floor(model_folder, data_dir, monkeypatch):
    rows = read_examples("squad", "validation", data_dir).rows
    right = [row.references[0] for row in rows]
    monkeypatch.setattr(task_answers, "answers", lambda *words, **options: right)
    record = score_model(model_folder, score(), data_dir, "cpu").record
    assert record.metrics["exact_match"].value == record.metrics["f1"].value == 100
    assert record.standing == "above" and record.p < 0.05
    assert record.above_floor["f1"].value == pytest.approx(50)


def test_the_floors_own_answers_are_undecided(model_folder, data_dir, monkeypatch):
    rows = read_examples("squad", "validation", data_dir).rows
    copied = [row.prompt_head for row in rows]
    monkeypatch.setattr(task_answers, "answers", lambda *words, **options: copied)
    record = score_model(model_folder, score(), data_dir, "cpu").record
    assert record.standing == "undecided" and record.p == pytest.approx(1)


def test_metrics_can_be_chosen_and_one_is_always_held_against_the_floor(model_folder, data_dir):
    record = score_model(model_folder, score(metrics=["distinct_1"]), data_dir, "cpu").record
    assert list(record.metrics) == ["f1", "distinct_1"] and record.decides == "f1"
    with pytest.raises(ValueError, match=r"no metric of a task is called 'rouge3'.*rouge"):
        score(metrics=["rouge3"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"limit": 1}, "one context; an interval needs at least two"),
        ({"window": 256}, "window: 256 tokens, and the model's context has 128"),
        (
            {"window": 32},
            r"validation.jsonl:\d+: the end of its prompt and 6 new tokens do not fit",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(model_folder, data_dir, fields, message):
    with pytest.raises(RequestError, match=message):
        score_model(model_folder, score(**fields), data_dir, "cpu")


def test_a_token_without_a_row_is_named(model_folder, data_dir):
    tokenizer = Tokenizer.load(model_folder)
    prompts = task_prompts(tokenizer, read_examples("squad", "validation", data_dir).rows, 128, 6)
    with pytest.raises(RequestError, match="the model has 250 rows and none for"):
        task_answers.require_rows(tokenizer, prompts, 250)
    task_answers.require_rows(tokenizer, prompts, 259)


def test_every_kind_of_task_has_rules_a_floor_and_known_metrics(data_dir):
    from flyweight.config.metrics import TASK_METRICS
    from flyweight.data.tasks import TEMPLATES
    from flyweight.evaluation.task_floors import FLOORS

    assert set(RULES) == set(FLOORS) == set(TEMPLATES)
    for rules in RULES.values():
        assert {rules.decides, *rules.shown} <= set(TASK_METRICS)


def test_units_of_contexts_come_back_from_their_file(model_folder, data_dir, tmp_path):
    from flyweight.evaluation.resampling import UnitScores

    units = score_model(model_folder, score(), data_dir, "cpu").units
    units.save(tmp_path / "units.safetensors")
    again = UnitScores.load(tmp_path / "units.safetensors")
    assert again.kind == "context" and np.array_equal(again.nll, units.nll)
    assert set(again.metrics) == {"exact_match", "f1", "rouge1", "rouge2", "rougeL"}
