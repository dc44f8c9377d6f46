"""How good a generated answer is, from its text and its references alone; no torch.

Exact match and F1 are those of SQuAD 1.1 (Rajpurkar et al. 2016, section 6.1, and its official
evaluation script). ROUGE is that of the rouge-score package with the Porter stemmer (Lin 2004).
Distinct-1 and distinct-2 are those of Li et al. (2016), section 5.1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from flyweight.errors import RequestError

ROUGE = ("rouge1", "rouge2", "rougeL")
"""The three kinds of ROUGE, by the names that the rouge-score package gives them."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORDS = re.compile(r"\w+(?:['\u2019]\w+)*")  # don't, with either apostrophe


def normalise(text: str) -> str:
    """Return an answer as SQuAD compares it.

    It is in lower case, without punctuation and the articles a, an and the, with single spaces.
    """
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 100 where the answer equals one of its references after `normalise`, else 0."""
    return max(100.0 * (normalise(answer) == normalise(other)) for other in references)


def f1(answer: str, references: Sequence[str]) -> float:
    """Return the F1 of the words that answer and reference share, in percent; the best counts."""
    return max(_f1(answer, other) for other in references)


def _f1(answer: str, reference: str) -> float:
    ours, theirs = normalise(answer).split(), normalise(reference).split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(ours), shared / len(theirs)
    return 100.0 * 2 * precision * recall / (precision + recall)


def rouge(answer: str, references: Sequence[str]) -> dict[str, float]:
    """Return the F of ROUGE-1, ROUGE-2 and ROUGE-L (0 to 1), each the best of the references.

    Raises RequestError as `require_rouge` does.
    """
    scorer = require_rouge()
    scores = [scorer.score(other, answer) for other in references]
    return {name: max(float(score[name].fmeasure) for score in scores) for name in ROUGE}


class _Scorer(Protocol):
    """What is used of the rouge-score package's scorer."""

    def score(self, target: str, prediction: str) -> dict[str, Any]:
        """Return a score with the field `fmeasure` for each kind of ROUGE."""
        ...


@lru_cache(maxsize=1)
def require_rouge() -> _Scorer:
    """Return the rouge-score package's scorer, with the stemmer.

    Raises RequestError where the package is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise RequestError(
            "ROUGE needs the rouge-score package: pip install 'flyweight[tasks]', or name "
            "metrics without it, such as --metrics f1,exact_match"
        ) from error
    return RougeScorer(list(ROUGE), use_stemmer=True)


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Return the n-grams of a text's words, in lower case and without punctuation, in order."""
    words = _WORDS.findall(text.lower())
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def distinct(answers: Sequence[str], n: int) -> float:
    """Return the number of different n-grams in all answers, as a share of all of their n-grams.

    It is 0 where no answer has n words.
    """
    every = [gram for answer in answers for gram in ngrams(answer, n)]
    return len(set(every)) / len(every) if every else 0.0


SCORES: dict[str, Callable[[str, Sequence[str]], float]] = {"exact_match": exact_match, "f1": f1}
"""The scores of one answer that need no other package, by name; `rouge` gives three more."""
