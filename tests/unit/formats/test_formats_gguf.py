from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_models import BIASED, GPT2, LLAMA3, PRE_TOKENIZERS, changed, save, splitting, tokenizer

from flyweight.config import schema
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import FlyweightError, RequestError
from flyweight.formats import gguf as export, gguf_reader
from flyweight.model import folder
from flyweight.model.decoder import Decoder
from flyweight.model.linear_layer import layers_of
from flyweight.model.position import frequencies

gguf = pytest.importorskip("gguf")

HEADS = {"attention": {"heads": 4}}
BPE = tokenizer()
BLOCK = {
    *("attn_norm.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight"),
    *("ffn_norm.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"),
}


class Opened:
    """A written file: `header` by key, `types` and `values` (float32, outputs first) by tensor name."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.header = {name: field.contents() for name, field in reader.fields.items()}
        self.types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        self.values = {tensor.name: self._value(tensor) for tensor in reader.tensors}

    @staticmethod
    def _value(tensor: Any) -> np.ndarray:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        return (
            gguf.dequantize(tensor.data, tensor.tensor_type)
            .astype(np.float32)
            .reshape(shape)
            .copy()
        )


def written(
    folder: Path, type: str = "f16", known: Tokenizer = BPE, **fields: Any
) -> tuple[Decoder, export.Exported, Opened]:
    model = save(folder / "model", known, **{**HEADS, **fields})
    (folder / "model.gguf").unlink(missing_ok=True)
    found = export.write(folder / "model", folder / "model.gguf", type)
    return model, found, Opened(found.path)


def blocks(opened: Opened) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for name in opened.values:
        if name.startswith("blk."):
            _, layer, rest = name.split(".", 2)
            found.setdefault(int(layer), set()).add(rest)
    return found


def numbers(model: Decoder, name: str) -> np.ndarray:
    return model.state_dict()[name].float().numpy()


def refusal(folder: Path, known: Tokenizer = BPE, type: str = "f16", **fields: Any) -> str:
    save(folder / "model", known, **{**HEADS, **fields})
    with pytest.raises(RequestError) as error:
        export.write(folder / "model", folder / "model.gguf", type)
    assert not (folder / "model.gguf").exists()
    return str(error.value)


# --- structure ---


def test_llama_has_its_names_its_sizes_and_its_interleaved_rows(tmp_path: Path) -> None:
    attention = {"heads": 4, "kv_heads": 2, "head_dim": 32}
    model, found, opened = written(tmp_path, "f32", attention=attention, embedding={"tied": False})
    assert (found.kind, found.notes, found.bytes) == ("llama", (), found.path.stat().st_size)
    assert blocks(opened) == {0: BLOCK, 1: BLOCK}
    assert {name for name in opened.values if "blk" not in name} == {
        "token_embd.weight",
        "output_norm.weight",
        "output.weight",
    }
    wanted = {
        "general.architecture": "llama",
        "general.name": "model",
        "general.file_type": 0,
        "llama.block_count": 2,
        "llama.context_length": 64,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": model.config.mlp.hidden,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 32,
        "llama.attention.value_length": 32,
        "llama.rope.dimension_count": 32,
        "llama.rope.freq_base": 10_000.0,
        "llama.attention.layer_norm_rms_epsilon": np.float32(1e-6),
        "llama.vocab_size": 320,
    }
    assert {key: opened.header.get(key) for key in wanted} == wanted
    for theirs, ours, heads in (("attn_q", "q", 4), ("attn_k", "k", 2)):
        rows, halves = (
            opened.values[f"blk.1.{theirs}.weight"],
            numbers(model, f"blocks.1.attention.{ours}.weight"),
        )
        for head in range(heads):
            for pair in range(16):
                assert np.array_equal(rows[head * 32 + 2 * pair], halves[head * 32 + pair])
                assert np.array_equal(rows[head * 32 + 2 * pair + 1], halves[head * 32 + 16 + pair])
    same = {
        "attn_v": "attention.v",
        "attn_output": "attention.out",
        "ffn_gate": "mlp.gate",
        "ffn_down": "mlp.down",
    }
    for theirs, ours in same.items():
        assert np.array_equal(
            opened.values[f"blk.0.{theirs}.weight"], numbers(model, f"blocks.0.{ours}.weight")
        )
    assert np.array_equal(opened.values["output.weight"], numbers(model, "head.linear.weight"))


def test_gpt2_has_one_matrix_for_q_k_v_and_a_tied_head_has_none(tmp_path: Path) -> None:
    model, found, opened = written(tmp_path, **BIASED)
    assert found.kind == "gpt2"
    names = {"attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"}
    assert blocks(opened)[1] == {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    assert "output.weight" not in opened.values
    joined = np.concatenate([numbers(model, f"blocks.1.attention.{name}.weight") for name in "qkv"])
    assert np.array_equal(
        opened.values["blk.1.attn_qkv.weight"], joined.astype(np.float16).astype(np.float32)
    )
    assert np.array_equal(
        opened.values["position_embd.weight"], numbers(model, "embedding.positions.weight")
    )
    assert (opened.types["position_embd.weight"], opened.types["blk.1.attn_qkv.bias"]) == (
        "F32",
        "F32",
    )
    assert opened.types["blk.1.ffn_up.weight"] == opened.types["token_embd.weight"] == "F16"
    assert opened.header["gpt2.attention.layer_norm_epsilon"] == np.float32(1e-5)
    assert not any("rope" in key for key in opened.header)


def test_qwen3_keeps_its_rows_and_has_q_and_k_norms(tmp_path: Path) -> None:
    model, found, opened = written(
        tmp_path, "f32", attention={"heads": 4, "kv_heads": 2, "qk_norm": True}
    )
    assert found.kind == opened.header["general.architecture"] == "qwen3"
    assert blocks(opened)[0] == {*BLOCK, "attn_q_norm.weight", "attn_k_norm.weight"}
    for theirs, ours in (("attn_q", "q"), ("attn_k", "k"), ("attn_q_norm", "q_norm")):
        assert np.array_equal(
            opened.values[f"blk.1.{theirs}.weight"],
            numbers(model, f"blocks.1.attention.{ours}.weight"),
        )


def test_biases_that_only_some_matrices_have_are_zero_in_the_others(tmp_path: Path) -> None:
    attention = {"heads": 4, "bias": True, "out_bias": False}
    model, _, opened = written(tmp_path, "f32", attention=attention)
    assert not opened.values["blk.0.attn_output.bias"].any()
    assert np.array_equal(
        opened.values["blk.0.attn_v.bias"], numbers(model, "blocks.0.attention.v.bias")
    )
    halves = numbers(model, "blocks.0.attention.q.bias").reshape(4, 2, 8)
    assert np.array_equal(opened.values["blk.0.attn_q.bias"], halves.transpose(0, 2, 1).ravel())
    _, _, opened = written(tmp_path, **{**GPT2, "norm": {"kind": "layernorm", "bias": False}})
    zero = {
        name for name, value in opened.values.items() if name.endswith(".bias") and not value.any()
    }
    assert len(zero) == 2 * 6 + 1


def test_rotary_scaling_is_a_key_a_tensor_or_another_base(tmp_path: Path) -> None:
    _, _, opened = written(tmp_path, position={"scaling": {"kind": "linear", "factor": 4.0}})
    assert (
        opened.header["llama.rope.scaling.type"],
        opened.header["llama.rope.scaling.factor"],
    ) == ("linear", 4.0)
    _, _, opened = written(tmp_path, position={"scaling": {"kind": "ntk", "factor": 4.0}})
    assert opened.header["llama.rope.freq_base"] == pytest.approx(10_000 * 4 ** (16 / 14))
    model, _, opened = written(tmp_path, position={"base": 500.0, "scaling": LLAMA3})
    position = model.config.position
    assert isinstance(position, schema.Rope)
    plain = np.array(frequencies(schema.Rope(base=500.0), 16))
    factors = opened.values["rope_freqs.weight"]
    assert factors.shape == (8,) and factors.min() == 1 and factors.max() == 8
    assert np.allclose(plain / factors, frequencies(position, 16), rtol=1e-6)


# --- types ---


@pytest.mark.parametrize(
    ("type", "error"), [("f16", 2**-11), ("q8_0", 0.5 / 127 + 1e-3), ("q4_0", 1 / 8 + 1e-3)]
)
def test_matrices_come_back_within_half_a_step_of_their_type(
    type: str, error: float, tmp_path: Path
) -> None:
    model, _, opened = written(tmp_path, type)
    assert opened.header["general.file_type"] == {"f16": 1, "q8_0": 7, "q4_0": 2}[type]
    for theirs, ours in (("attn_v", "attention.v"), ("ffn_down", "mlp.down")):
        found, wanted = (
            opened.values[f"blk.0.{theirs}.weight"],
            numbers(model, f"blocks.0.{ours}.weight"),
        )
        largest = np.abs(wanted.reshape(-1, 32)).max(-1, keepdims=True)
        assert opened.types[f"blk.0.{theirs}.weight"] == type.upper()
        assert 0 < (np.abs(found - wanted).reshape(-1, 32) / largest).max() <= error
    assert opened.types["blk.0.attn_norm.weight"] == "F32"


def test_q4_0_keeps_the_output_matrix_finer_and_says_so(tmp_path: Path) -> None:
    for tied, head in ((True, "token_embd.weight"), (False, "output.weight")):
        _, found, opened = written(tmp_path, "q4_0", embedding={"tied": tied})
        assert opened.types[head] == "Q8_0"
        assert {name for name, type in opened.types.items() if type == "Q8_0"} == {head}
        assert any("output matrix is kept in q8_0" in warning for warning in found.notes)


def test_rows_that_blocks_do_not_divide_are_kept_in_f16(tmp_path: Path) -> None:
    _, found, opened = written(tmp_path, "q8_0", mlp={"kind": "swiglu", "hidden": 40})
    assert opened.types["blk.0.ffn_down.weight"] == "F16"
    assert opened.types["blk.0.ffn_up.weight"] == "Q8_0"
    assert found.notes == (
        "q8_0 needs rows of a multiple of 32: 2 matrices with rows of 40 are kept in f16",
    )
    said = refusal(tmp_path / "none", type="q8_0", dim=48, mlp={"kind": "swiglu", "hidden": 40})
    assert "all of this model's matrices have 40, 48: use f16" in said


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_other_dtypes_are_written_by_value(dtype: torch.dtype, tmp_path: Path) -> None:
    from flyweight.model import folder

    model = save(tmp_path / "model", BPE, **HEADS).to(dtype)
    folder.save(model, tmp_path / "model")
    opened = Opened(export.write(tmp_path / "model", tmp_path / "m.gguf", "f32").path)
    assert np.array_equal(
        opened.values["blk.0.ffn_up.weight"], numbers(model, "blocks.0.mlp.up.weight")
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [(1e6, "F16 cannot hold a weight of 1e+06"), (float("nan"), "F16 cannot hold NaN")],
)
def test_weights_that_a_type_cannot_hold_are_refused(
    value: float, words: str, tmp_path: Path
) -> None:
    from flyweight.model import folder

    model = save(tmp_path / "model", BPE, **HEADS)
    with torch.no_grad():
        model.state_dict()["blocks.1.mlp.up.weight"][3, 4] = value
    folder.save(model, tmp_path / "model")
    with pytest.raises(RequestError, match=r"blk\.1\.ffn_up\.weight: ") as error:
        export.write(tmp_path / "model", tmp_path / "m.gguf")
    assert words in str(error.value) and "blocks.1.mlp.up.weight" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# --- shared layers ---


@pytest.mark.parametrize(("kind", "order"), [("repeat", [0, 0, 1, 1]), ("cycle", [0, 1, 0, 1])])
def test_shared_layers_are_written_out_with_a_warning_that_says_the_new_size(
    kind: str, order: list[int], tmp_path: Path
) -> None:
    model, found, opened = written(tmp_path, "f32", sharing={"kind": kind, "times": 2}, dropout=0.1)
    assert opened.header["llama.block_count"] == 4
    for place, layer in enumerate(order):
        assert np.array_equal(
            opened.values[f"blk.{place}.ffn_up.weight"],
            numbers(model, f"blocks.{layer}.mlp.up.weight"),
        )
    stored = sum(parameter.numel() for parameter in model.parameters())
    total = stored + sum(parameter.numel() for parameter in model.blocks.parameters())
    (warning,) = found.notes
    assert f"2, each used 2 times ({kind}), are written out as 4" in warning
    assert f"{4 * total / 1000:.3g} kB of weights instead of {4 * stored / 1000:.3g} kB" in warning
    assert f"{total / 1000:.3g} k parameters instead of {stored / 1000:.3g} k" in warning
    assert sum(value.size for value in opened.values.values()) == total


@pytest.mark.parametrize(
    "fields", [HEADS, {"attention": {"heads": 4, "kv_heads": 2}}, BIASED], ids=str
)
def test_int8_and_int4_keep_their_codes(fields: dict[str, Any], tmp_path: Path) -> None:
    linears = {"blocks": "int4", "embedding.tokens": "int8"}
    model, found, opened = written(tmp_path, **fields, linears=linears)
    assert set(opened.types.values()) == {"F32", "Q4_0", "Q8_0"}
    assert "written with their own codes and scales (q4_0, q8_0)" in found.notes[0]
    back = gguf_reader.read(found.path).model
    for name, layer in layers_of(model):
        assert torch.equal(layer.dense(), dict(layers_of(back))[name].dense())


def test_a_scale_that_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    model = save(tmp_path / "model", BPE, **HEADS, linears={"blocks": "int4"})
    layer = model.blocks[0].mlp.down  # pyright: ignore
    layer.scales[3, 0] = 1.1e-7
    folder.save(model, tmp_path / "model")
    with pytest.raises(RequestError, match="float16, which cannot hold 1"):
        export.write(tmp_path / "model", tmp_path / "model.gguf")


# --- refusals ---


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"linears": {"blocks.*": "int8_dynamic"}}, "it is quantized (int8_dynamic)"),
        (
            {"linears": {"blocks.*": {"kind": "int4", "group": 64}}},
            "it has int8, and int4 in groups of 32",
        ),
        ({"linears": {"blocks.*.q": "int4"}, **BIASED}, "GGUF has one matrix for them"),
        ({"linears": {"blocks.*": "int8"}, "dim": 40}, "do not divide its rows of 40"),
        (
            {"linears": {"blocks.*": "nf4"}},
            "export the dense model that it was made from, with --type q8_0",
        ),
        ({"embedding": {"bigram": {"kind": "hashed", "buckets": 64}}}, "bigram table"),
        ({"head": {"softcap": 30.0}}, "softcap"),
        ({"attention": {"heads": 4, "gain": True}}, "attention gains"),
        ({"attention": {"heads": 4, "window": 4}}, "a sliding window of 4 tokens"),
        ({"position": {"fraction": 0.5}}, "only 0.5 of each head is rotated"),
        ({"norm": "layernorm"}, "its norm is layernorm, not rmsnorm"),
        ({"mlp": "relu2"}, "its MLP is relu2, not swiglu"),
        ({"layers": 0}, "it has no layers"),
        ({**BIASED, "mlp": {"kind": "gelu"}}, "its GELU is the exact one"),
        ({**BIASED, "mlp": "swiglu"}, "its MLP is swiglu; GPT-2's is gelu"),
        ({**BIASED, "norm": "rmsnorm"}, "its norm is not LayerNorm"),
        ({**BIASED, "attention": {"heads": 4, "kv_heads": 2}}, "fewer key/value heads"),
        ({**BIASED, "attention": {"heads": 4, "head_dim": 32}}, "heads times head_dim is not dim"),
        (
            {"attention": {"heads": 4, "qk_norm": True, "bias": True}},
            "its attention has biases beside q/k norms",
        ),
        (
            {"attention": {"heads": 4, "qk_norm": True, "qk_norm_eps": 1e-5}},
            "q/k norms and block norms differ in eps",
        ),
        (
            {"attention": {"heads": 4, "qk_norm": True}, "position": {"scaling": LLAMA3}},
            "llama3 beside q/k norms",
        ),
        ({"vocab_size": 300}, "its tokenizer has 320 ids, its model only 300"),
    ],
)
def test_what_gguf_cannot_express_is_refused(
    fields: dict[str, Any], words: str, tmp_path: Path
) -> None:
    assert words in refusal(tmp_path, **fields)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_every_reason_is_given_at_once(tmp_path: Path) -> None:
    fields = {
        "linears": {"head": "int3"},
        "head": {"softcap": 30.0},
        "embedding": {"tied": False},
        "mlp": "relu2",
    }
    said = refusal(tmp_path, tokenizer(schema.CharTokenizer()), **fields)
    for words in ("it is quantized (int3)", "softcap", "relu2", "its tokenizer is a WordLevel"):
        assert words in said
    assert said.count("a logit softcap") == 1 and "(model.head.softcap=null)" in said


def test_requests_that_make_no_sense_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "model", BPE, **HEADS)
    with pytest.raises(RequestError, match="q5_k: GGUF files are written as f32, f16, q8_0, q4_0"):
        export.write(tmp_path / "model", tmp_path / "m.gguf", "q5_k")
    with pytest.raises(RequestError, match="is a folder; name the file"):
        export.write(tmp_path / "model", tmp_path)
    with pytest.raises(RequestError, match="not a model folder"):
        export.write(tmp_path, tmp_path / "m.gguf")
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(RequestError, match=r"tokenizer\.json is not a readable"):
        export.write(tmp_path / "model", tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(RequestError, match=r"pip install 'flyweight\[gguf\]'"):
        export.write(tmp_path / "model", tmp_path / "m.gguf")


# --- tokenizers ---


def test_the_tokenizer_is_in_the_file(tmp_path: Path) -> None:
    _, _, opened = written(tmp_path)
    raw = json.loads((tmp_path / "model" / "tokenizer.json").read_text(encoding="utf-8"))
    tokens, kinds = (
        opened.header["tokenizer.ggml.tokens"],
        opened.header["tokenizer.ggml.token_type"],
    )
    assert {token: at for at, token in enumerate(tokens)} == BPE.vocab
    assert opened.header["tokenizer.ggml.merges"] == [
        " ".join(pair) for pair in raw["model"]["merges"]
    ]
    assert kinds == [1] * 319 + [3] and tokens[319] == "<|endoftext|>"
    wanted = {
        "model": "gpt2",
        "pre": "gpt-2",
        "bos_token_id": 319,
        "eos_token_id": 319,
        "add_bos_token": False,
    }
    assert {key: opened.header[f"tokenizer.ggml.{key}"] for key in wanted} == wanted


def test_without_an_end_of_document_a_byte_that_no_text_has_stands_for_it(tmp_path: Path) -> None:
    known = tokenizer(separated=False)
    _, found, opened = written(tmp_path, known=known)
    assert opened.header["tokenizer.ggml.eos_token_id"] == known.vocab["\xf5"]
    assert known.decode([known.vocab["\xf5"]]) == "\ufffd"
    assert any("no token that ends a document" in warning for warning in found.notes)


def test_a_byte_tokenizer_is_a_bpe_without_merges(tmp_path: Path) -> None:
    _, _, opened = written(tmp_path, known=tokenizer(schema.ByteTokenizer()))
    assert opened.header["tokenizer.ggml.pre"] == "gpt-2"
    (merge,) = opened.header["tokenizer.ggml.merges"]
    assert merge.replace(" ", "") not in opened.header["tokenizer.ggml.tokens"]


def test_ids_without_a_token_are_unused_ones(tmp_path: Path) -> None:
    _, found, opened = written(tmp_path, vocab_size=330)
    assert opened.header["tokenizer.ggml.token_type"][318:] == [1, 3, *[5] * 10]
    assert (
        len(set(opened.header["tokenizer.ggml.tokens"]))
        == 330
        == len(opened.values["token_embd.weight"])
    )
    assert found.notes == ("10 ids of the model have no token; they are written as unused tokens",)


LETTERS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WORDS = {**LETTERS, "use_regex": True}


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_pre_tokenizers_that_llama_cpp_has_are_named(pre: str, tmp_path: Path) -> None:
    _, _, opened = written(tmp_path, known=changed(BPE, **PRE_TOKENIZERS[pre]))
    assert opened.header["tokenizer.ggml.pre"] == pre


def test_added_tokens_that_are_not_special_are_user_defined(tmp_path: Path) -> None:
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    added = json.loads(BPE._text)["added_tokens"]
    tool = {"id": 320, "content": "<tool>", "special": False, **flags}
    _, _, opened = written(tmp_path, known=changed(BPE, added_tokens=[*added, tool]))
    assert opened.header["tokenizer.ggml.token_type"][319:] == [3, 4]
    assert "'<tool>' takes the space" in refusal(
        tmp_path / "r", changed(BPE, added_tokens=[*added, {**tool, "rstrip": True}])
    )


def test_nfc_is_a_warning(tmp_path: Path) -> None:
    _, found, _ = written(tmp_path, known=changed(BPE, normalizer={"type": "NFC"}))
    assert any("form NFC" in warning for warning in found.notes)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (tokenizer(schema.CharTokenizer()), "its tokenizer is a WordLevel, not a byte-level BPE"),
        (
            tokenizer(schema.WordTokenizer(), separated=False),
            "its tokenizer is a WordLevel, not a byte-level BPE",
        ),
        (changed(BPE, pre_tokenizer=splitting(r"\p{L}+")), r"splits text by '\\p{L}+'"),
        (changed(BPE, pre_tokenizer=LETTERS), "does not split text into words"),
        (changed(BPE, pre_tokenizer={**WORDS, "add_prefix_space": True}), "is not byte-level"),
        (changed(BPE, pre_tokenizer={"type": "Whitespace"}), "is not byte-level"),
        (changed(BPE, pre_tokenizer=None), "is not byte-level"),
        (changed(BPE, model={"ignore_merges": True}), "whole words first"),
        (changed(BPE, model={"dropout": 0.1}), "drops merges by chance"),
        (changed(BPE, normalizer={"type": "Lowercase"}), "changes the text first (Lowercase)"),
        (changed(BPE, decoder={"type": "Fuse"}), "does not decode byte by byte"),
    ],
)
def test_tokenizers_that_llama_cpp_has_not_are_refused(
    known: Tokenizer, words: str, tmp_path: Path
) -> None:
    assert words in refusal(tmp_path, known)


# --- writing ---


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A disk that is full after three tensors; numpy's tofile gives no reason, as it does."""
    count: list[int] = []
    real = gguf.GGUFWriter.write_tensor_data

    def refuse(self: Any, tensor: np.ndarray) -> None:
        if len(count) == 3:
            raise OSError("4096 requested and 0 written")
        count.append(tensor.nbytes)
        real(self, tensor)

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", refuse)
    yield count


