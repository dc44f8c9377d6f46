"""Models from elsewhere: families and config variants, each equal to transformers' own model or refused, none different.

    python benchmarks/elsewhere.py [--only WORD] [--data-dir FOLDER]

Every model is tiny and random, made through transformers; a variant then edits its config.json or its files as other people's
models come. transformers' logits of 2 x 60 tokens are the truth; equal means within 1e-4 of the largest.  results/elsewhere.csv
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's library is imported
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import elsewhere_more
import hub_fixture
import torch
import transformers
from rows import Rows
from safetensors.torch import load_file, save_file

from flyweight.api import model_references
from flyweight.checkpoints import load_any as hub
from flyweight.errors import FlyweightError
from flyweight.store.artifact import Store

BOUND = 1e-4
LINEAR = {"rope_type": "linear", "factor": 2.0}
SLIDING = ["sliding_attention"] * 3
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "rope_theta": 1e4,
    "original_max_position_embeddings": 16,
}
LONG = {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.5] * 5, "long_factor": [2.0] * 5}
Edit = dict[str, Any]

CONFIGS: dict[str, tuple[str, Edit]] = {
    "rope_scaling, type linear": (
        "llama",
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ),
    "rope_scaling, rope_type linear": (
        "llama",
        {"rope_parameters": None, "rope_scaling": LINEAR},
    ),
    "rope_scaling linear beside rope_parameters": (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
    ),
    "rope_scaling yarn beside rope_parameters": ("qwen3", {"rope_scaling": YARN}),
    "rope_parameters, type linear": (
        "llama",
        {"rope_parameters": {"type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "rope_parameters without rope_theta": ("llama", {"rope_parameters": {"rope_type": "default"}}),
    "rope_theta beside rope_parameters": ("llama", {"rope_theta": 777.0}),
    "rope_theta alone": ("llama", {"rope_parameters": None, "rope_theta": 777.0}),
    "rope_theta inside rope_scaling": (
        "llama",
        {
            "rope_parameters": None,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 777.0},
        },
    ),
    "rope, no field at all": ("llama", {"rope_parameters": None}),
    "rope llama3": ("llama", {"rope_parameters": {**hub_fixture.LLAMA3}}),
    "rope llama3 as rope_scaling": (
        "llama",
        {"rope_parameters": None, "rope_scaling": hub_fixture.LLAMA3},
    ),
    "rope yarn": ("llama", {"rope_parameters": YARN}),
    "rope yarn, qwen3": ("qwen3", {"rope_parameters": YARN}),
    "rope dynamic": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "rope longrope": ("llama", {"rope_parameters": {**LONG, "rope_theta": 1e4}}),
    "rope, unknown type": ("llama", {"rope_parameters": {"rope_type": "wavy", "rope_theta": 1e4}}),
    "rope, factor of text": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": "2", "rope_theta": 1e4}},
    ),
    "partial_rotary_factor": ("llama", {"partial_rotary_factor": 0.5}),
    "is_causal false": ("llama", {"is_causal": False}),
    "is_causal false, qwen3": ("qwen3", {"is_causal": False}),
    "return_dict false": ("llama", {"return_dict": False}),
    "use_return_dict false, gpt2": ("gpt2", {"return_dict": False}),
    "use_cache false": ("llama", {"use_cache": False}),
    "output_hidden_states": ("llama", {"output_hidden_states": True}),
    "output_attentions": ("llama", {"output_attentions": True}),
    "pretraining_tp 2": ("llama", {"pretraining_tp": 2}),
    "attention_dropout": ("llama", {"attention_dropout": 0.5}),
    "rms_norm_eps": ("llama", {"rms_norm_eps": 0.3}),
    "hidden_act gelu": ("llama", {"hidden_act": "gelu"}),
    "hidden_act relu": ("llama", {"hidden_act": "relu"}),
    "hidden_activation beside hidden_act": ("llama", {"hidden_activation": "relu"}),
    "layer_types, all full": ("llama", {"layer_types": ["full_attention"] * 3}),
    "layer_types, sliding": ("llama", {"layer_types": SLIDING, "sliding_window": 8}),
    "sliding_window, llama": ("llama", {"sliding_window": 8}),
    "sliding_window, qwen3": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "layer_types sliding without a window, qwen3": (
        "qwen3",
        {"layer_types": SLIDING, "sliding_window": None},
    ),
    "layer_types sliding, qwen3": ("qwen3", {"layer_types": SLIDING, "sliding_window": 8}),
    "text_config": ("llama", {"text_config": {"rms_norm_eps": 0.3}}),
    "attn_implementation eager": ("llama", {"attn_implementation": "eager"}),
    "attn_implementation of a repository": ("llama", {"attn_implementation": "owner/kernel"}),
    "_attn_implementation of a repository": ("llama", {"_attn_implementation": "owner/kernel"}),
    "auto_map": ("llama", {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}),
    "another architecture": ("llama", {"architectures": ["LlamaForSequenceClassification"]}),
    "tie_word_embeddings with another head": ("llama", {"tie_word_embeddings": True}),
    "head_dim null": ("llama", {"head_dim": None}),
    "num_key_value_heads null": ("llama-biases-mha", {"num_key_value_heads": None}),
    "a field nobody knows": ("llama", {"flavour": "sweet"}),
    "quantization_config gptq": (
        "llama",
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    ),
    "quantization_config fp8": ("llama", {"quantization_config": {"quant_method": "fp8"}}),
    "quantization_config bitnet": ("llama", {"quantization_config": {"quant_method": "bitnet"}}),
    "layers 1e9": ("llama", {"num_hidden_layers": 10**9}),
    "layers -1": ("llama", {"num_hidden_layers": -1}),
    "layers true": ("llama", {"num_hidden_layers": True}),
    "hidden_size 40.0": ("llama", {"hidden_size": 40.0}),
    "vocab_size 1e12": ("gpt2", {"vocab_size": 10**12}),
    "eps NaN": ("llama", {"rms_norm_eps": float("nan")}),
    "gpt2, hidden_size and aliases": (
        "gpt2",
        {
            "n_embd": None,
            "hidden_size": 36,
            "n_layer": None,
            "num_hidden_layers": 3,
            "n_head": None,
            "num_attention_heads": 3,
        },
    ),
    "gpt2, max_position_embeddings": ("gpt2", {"n_positions": None, "max_position_embeddings": 32}),
    "gpt2, scale_attn_weights false": ("gpt2", {"scale_attn_weights": False}),
    "gpt2, scale_attn_by_inverse_layer_idx": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2, reorder_and_upcast_attn": ("gpt2", {"reorder_and_upcast_attn": True}),
    "gpt2, activation relu": ("gpt2", {"activation_function": "relu"}),
    "gpt2, activation quick_gelu": ("gpt2", {"activation_function": "quick_gelu"}),
    "gpt2, layer_norm_epsilon": ("gpt2", {"layer_norm_epsilon": 0.3}),
    "gpt2, add_cross_attention": ("gpt2", {"add_cross_attention": True}),
    "gpt2, is_causal false": ("gpt2", {"is_causal": False}),
    **elsewhere_more.CONFIGS,
}


def _another_name(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")


def _two_files(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor * 2 for name, tensor in tensors.items()},
        folder / "model.fp16.safetensors",
        {"format": "pt"},
    )


def _changed(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            folder / "model.safetensors",
            {"format": "pt"},
        )

    return edit


def _to(dtype: torch.dtype) -> Callable[[Path], Any]:
    return _changed(
        lambda tensors: tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})
    )


def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]})
    )
    save_file({"base_model.model.x": torch.ones(2)}, folder / "adapter_model.safetensors")


def _adapter_alone(folder: Path) -> None:
    _adapter(folder)
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _linked(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "outside.safetensors")


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])


def _bare(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("model.")]:
        tensors[name.removeprefix("model.")] = tensors.pop(name)


def _renamed(change: Callable[[str], str]) -> Callable[[Path], Any]:
    return _changed(lambda t: [t.update({change(name): t.pop(name)}) for name in list(t)])


def _more(**tensors: torch.Tensor) -> Callable[[Path], Any]:
    return _changed(
        lambda t: t.update({name.replace("__", "."): tensor for name, tensor in tensors.items()})
    )


def _head(plus: float | None) -> Callable[[Path], Any]:
    """Save a head beside the table that it is tied to, or with None in its place."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        table = next(
            name for name in tensors if name.endswith(("embed_tokens.weight", "wte.weight"))
        )
        tensors["lm_head.weight"] = tensors.pop(table) if plus is None else tensors[table] + plus

    return _changed(change)


