"""Records of a teacher: what is written is read, by window number, and only for the windows that it is of."""

import pytest
import torch

from flyweight.config import schema
from flyweight.data.pack import pack
from flyweight.data.told import Told, ToldMeta, ToldWindows, ToldWriter
from flyweight.data.windows import Windows
from flyweight.errors import RequestError

T, K = 8, 3


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text("one small model under a budget\n" * 60)
    data = schema.Data(corpus=str(folder / "text.txt"), tokenizer={"kind": "byte"}, context=T)
    return pack(data, None, folder / "packed").split("train")


def meta(**fields):
    of = {"corpus": "corpus-1", "context": T, "seed": 0, "documents": "joined", "vocabulary": 257}
    return ToldMeta(**{**of, "temperature": 1.0, "rows": 12, "k": K, **fields})


def told(folder, rows, **fields):
    folder.mkdir()
    record = meta(rows=rows, **fields)
    writer = ToldWriter(folder, record, "float16")
    tokens = torch.arange(rows * T * K).view(rows, T, K) % 257
    log_probs = -tokens.float() / 64
    writer.write(0, tokens[:5], log_probs[:5])
    writer.flush()
    again = ToldWriter(folder, record, "float16", done=5)
    again.write(5, tokens[5:], log_probs[5:])
    again.flush()
    return tokens, log_probs


def test_rows_are_found_by_the_numbers_of_their_windows(split, tmp_path):
    tokens, log_probs = told(tmp_path / "told", 12)
    record = Told(tmp_path / "told")
    for batch, step, rows in ((4, 2, slice(None)), (3, 1, slice(1, 3)), (6, 0, slice(None))):
        source = ToldWindows(Windows(split, T, batch, 0), record)
        found = source.batch(step, rows)
        numbers = torch.arange(batch)[rows] + step * batch
        assert torch.equal(found.teacher.tokens, tokens[numbers])
        torch.testing.assert_close(found.teacher.log_probs, log_probs[numbers])
        plain = source.windows.batch(step, rows)
        assert torch.equal(found.inputs, plain.inputs) and source.context == T
    shared = ToldWindows(Windows(split, T, 4, 0), record).batch(1, rank=1, world=2)
    assert torch.equal(shared.teacher.tokens, tokens[6:8])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corpus": "corpus-2"}, "another text"),
        ({"context": 16}, "another context"),
        ({"seed": 4}, "another seed"),
        ({"documents": "isolated"}, "another documents"),
        ({}, "the record has 12 rows, and this training reads 13; teach more rows"),
    ],
)
def test_records_of_other_windows_are_refused(split, tmp_path, fields, message):
    (tmp_path / "told").mkdir()
    ToldWriter(tmp_path / "told", meta(**fields), "float16")
    windows = Windows(split, T, 4, 0)
    with pytest.raises(RequestError, match=message):
        Told(tmp_path / "told").check(windows, "corpus-1", 13, "stages.student.told")
    if not fields:
        Told(tmp_path / "told").check(windows, "corpus-1", 12, "stages.student.told")
