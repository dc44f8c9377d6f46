"""What llama.cpp computes from our files.

Slow, because llama.cpp is built from source, for some minutes:

python -m pip install -c constraints.txt llama-cpp-python && python -m pytest -m slow
tests/unit/export

It is no dependency of flyweight, and needs a C++ compiler and CMake.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf_models import (
    MODELS,
    PRE_TOKENIZERS,
    PROMPTS,
    TEXT,
    LlamaCpp,
    changed,
    greedy,
    ours,
    relative_error,
    round_to,
    save,
    tokenizer,
)

from flyweight.config import schema
from flyweight.formats import gguf
from flyweight.model import folder

pytestmark = pytest.mark.slow
# The largest relative error of a logit (`relative_error`) that each type may have; 0.0006, 0.0017,
# 0.043 and 0.43 were measured (results/gguf.csv). Matrices of 64 columns are two blocks wide:
# larger models lose less.
BOUNDS = {"f32": 2e-3, "f16": 1e-2, "q8_0": 8e-2, "q4_0": 8e-1}


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_continues_as_we_do(kind: str, tmp_path: Path) -> None:
    known = tokenizer()
    model = save(tmp_path / "model", known, steps=80, **MODELS[kind])
    for type, bound in BOUNDS.items():
        written = gguf.write(tmp_path / "model", tmp_path / f"{type}.gguf", type)
        assert written.kind == kind.split(",")[0]
        theirs = LlamaCpp(written.path)
        for prompt in PROMPTS:
            ids = known.encode(prompt)
            assert theirs.encode(prompt) == ids
            assert relative_error(theirs.logits(ids), ours(model)(ids)) < bound, type
            if type in ("f32", "f16") or (type == "q8_0" and prompt in TEXT):
                assert greedy(theirs.logits, ids, 24) == greedy(ours(model), ids, 24), type
        theirs.close()


@pytest.mark.parametrize("kind", [kind for kind in MODELS if "gpt2" not in kind])
def test_without_rounding_it_is_the_same_function(kind: str, tmp_path: Path) -> None:
    """GPT-2 is left out: llama.cpp looks its GELU up in a table of float16."""
    known = tokenizer()
    model = save(tmp_path / "model", known, **MODELS[kind])
    theirs = LlamaCpp(gguf.write(tmp_path / "model", tmp_path / "m.gguf", "f32").path, exact=True)
    ids = known.encode(TEXT)[:60]
    assert relative_error(theirs.logits(ids), ours(model)(ids)) < 1e-5
    theirs.close()


@pytest.mark.parametrize("type", ["q8_0", "q4_0"])
@pytest.mark.parametrize("kind", ["llama, grouped heads of 32, own head", "gpt2", "qwen3"])
def test_quantized_weights_are_read_as_they_were_written(
    kind: str, type: str, tmp_path: Path
) -> None:
    """Weights that the type holds exactly leave only llama.cpp's own rounding, of activations to 8 bits."""
    known = tokenizer()
    model = save(tmp_path / "model", known, steps=80, **MODELS[kind])
    round_to(model, type)
    folder.save(model, tmp_path / "model")
    theirs = LlamaCpp(gguf.write(tmp_path / "model", tmp_path / "m.gguf", type).path)
    ids = known.encode(TEXT)[:60]
    assert relative_error(theirs.logits(ids), ours(model)(ids)) < 5e-2
    assert greedy(theirs.logits, ids[:20], 24) == greedy(ours(model), ids[:20], 24)
    theirs.close()


TOKENIZERS = {
    "bytes": tokenizer(schema.ByteTokenizer()),
    "one text": tokenizer(separated=False),
    **{
        pre: changed(tokenizer(schema.BpeTokenizer(vocab=400)), **parts)
        for pre, parts in PRE_TOKENIZERS.items()
    },
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_any_text_has_the_same_ids_and_comes_back(name: str, tmp_path: Path) -> None:
    known = TOKENIZERS[name]
    save(tmp_path / "model", known, attention={"heads": 4})
    theirs = LlamaCpp(gguf.write(tmp_path / "model", tmp_path / "m.gguf").path)
    draw = np.random.default_rng(0)
    alphabet = [
        *"  \n\n\t\r.,'\"stmdrevl<|>_-0123456789aAbßéЖ漢字🙂²½\u00a0\u2003\u200d\u0301",
        "<|endoftext|>",
        "'ll",
        "\r\n",
    ]
    for _ in range(300):
        text = "".join(draw.choice(alphabet, size=draw.integers(1, 30)))
        ids = known.encode(text)
        assert theirs.encode(text) == ids, repr(text)
        assert theirs.decode(ids) == text
    theirs.close()


def test_llama_cpp_ends_only_where_a_document_does(tmp_path: Path) -> None:
    for separated in (True, False):
        known = tokenizer(separated=separated)
        save(tmp_path / "model", known, attention={"heads": 4})
        theirs = LlamaCpp(gguf.write(tmp_path / "model", tmp_path / f"{separated}.gguf").path)
        (end,) = theirs.ends()
        assert (
            end == theirs.model.token_eos() == (known.separator if separated else known.vocab["õ"])
        )
        assert end not in known.encode(TEXT)
        theirs.close()