def _masks(tensors: dict[str, torch.Tensor]) -> None:
    for layer in range(3):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.uint8)
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)


def _frequencies(tensors: dict[str, torch.Tensor]) -> None:
    tensors.update(
        {
            f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.full((5,), 0.1)
            for layer in range(3)
        }
    )


Shards = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, Any]]


def _shards(
    change: Callable[[Shards], Any] = lambda _: None, after: Callable[[Path], Any] = lambda _: None
) -> Callable[[Path], Any]:
    """Split the weights in two, with an index.

    `change` gets both parts and the index's map, `after` the folder.
    """

    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names, files = sorted(tensors), [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
        halves = names[: len(names) // 2], names[len(names) // 2 :]
        first, second = ({name: tensors[name] for name in half} for half in halves)
        places: dict[str, Any] = {
            name: file for half, file in zip(halves, files, strict=True) for name in half
        }
        change((first, second, places))
        for file, part in zip(files, (first, second), strict=True):
            save_file(part, folder / file, {"format": "pt"})
        (folder / INDEX).write_text(
            json.dumps({"metadata": {"total_size": 1}, "weight_map": places})
        )
        after(folder)

    return edit


def _placed(file: Any) -> Callable[[Path], Any]:
    return _shards(lambda shards: shards[2].update({"model.norm.weight": file}))


def _swapped(folder: Path) -> None:
    one, two = sorted(folder.glob("model-*.safetensors"))
    one.rename(folder / "x")
    two.rename(one)
    (folder / "x").rename(two)


def _described(metadata: dict[str, str] | None) -> Callable[[Path], Any]:
    return lambda folder: save_file(
        load_file(folder / "model.safetensors"), folder / "model.safetensors", metadata
    )


def _beside(name: str, content: Any) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(json.dumps(content))


def _instead(name: str, kind: str) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        if kind == "folder":
            (folder / name).mkdir()
        elif kind == "pipe":
            os.mkfifo(folder / name)
        elif kind == "empty":
            (folder / name).touch()
        else:
            (folder / name).symlink_to(kind)

    return edit


def _without_weights(index: Any) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / INDEX).write_text(json.dumps(index))

    return edit


def _says(change: Callable[[Path], Any], **fields: Any) -> Callable[[Path], Any]:
    """Change the files, and what the config says.

    With `hidden_act: relu` a Llama goes behind the adapter.
    """

    def edit(folder: Path) -> None:
        change(folder)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return edit


def _pickled_index(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    _pickled(folder)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "pytorch_model.bin")}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def _norm(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], Any]:
    return _changed(lambda t: t.update({"model.norm.weight": change(t["model.norm.weight"])}))