def test_a_full_disk_leaves_no_file(tmp_path: Path, full: list[int]) -> None:
    save(tmp_path / "model", BPE, **HEADS)
    with pytest.raises(FlyweightError, match="the disk is full"):
        export.write(tmp_path / "model", tmp_path / "out" / "m.gguf")
    assert len(full) == 3
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_is_made_and_a_file_that_is_there_never_replaced(tmp_path: Path) -> None:
    save(tmp_path / "model", BPE, **HEADS)
    out = tmp_path / "new" / "folder" / "m.gguf"
    first = export.write(tmp_path / "model", out, "f32")
    before = out.read_bytes()
    with pytest.raises(RequestError, match="something already"):
        export.write(tmp_path / "model", out, "q8_0")
    assert out.read_bytes() == before
    second = export.write(tmp_path / "model", out.with_name("small.gguf"), "q8_0", name="a name")
    assert second.bytes < first.bytes == out.stat().st_size
    assert Opened(out.with_name("small.gguf")).header["general.name"] == "a name"
    assert sorted(path.name for path in out.parent.iterdir()) == ["m.gguf", "small.gguf"]
    (tmp_path / "link.gguf").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="something already"):
        export.write(tmp_path / "model", tmp_path / "link.gguf")


def test_errors_of_the_system_keep_their_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    save(tmp_path / "model", BPE, **HEADS)
    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", refuse)
    with pytest.raises(FlyweightError, match="Input/output error"):
        export.write(tmp_path / "model", tmp_path / "m.gguf")
