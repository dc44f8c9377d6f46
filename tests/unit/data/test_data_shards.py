from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from flyweight.data.shards import ShardWriter, Tokens, dtype_for
from flyweight.errors import FlyweightError


def test_the_narrowest_type():
    assert dtype_for(65_536) == np.uint16
    assert dtype_for(65_537) == np.uint32


@pytest.mark.parametrize("limit", [1, 7, 10, 1000])
def test_shards_read_as_one_array(tmp_path: Path, limit: int):
    ids = np.arange(100, dtype=np.uint16)
    writer = ShardWriter(tmp_path, "train", dtype_for(100), limit)
    for part in (ids[:0], ids[:33], ids[33:34], ids[34:]):
        writer.write(part)
    shards, stream = writer.close()
    assert writer.tokens == 100 == sum(shard.tokens for shard in shards)
    assert len(shards) == -(-100 // limit)
    assert stream == hashlib.sha256(ids.tobytes()).hexdigest(), (
        "the stream's hash must not depend on the shards"
    )
    for shard in shards:
        assert hashlib.sha256((tmp_path / shard.file).read_bytes()).hexdigest() == shard.sha256
    tokens = Tokens([np.memmap(tmp_path / shard.file, np.uint16, mode="r") for shard in shards])
    assert len(tokens) == 100
    assert tokens.dtype == np.uint16
    assert np.array_equal(np.asarray(tokens), ids)
    for start, stop in ((0, 100), (5, 5), (6, 8), (0, 7), (7, 14), (95, 200), (-5, None), (50, 10)):
        assert np.array_equal(tokens[start:stop], ids[start:stop]), (start, stop)
    assert [tokens[0], tokens[6], tokens[7], tokens[-1]] == [0, 6, 7, 99]
    starts = [0, 3, 6, 7, 89, 95]
    assert np.array_equal(
        tokens.gather(starts, 5), np.stack([ids[start : start + 5] for start in starts])
    )
    assert tokens.gather([], 5).shape == (0, 5)


def test_reads_outside_are_errors():
    tokens = Tokens([np.arange(6, dtype=np.uint16), np.arange(4, dtype=np.uint16)])
    for starts in ([6], [-1]):
        with pytest.raises(IndexError, match="leaves the 10 tokens"):
            tokens.gather(starts, 5)
    for index in (10, -11):
        with pytest.raises(IndexError):
            tokens[index]
    with pytest.raises(ValueError, match="a step of 2"):
        tokens[::2]
    assert len(Tokens([])) == 0
    assert len(Tokens([])[0:5]) == 0


def test_a_full_disk_is_a_plain_error(tmp_path: Path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    writer = ShardWriter(tmp_path, "train", dtype_for(10), 1 << 20)
    with (
        open(full, "wb", buffering=0) as writer._file,
        pytest.raises(FlyweightError, match="disk is full"),
    ):
        writer.write(np.zeros(1 << 20))


def test_a_shard_is_a_new_file(tmp_path: Path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "train-00000.bin").symlink_to(tmp_path / "precious")
    writer = ShardWriter(tmp_path, "train", dtype_for(10), 1 << 20)
    with pytest.raises(FlyweightError, match="exists"):
        writer.write(np.zeros(10))
    assert (tmp_path / "precious").read_text() == "precious"
