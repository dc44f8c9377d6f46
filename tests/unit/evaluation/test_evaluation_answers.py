import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from flyweight.errors import RequestError
from flyweight.evaluation import answers
from flyweight.evaluation.answers import distinct, exact_match, f1, ngrams, normalise, rouge

REFERENCES = ["Denver Broncos", "the Denver Broncos", "The Broncos"]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Denver\nBroncos!", "denver broncos"),
        ("an A-Team of the 1980s", "ateam of 1980s"),
        ("theatre", "theatre"),
        ("the", ""),
        ("$32.9 billion", "329 billion"),
    ],
)
def test_answers_are_normalised_as_squad_does(text, plain):
    assert normalise(text) == plain


@pytest.mark.parametrize(
    ("answer", "em", "overlap"),
    [
        ("denver broncos.", 100, 100),
        ("Broncos", 100, 100),
        ("Denver", 0, 200 / 3),
        ("The Denver Broncos of Colorado", 0, 200 / 3),
        ("Carolina Panthers", 0, 0),
        ("", 0, 0),
    ],
)
def test_the_best_reference_counts(answer, em, overlap):
    assert exact_match(answer, REFERENCES) == em
    assert f1(answer, REFERENCES) == pytest.approx(overlap)


def test_words_count_as_often_as_both_have_them():
    assert f1("no no no", ["no no yes"]) == pytest.approx(100 * 2 / 3)


def test_scores_are_those_of_the_official_script_on_squads_own_answers():
    spec = importlib.util.find_spec("lm_eval")
    file = Path(os.environ.get("FLYWEIGHT_DATA", ""), "squad", "dev-v1.1.json")
    if spec is None or spec.origin is None or not file.is_file():
        pytest.skip("needs lm-eval, which ships the official SQuAD 1.1 script, and SQuAD")
    path = Path(spec.origin).parent / "tasks" / "qasper" / "metrics.py"
    module = importlib.util.module_from_spec(
        found := importlib.util.spec_from_file_location("official", path)
    )
    found.loader.exec_module(module)
    articles = json.loads(file.read_text())["data"][:6]
    questions = [q for a in articles for p in a["paragraphs"] for q in p["qas"]]
    texts = [[answer["text"] for answer in question["answers"]] for question in questions]
    assert len(texts) > 1500
    for (answer, *_), others in zip(texts, [*texts[1:], texts[0]], strict=True):
        for reference in {*others[:2], answer + " of the", "a " + answer.upper()}:
            assert f1(answer, [reference]) == pytest.approx(
                100 * module.f1_abstractive([answer], [reference])
            )
            assert exact_match(answer, [reference]) == 100 * (
                module.normalize_answer(answer) == module.normalize_answer(reference)
            )


def test_rouge_is_stemmed_and_the_best_reference_counts():
    pytest.importorskip("rouge_score")
    # rouge-score's own published cases, and a stem: "testing" and "tested" are one word.
    one = rouge("testing one", ["testing one two"])
    assert one["rouge1"] == pytest.approx(4 / 5) and one["rougeL"] == pytest.approx(4 / 5)
    assert one["rouge2"] == pytest.approx(2 / 3)
    assert rouge("tested one", ["testing one two"]) == pytest.approx(one)
    both = rouge("text first", ["first text", "first something"])
    assert both == pytest.approx({"rouge1": 1, "rouge2": 0, "rougeL": 0.5})
    assert rouge("", ["text"]) == {"rouge1": 0, "rouge2": 0, "rougeL": 0}


def test_without_its_package_rouge_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    answers.require_rouge.cache_clear()
    with pytest.raises(RequestError, match=r"pip install 'flyweight\[tasks\]'.*--metrics"):
        rouge("a", ["b"])
    monkeypatch.undo()
    answers.require_rouge.cache_clear()


def test_distinct_counts_different_ngrams_of_all_answers():
    texts = ["I don't know.", "I don't know", "Yes"]
    assert ngrams(texts[0], 2) == [("i", "don't"), ("don't", "know")]
    assert distinct(texts, 1) == pytest.approx(4 / 7)
    assert distinct(texts, 2) == pytest.approx(2 / 4)
    assert distinct(["", "Yes"], 2) == 0