def _nothing(folder: Path) -> None:
    pass


INDEX = "model.safetensors.index.json"
HALF_HEAD = _changed(lambda t: t.update({"lm_head.weight": t["lm_head.weight"].bfloat16()}))
MORE_FILES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "shards": ("llama", _shards()),
    "shards, one missing": (
        "llama",
        _shards(after=lambda folder: next(folder.glob("model-*")).unlink()),
    ),
    "shards, swapped": ("llama", _shards(after=_swapped)),
    "shards that overlap": (
        "llama",
        _shards(lambda s: s[1].update({k: v + 1 for k, v in list(s[0].items())[:1]})),
    ),
    "shards, a tensor that the index lacks": (
        "llama",
        _shards(lambda s: s[0].update({"model.x": torch.ones(2)})),
    ),
    "shards, a tensor taken out of the index": (
        "llama",
        _shards(lambda s: s[2].pop("lm_head.weight")),
    ),
    "index, another shard": ("llama", _placed("other.safetensors")),
    "index, a shard outside": ("llama", _placed("../outside.safetensors")),
    "index, an absolute path": ("llama", _placed("/etc/passwd")),
    "index, a shard in a folder": ("llama", _placed("a/b.safetensors")),
    "index, null": ("llama", _placed(None)),
    "index, no name": ("llama", _placed("")),
    "index, a dot": ("llama", _placed(".")),
    "index, the config": ("llama", _placed("config.json")),
    "index beside the whole file": (
        "llama",
        _beside(INDEX, {"weight_map": {"a": "b.safetensors"}}),
    ),
    "index alone, a list": ("llama", _without_weights([])),
    "index alone, empty": ("llama", _without_weights({"weight_map": {}})),
    "index alone, without a map": ("llama", _without_weights({"metadata": {}})),
    "index of pickles": ("llama", _pickled_index),
    "index of pickles beside": (
        "llama",
        _beside("pytorch_model.bin.index.json", {"weight_map": {"a": "b.bin"}}),
    ),
    "names with model. twice": ("llama", _renamed("model.{}".format)),
    "names with model. twice, adapter": (
        "llama",
        _says(_renamed("model.{}".format), hidden_act="relu"),
    ),
    "names with module.": ("llama", _renamed("module.{}".format)),
    "names with _orig_mod.": ("llama", _renamed("_orig_mod.{}".format)),
    "names with base_model.model.": ("llama", _renamed("base_model.model.{}".format)),
    "names without transformer., gpt2": (
        "gpt2",
        _renamed(lambda name: name.removeprefix("transformer.")),
    ),
    "names with gamma and beta": (
        "gpt2",
        _renamed(lambda name: name.replace("ln_f.weight", "ln_f.gamma")),
    ),
    "names with layers.01": (
        "llama",
        _renamed(lambda name: name.replace("layers.1.", "layers.01.")),
    ),
    "no metadata": ("llama", _described(None)),
    "metadata of tf": ("llama", _described({"format": "tf"})),
    "metadata of nobody": ("llama", _described({"format": "wavy"})),
    "a tensor without dimensions": ("llama", _norm(lambda norm: norm[0])),
    "a tensor with one dimension more": ("llama", _norm(lambda norm: norm[None])),
    "an empty tensor": ("llama", _norm(lambda norm: norm[:0])),
    "an empty tensor more": ("llama", _more(model__empty=torch.zeros(0))),
    "a norm in bool": ("llama", _norm(torch.Tensor.bool)),
    "a norm in bool, adapter": ("llama", _says(_norm(torch.Tensor.bool), hidden_act="relu")),
    "a norm in int64": ("llama", _norm(torch.Tensor.long)),
    "a norm in complex64": ("llama", _norm(lambda norm: norm.to(torch.complex64))),
    "a norm in float64": ("llama", _norm(torch.Tensor.double)),
    "a norm in float16": ("llama", _norm(torch.Tensor.half)),
    "a norm in float16, adapter": ("llama", _says(_norm(torch.Tensor.half), hidden_act="relu")),
    "a norm of 1e38": ("llama", _norm(lambda norm: norm.fill_(1e38))),
    "no tensors": (
        "llama",
        lambda folder: save_file({}, folder / "model.safetensors", {"format": "pt"}),
    ),
    "a tied head twice": ("llama-head-dim-tied", _head(0.0)),
    "a tied head twice, unequal": ("llama-head-dim-tied", _head(1.0)),
    "a tied head twice, unequal, adapter": (
        "llama-head-dim-tied",
        _says(_head(1.0), hidden_act="relu"),
    ),
    "a tied head twice, unequal, gpt2": ("gpt2", _head(1.0)),
    "a tied head in place of the table": ("llama-head-dim-tied", _head(None)),
    "a tied head in place of the table, gpt2": ("gpt2", _head(None)),
    "a tied head in place of the table, qwen3": ("qwen3-tied", _head(None)),
    "inv_freq of other values": ("llama", _changed(_frequencies)),
    "inv_freq of other values, adapter": (
        "llama",
        _says(_changed(_frequencies), hidden_act="relu"),
    ),
    "masks, gpt2": ("gpt2", _changed(_masks)),
    "cos_cached": (
        "llama",
        _more(model__layers__0__self_attn__rotary_emb__cos_cached=torch.ones(4, 5)),
    ),
    "a bias of the head": ("llama", _more(lm_head__bias=torch.ones(97))),
    "a q_norm in a llama": (
        "llama",
        _more(model__layers__0__self_attn__q_norm__weight=torch.ones(10)),
    ),
    "a value head": ("llama", _more(v_head__summary__weight=torch.ones(1, 40))),
    "a layer too few": (
        "llama",
        _changed(lambda t: [t.pop(name) for name in list(t) if ".layers.2." in name]),
    ),
    "a LoRA in the weights": (
        "llama",
        _more(model__layers__0__self_attn__q_proj__lora_A__weight=torch.ones(2, 40)),
    ),
    "a scale of quantized weights": (
        "llama",
        _more(model__layers__0__mlp__up_proj__weight_scale=torch.ones(1)),
    ),
    "a tensor without a name": ("llama", _changed(lambda t: t.update({"": torch.ones(2)}))),
    "a matrix transposed": (
        "llama",
        _changed(lambda t: t.update({"lm_head.weight": t["lm_head.weight"].T})),
    ),
    "an empty file": ("llama", _instead("model.safetensors", "empty")),
    "a folder for weights": ("llama", _instead("model.safetensors", "folder")),
    "a pipe for weights": ("llama", _instead("model.safetensors", "pipe")),
    "a link to itself for weights": ("llama", _instead("model.safetensors", "model.safetensors")),
    "a dangling link for weights": ("llama", _instead("model.safetensors", "nowhere")),
    "a pipe for the tokenizer": ("llama", _instead("tokenizer.json", "pipe")),
    "an empty generation_config.json": ("llama", _instead("generation_config.json", "empty")),
    "a list for generation_config.json": ("llama", _beside("generation_config.json", [1])),
    "generation_config.json with other fields": (
        "llama",
        _beside("generation_config.json", {"tie_word_embeddings": True}),
    ),
    "generation_config.json, code of a repository": (
        "llama",
        _beside("generation_config.json", {"custom_generate": "o/r"}),
    ),
    "quantize_config.json beside": ("llama", _beside("quantize_config.json", {"bits": 4})),
    "quant_config.json beside": ("llama", _beside("quant_config.json", {"w_bit": 4})),
    "modeling_llama.py beside": ("llama", _beside("modeling_llama.py", 1)),
    "adapter weights without a config": (
        "llama",
        lambda f: save_file({"x": torch.ones(2)}, f / "adapter_model.safetensors"),
    ),
    "a config in UTF-16": (
        "llama",
        lambda f: (f / "config.json").write_bytes((f / "config.json").read_text().encode("utf-16")),
    ),
    "weights in bfloat16, a config of float32": (
        "llama",
        _says(_to(torch.bfloat16), dtype="float32"),
    ),
    "weights in float32, a config of bfloat16": ("llama", _says(_nothing, dtype="bfloat16")),
    "weights in float32, a config of bfloat16, adapter": (
        "llama",
        _says(_nothing, dtype="bfloat16", hidden_act="relu"),
    ),
    "weights in float64, a config of float16, adapter": (
        "llama",
        _says(_to(torch.float64), dtype="float16", hidden_act="relu"),
    ),
    "a head in bfloat16, no dtype, adapter": (
        "llama",
        _says(HALF_HEAD, dtype=None, hidden_act="relu"),
    ),
}

