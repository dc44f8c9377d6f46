"""Real sentencepiece models without a tokenizer.json: read as AutoTokenizer reads them, or refused with what to do."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from flyweight.checkpoints import read, tokenizer_files
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import RequestError

FIELDS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False}
needed = pytest.mark.skipif(
    importlib.util.find_spec("sentencepiece") is None,
    reason="sentencepiece is not installed: pip install --no-deps sentencepiece protobuf",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train a model of each kind on sentences of made-up words."""
    import sentencepiece

    place, draw = tmp_path_factory.mktemp("models"), random.Random(0)
    words = [
        "".join(draw.choice("ptkslmn") + draw.choice("aeiou") for _ in range(draw.randint(1, 4)))
        for _ in range(150)
    ]
    lines = [
        " ".join(draw.choices(words, k=9)) + draw.choice([".", "!", "?", " 12", " é"])
        for _ in range(2000)
    ]
    (place / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    for kind in ("bpe", "unigram"):
        sentencepiece.SentencePieceTrainer.train(
            **{
                "input": str(place / "text.txt"),
                "model_prefix": str(place / kind),
                "model_type": kind,
                "vocab_size": 400,
            },
            **{
                "byte_fallback": True,
                "normalization_rule_name": "identity",
                "remove_extra_whitespaces": False,
            },
            **{"character_coverage": 1.0, "minloglevel": 2, "num_threads": 1},
        )
    return {kind: place / f"{kind}.model" for kind in ("bpe", "unigram")}


def folder(place: Path, model: bytes, **fields: object) -> read.Checkpoint:
    place.mkdir()
    save_file({"weight": torch.ones(1)}, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (place / "tokenizer.model").write_bytes(model)
    (place / "tokenizer_config.json").write_text(json.dumps({**FIELDS, **fields}))
    return read.read(place)


@needed
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("bpe", {"tokenizer_class": "LlamaTokenizer"}),
        ("bpe", {"tokenizer_class": "LlamaTokenizer", "legacy": True}),
        (
            "bpe",
            {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": True},
        ),
        ("unigram", {"tokenizer_class": "T5Tokenizer"}),
    ],
)
def test_it_is_the_one_that_transformers_builds(
    kind: str, fields: dict, models: dict[str, Path], tmp_path: Path
) -> None:
    source = folder(tmp_path / "in", models[kind].read_bytes(), **fields)
    (tmp_path / "out").mkdir()
    known = tokenizer_files.keep(source, tmp_path / "out")
    assert known and known["compared"] >= len(tokenizer_files.TEXTS)
    ours, theirs = (
        Tokenizer.load(tmp_path / "out"),
        transformers.AutoTokenizer.from_pretrained(tmp_path / "in"),
    )
    for text in tokenizer_files.TEXTS:
        ids = [*ours.around[0], *ours.encode(text, start=False), *ours.around[1]]
        assert ids == theirs(text, split_special_tokens=True)["input_ids"]


@needed
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("unigram", {"tokenizer_class": "LlamaTokenizer"}),
        ("bpe", {}),
        ("bpe", {"tokenizer_class": "GemmaTokenizer"}),
    ],
)
def test_a_class_that_reads_words_in_other_pieces_is_refused(
    kind: str, fields: dict, models: dict[str, Path], tmp_path: Path
) -> None:
    source = folder(tmp_path / "in", models[kind].read_bytes(), **fields)
    (tmp_path / "out").mkdir()
    with pytest.raises(
        RequestError,
        match=r"but the sentencepiece model as .*\. Put its tokenizer.json beside it",
    ):
        tokenizer_files.keep(source, tmp_path / "out")


@pytest.mark.parametrize(
    "fields", [{"tokenizer_class": "LlamaTokenizer"}, {}, {"tokenizer_class": "T5Tokenizer"}]
)
@pytest.mark.skipif(
    importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece is installed"
)
def test_without_the_library_it_says_what_to_install(fields: dict, tmp_path: Path) -> None:
    source = folder(tmp_path / "in", b"\n\x0b\n\x05<unk>\x15\x00\x00\x00\x00", **fields)
    (tmp_path / "out").mkdir()
    with pytest.raises(
        RequestError,
        match="needs sentencepiece to read it: pip install sentencepiece protobuf, or put",
    ):
        tokenizer_files.keep(source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
