"""What llama.cpp computes from our files. Slow, because llama.cpp is built from source, for some minutes:

python -m pip install -c constraints.txt llama-cpp-python && python -m pytest -m slow tests/unit/export

It is no dependency of flyweight, and needs a C++ compiler and CMake.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf_models import MODELS, PROMPTS, TEXT, LlamaCpp, greedy, ours, relative_error, save, tokenizer

from flyweight.config import schema
from flyweight.export import gguf

pytestmark = pytest.mark.slow
# The largest relative error of a logit (`relative_error`) that each type may have.
BOUNDS = {"f32": 2e-3, "f16": 1e-2, "q8_0": 5e-2, "q4_0": 4e-1}


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
            if type != "q4_0":
                assert greedy(theirs.logits, ids, 24) == greedy(ours(model), ids, 24), type
        theirs.close()


@pytest.mark.parametrize("kind", [kind for kind in MODELS if "gpt2" not in kind])
def test_without_rounding_it_is_the_same_function(kind: str, tmp_path: Path) -> None:
    """GPT-2 is left out: llama.cpp looks its GELU up in a table of float16."""
    known = tokenizer()
    model = save(tmp_path / "model", known, **MODELS[kind])
    theirs = LlamaCpp(gguf.write(tmp_path / "model", tmp_path / "m.gguf", "f32").path, exact=True)
    ids = known.encode(TEXT)[:60]
    assert relative_error(theirs.logits(ids), ours(model)(ids)) < 1e-4
    theirs.close()


@pytest.mark.parametrize("config", [schema.BpeTokenizer(vocab=400), schema.ByteTokenizer()], ids=["bpe", "byte"])
@pytest.mark.parametrize("separated", [True, False])
def test_any_text_has_the_same_ids_and_comes_back(config: schema.Tokenizer, separated: bool, tmp_path: Path) -> None:
    known = tokenizer(config, separated=separated)
    save(tmp_path / "model", known, attention={"heads": 4})
    theirs = LlamaCpp(gguf.write(tmp_path / "model", tmp_path / "m.gguf").path)
    draw = np.random.default_rng(0)
    alphabet = [*"  \n\n\t\r.,'\"stmdrevl<|>_-0123456789aAbßéЖ漢字🙂²½\u00a0\u2003\u200d\u0301", "<|endoftext|>", "'ll", "\r\n"]
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
        theirs = LlamaCpp(gguf.write(tmp_path / "model", tmp_path / "m.gguf").path)
        end = theirs.model.token_eos()
        assert end == (known.separator if separated else known.vocab["õ"])
        assert end not in known.encode(TEXT)
        theirs.close()