FILES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a variant alone, fp16": ("llama", _another_name),
    "a variant beside the weights": ("llama", _two_files),
    "an adapter beside its base": ("llama", _adapter),
    "an adapter alone": ("llama", _adapter_alone),
    "an unused tensor": (
        "llama",
        _changed(lambda tensors: tensors.update({"model.extra.weight": torch.ones(3)})),
    ),
    "an unused bias": (
        "llama",
        _changed(lambda tensors: tensors.update({"model.norm.bias": torch.ones(40)})),
    ),
    "a missing tensor": ("llama", _changed(lambda tensors: tensors.pop("model.norm.weight"))),
    "a tensor of another shape": (
        "llama",
        _changed(lambda t: t.update({"model.norm.weight": torch.ones(7)})),
    ),
    "tensors of the bare model": ("llama", _changed(_bare)),
    "weights in float16": ("llama", _to(torch.float16)),
    "weights in bfloat16": ("llama", _to(torch.bfloat16)),
    "weights in float64": ("llama", _to(torch.float64)),
    "weights in int8": ("llama", _to(torch.int8)),
    "weights in fp8": ("llama", _to(torch.float8_e4m3fn)),
    "a tensor of NaN": ("llama", _changed(lambda t: t["model.norm.weight"].fill_(float("nan")))),
    "pickled weights": ("llama", _pickled),
    "weights linked from outside": ("llama", _linked),
    "weights cut off": ("llama", _truncated),
    **MORE_FILES,
}


