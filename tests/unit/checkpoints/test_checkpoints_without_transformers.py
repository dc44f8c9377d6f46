"""Imports where transformers is not installed at all: a process in which every import of it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from test_checkpoints_tokenizer_files import SIZE, raw

WIDE = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "vocab_size": SIZE + 1}
ROTARY = {
    "head_dim": 16,
    "intermediate_size": 48,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}
FIELDS = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<e>"}
TOKENIZER = {"tokenizer.json": raw("<e>"), "tokenizer_config.json": FIELDS}

WORK = """
import json, sys
from pathlib import Path
sys.modules["transformers"] = None
import torch
from flyweight.store.artifact import Store
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import FlyweightError
from flyweight.checkpoints import load_any
from flyweight.checkpoints.fetch import imported
place, found = Path(sys.argv[1]), {}
tokens = torch.tensor(json.loads((place / "tokens.json").read_text()))
for folder in sorted(path for path in place.iterdir() if path.is_dir()):
    try:
        made = imported(str(folder), Store(place.parent / "runs"), lambda draft, facts: None).path / "model"
    except FlyweightError as error:
        found[folder.name] = str(error)
        continue
    with torch.no_grad():
        logits = load_any.load(made).eval()(tokens)
    words = Tokenizer.load(made).encode("12 the e\\u0301") if (made / "tokenizer.json").is_file() else None
    found[folder.name] = {"logits": logits.tolist(), "ids": words}
print(json.dumps(found))
"""


def family(name: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    fields = {**WIDE, **({} if name == "GPT2" else ROTARY), **fields}
    config = getattr(transformers, f"{name}Config")(**fields, bos_token_id=SIZE, eos_token_id=SIZE)
    kind = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    return getattr(transformers, kind)(config)


LINEAR = {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}}
YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 5000.0,
        "original_max_position_embeddings": 32,
    }
}
RIGHT = {
    "gpt2": ("GPT2", {}),
    "llama": ("Llama", {}),
    "llama-linear": ("Llama", LINEAR),
    "qwen3": ("Qwen3", {}),
}
REFUSED = {
    "llama-yarn": ("Llama", YARN, "this llama model cannot become one of flyweight's own (.*yarn"),
    "mistral": (
        "Mistral",
        {},
        "this mistral model cannot become one of flyweight's own (its model_type is mistral",
    ),
}
TOKENIZERS = {
    "qwen3-class": (
        {**TOKENIZER, "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer"}},
        "builds another normalizer",
    ),
    "gpt2-merges": (
        {"vocab.json": raw()["model"]["vocab"], "merges.txt": "#version: 0.2\nh e\n"},
        "only older files",
    ),
    "added": ({**TOKENIZER, "added_tokens.json": {"<z>": SIZE + 1}}, "'<z>' of added_tokens.json"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], torch.Tensor]:
    place = tmp_path_factory.mktemp("work") / "models"
    tokens = torch.randint(0, SIZE, (2, 40), generator=torch.Generator().manual_seed(1))
    for name, (kind, fields, *_) in {**RIGHT, **REFUSED}.items():
        family(kind, **fields).save_pretrained(place / name)
        for file, content in TOKENIZER.items():
            (place / name / file).write_text(json.dumps(content))
    for name, (files, _) in TOKENIZERS.items():
        family("Qwen3" if "qwen3" in name else "Llama").save_pretrained(place / name)
        for file, content in files.items():
            (place / name / file).write_text(
                content if isinstance(content, str) else json.dumps(content)
            )
    (place / "tokens.json").write_text(json.dumps(tokens.tolist()))
    told = subprocess.run(
        [sys.executable, "-P", "-c", WORK, str(place)],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=300,
    )
    assert told.returncode == 0, told.stderr
    return place, json.loads(told.stdout), tokens


@pytest.mark.parametrize("name", RIGHT)
def test_models_of_the_families_are_right(
    name: str, found: tuple[Path, dict[str, Any], torch.Tensor]
) -> None:
    place, made, tokens = found
    assert isinstance(made[name], dict), made[name]
    with torch.no_grad():
        wanted = transformers.AutoModelForCausalLM.from_pretrained(place / name)(tokens).logits
    difference = (torch.tensor(made[name]["logits"]) - wanted).abs().max() / wanted.abs().max()
    assert difference < 1e-5
    theirs = transformers.AutoTokenizer.from_pretrained(place / name)
    assert made[name]["ids"] == theirs("12 the e\u0301")["input_ids"]


@pytest.mark.parametrize("name", REFUSED)
def test_others_say_why_they_need_it(
    name: str, found: tuple[Path, dict[str, Any], torch.Tensor]
) -> None:
    first, _, second = REFUSED[name][2].partition(".*")
    message = found[1][name]
    assert first in message and second in message and "pip install 'flyweight[hub]'" in message


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_that_other_files_change_are_refused(
    name: str, found: tuple[Path, dict[str, Any], torch.Tensor]
) -> None:
    message = found[1][name]
    assert TOKENIZERS[name][1] in message and "pip install 'flyweight[hub]'" in message
