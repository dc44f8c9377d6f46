"""Documents of windows: each token's, and which targets nothing foretells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flyweight.config.schema import Data
from flyweight.data.batch import IGNORE
from flyweight.data.corpus import Split
from flyweight.data.documents import DocumentIds, reading_starts
from flyweight.data.shards import Tokens
from flyweight.data.windows import Windows
from flyweight.errors import RequestError

END, BEGIN = 99, 98


def split(lengths: list[int], opening: int = 0, closing: int = 1, name: str = "train") -> Split:
    """Return documents of texts 0, 1, 2, ... with marks around them."""
    tokens, documents = list[int](), list[int]()
    for length in lengths:
        documents.append(len(tokens))
        tokens += [BEGIN] * opening + list(range(length)) + [END] * closing
    return Split(
        name=name,
        tokens=Tokens([np.array(tokens, np.uint16)]),
        documents=np.array(documents, np.int64),
        bytes=1,
        words=1,
        unknown=0,
        opening=opening,
        closing=closing,
    )


def test_a_document_is_read_from_the_end_of_the_one_before() -> None:
    text = split([2, 3, 1])  # 0 1 E 0 1 2 E 0 E
    assert reading_starts(text).tolist() == [0, 2, 6]
    assert DocumentIds(text).ids(np.array([0]), 8).tolist() == [[0, 0, 1, 1, 1, 1, 2, 2]]
    assert not DocumentIds(text).untold(np.array([0]), 8).any()


def test_a_document_is_read_from_its_begin_token_which_is_no_target() -> None:
    text = split([2, 3], opening=2)  # B B 0 1 E B B 0 1 2 E
    assert reading_starts(text).tolist() == [0, 5]
    index = DocumentIds(text)
    assert index.ids(np.array([0]), 10).tolist() == [[0] * 5 + [1] * 5]
    untold = index.untold(np.array([0]), 10)[0]
    assert np.flatnonzero(untold).tolist() == [0, 4, 5]


def test_behind_the_end_the_first_document_begins_anew() -> None:
    index = DocumentIds(split([2, 3]))  # 0 1 E 0 1 2 E, six inputs
    assert index.ids(np.array([4, 5]), 4).tolist() == [[1, 1, 2, 2], [1, 2, 2, 3]]


def test_one_text_has_one_document_and_unmarked_ones_are_refused() -> None:
    assert reading_starts(split([9], closing=0)).tolist() == [0]
    assert reading_starts(split([4, 9], closing=0, name="validation+test")).tolist() == [0]
    with pytest.raises(RequestError, match="isolated needs a token that begins or ends"):
        reading_starts(split([4, 9], closing=0))


@pytest.mark.parametrize("opening", [0, 1])
def test_windows_know_their_documents(opening: int) -> None:
    text = split([5, 1, 17, 3, 40, 2], opening=opening)
    windows = Windows(text, 16, 4, seed=0, documents="isolated")
    joined = Windows(text, 16, 4, seed=0)
    assert joined.batch(0).documents is None
    for step in range(20):
        batch = windows.batch(step)
        inputs, targets = batch.inputs.numpy(), batch.targets.numpy()
        assert batch.documents is not None
        ids = batch.documents.numpy()
        assert ids.shape == inputs.shape and ids.dtype == np.int64
        assert (np.diff(ids) >= 0).all()
        first = BEGIN if opening else END
        inner = np.diff(ids) > 0
        begins = inputs[:, 1:][inner]
        assert set(begins.tolist()) <= {first, 0 if not opening else first}
        assert np.array_equal(targets == IGNORE, joined.batch(step).targets.numpy() == BEGIN)
        assert batch.real_targets == int((targets != IGNORE).sum())
        some = windows.batch(step, slice(1, 3)).documents
        assert some is not None and np.array_equal(some.numpy(), ids[1:3])


def test_documents_that_are_joined_are_not_written(tmp_path: Path) -> None:
    plain = Data(corpus="a.txt")
    isolated = Data(corpus="a.txt", documents="isolated")
    assert "documents" not in plain.model_dump()
    assert isolated.model_dump()["documents"] == "isolated"
    assert Data.model_validate(isolated.model_dump()) == isolated
    assert isolated.packed() == plain.packed()