@dataclass(frozen=True)
class Case:
    """A folder to be made and looked at."""

    group: str
    name: str
    make: Callable[[Path], Any]


def cases() -> Iterator[Case]:
    """Yield every case."""
    for name in hub_fixture.CHECKPOINTS:
        yield Case(
            "native", name, lambda folder, name=name: hub_fixture.save(name, folder) and None
        )
    for name in hub_fixture.FAMILIES:
        yield Case(
            "family", name, lambda folder, name=name: hub_fixture.save_family(name, folder) and None
        )
    for name, (kind, fields) in elsewhere_more.FAMILIES.items():
        yield Case(
            "family",
            name,
            lambda f, kind=kind, fields=fields: hub_fixture.save_kind(kind, fields, f) and None,
        )
    for name, (base, edit) in CONFIGS.items():
        yield Case("config", name, lambda folder, base=base, edit=edit: _edited(folder, base, edit))
    for name, (base, change) in FILES.items():
        yield Case(
            "files", name, lambda folder, base=base, change=change: _filed(folder, base, change)
        )


def _edited(folder: Path, base: str, edit: Edit) -> None:
    hub_fixture.save(base, folder)
    path = folder / "config.json"
    raw = {**json.loads(path.read_text()), **edit}
    keep_null = {"head_dim", "num_key_value_heads", "sliding_window"}
    raw = {key: value for key, value in raw.items() if value is not None or key in keep_null}
    path.write_text(json.dumps(raw))


def _filed(folder: Path, base: str, change: Callable[[Path], Any]) -> None:
    hub_fixture.save(base, folder)
    change(folder)


def judged(folder: Path, runs: Path) -> tuple[str, str]:
    """Return how a folder is read here: `equal` or `DIFFERENT` to transformers, or `refused`, and what there is to say."""
    try:
        found = model_references.find(folder, Store(runs))
        ours = hub.load(found.path / "model").float().eval()
    except FlyweightError as error:
        return "refused", str(error).replace(str(folder), "MODEL").replace(str(runs), "RUNS")
    except Exception as error:  # what the command line would show as a traceback
        return "TRACEBACK", f"{type(error).__name__}: {str(error)[:160]}"
    try:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).eval()
        theirs.config.return_dict = True
    except Exception as error:  # whatever transformers says to a folder that we read
        return "ONLY HERE", f"transformers: {type(error).__name__}: {str(error)[:160]}"
    tokens = torch.randint(
        90, (2, min(60, ours.config.context or 60)), generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        expected, got = theirs(tokens, return_dict=True).logits, ours(tokens)
    largest = ((got - expected).abs().max() / expected.abs().max()).item()
    return ("equal" if largest <= BOUND else "DIFFERENT"), f"{largest:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="a word that stands in a case's group or name")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows, lines, counts = Rows("elsewhere"), list[str](), dict[str, int]()
    with tempfile.TemporaryDirectory() as place:
        for case in cases():
            if options.only not in f"{case.group}: {case.name}":
                continue
            folder = Path(place) / "model"
            shutil.rmtree(folder, ignore_errors=True)
            case.make(folder)
            verdict, said = judged(folder, Path(place) / "runs")
            counts[verdict] = counts.get(verdict, 0) + 1
            lines.append(
                f"| {case.group} | {case.name} | {verdict} | {said[:200].replace('|', '/')} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
            rows.add(
                case.group,
                case.name,
                verdict,
                0,
                float(said) if verdict in ("equal", "DIFFERENT") else 1,
                "",
            )
    print(
        "\n".join(
            ["| what | case | outcome | largest difference, or why |", "|---|---|---|---|", *lines]
        )
    )
    print(counts, rows.write(), file=sys.stderr)


if __name__ == "__main__":
    main()
