"""Every export has an end and a padding token of its own, whatever its corpus' vocabulary: the libraries ask for both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

import flyweight  # noqa: F401 - our model type for the Auto classes
from flyweight.checkpoints import token_rows
from flyweight.checkpoints.fetch import imported
from flyweight.config import schema
from flyweight.config.schema import ModelConfig
from flyweight.data.tokenizer import PAD, SEPARATOR, Tokenizer
from flyweight.data.tokenizer_training import train
from flyweight.formats import hf
from flyweight.model import folder
from flyweight.model.decoder import Decoder
from flyweight.store.artifact import Store

TEXT = ["the cat sat on the mat", "the dog sat", "a dog and a cat and a mat"]
SHAPES = {
    "native": {"mlp": "swiglu", "position": "rope", "norm": "rmsnorm", "attention": {"heads": 2}},
    "own": {"sharing": "repeat", "attention": {"heads": 2}, "head": {"bias": True}},
}
VOCABULARIES = {"published": True, "user": False}


@pytest.fixture(
    scope="module",
    params=[(shape, kind) for shape in SHAPES for kind in VOCABULARIES],
    ids="-".join,
)
def exported(request, tmp_path_factory) -> tuple[Path, Path]:
    """A tiny model with a character vocabulary: its folder, and what it was exported as."""
    shape, kind = request.param
    place = tmp_path_factory.mktemp("export")
    text = "\n".join(TEXT)
    tokenizer = train(
        schema.CharTokenizer(),
        lambda: iter([text]),
        lambda: iter([]),
        len(text),
        False,
        published=VOCABULARIES[kind],
    )
    config = {"context": 64, "dim": 32, "layers": 2, **SHAPES[shape]}
    model = Decoder(ModelConfig.model_validate(config).resolved(tokenizer.vocab_size), seed=3)
    folder.save(model, place / "model")
    tokenizer.save(place / "model" / "tokenizer.json")
    hf.write(place / "model", place / "hf", lambda kind, notes: "card")
    return place / "model", place / "hf"


def test_the_tokens_of_the_model_have_the_same_logits(exported):
    source, out = exported
    model, tokenizer = folder.load(source).eval(), Tokenizer.load(source)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    ids = torch.tensor([tokenizer.encode(TEXT[0])])
    with torch.no_grad():
        ours, found = model(ids), theirs(ids).logits
    rows = ours.shape[-1]
    torch.testing.assert_close(found[..., :rows], ours, rtol=1e-4, atol=1e-5)
    assert theirs.config.vocab_size == Tokenizer.load(out).vocab_size
    if theirs.config.vocab_size > rows:  # added tokens are as unlikely as the least likely one
        like = token_rows.least_likely(model, rows)
        torch.testing.assert_close(found[..., rows:], ours[..., [like, like]], rtol=1e-4, atol=1e-5)


def test_padding_pipelines_and_resizing_work(exported):
    _, out = exported
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    assert (tokenizer.eos_token, tokenizer.pad_token) == (SEPARATOR, PAD)
    assert (
        model.config.pad_token_id
        == tokenizer.pad_token_id
        != tokenizer.eos_token_id
        == model.config.eos_token_id
    )
    batch = tokenizer(TEXT, return_tensors="pt", padding=True, padding_side="left")
    assert (batch.input_ids == tokenizer.pad_token_id).sum() > 0
    alone = tokenizer(TEXT[1], return_tensors="pt")
    with torch.no_grad():
        padded, single = model(**batch).logits[1, -1], model(**alone).logits[0, -1]
    torch.testing.assert_close(padded, single, rtol=1e-4, atol=1e-5)
    pipe = transformers.pipeline(
        "text-generation", model=model, tokenizer=tokenizer, batch_size=3, device="cpu"
    )
    assert len(pipe(TEXT, max_new_tokens=4)) == 3
    before = model(alone.input_ids).logits
    model.resize_token_embeddings(len(tokenizer) + 3)
    after = model(alone.input_ids).logits
    assert after.shape[-1] == len(tokenizer) + 3 == model.config.vocab_size
    torch.testing.assert_close(after[..., : before.shape[-1]], before, rtol=1e-4, atol=1e-5)


def test_sft_trains(exported, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    _, out = exported
    arguments = SFTConfig(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=3, report_to=[], save_strategy="no",
        max_length=32, bf16=False, disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    trainer = SFTTrainer(
        model,
        args=arguments,
        train_dataset=Dataset.from_dict({"text": TEXT}),
        processing_class=tokenizer,
    )
    assert 1 < trainer.train().training_loss < 5


def test_an_export_comes_back_with_its_special_tokens(exported, tmp_path):
    _, out = exported
    store = Store(tmp_path / "runs")
    again = imported(str(out), store, lambda draft, facts: None)
    tokenizer = Tokenizer.load(again.path / "model")
    assert (
        tokenizer.separator == tokenizer.vocab[SEPARATOR] and tokenizer.pad == tokenizer.vocab[PAD]
    )
    assert tokenizer.ends == {tokenizer.separator}


def test_ids_that_only_the_config_names_survive_import_and_export(tmp_path):
    import hub_fixture

    hub_fixture.save("llama", tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(
        json.dumps({**config, "bos_token_id": 4, "eos_token_id": [7, 9]})
    )
    (tmp_path / "hf" / "generation_config.json").unlink(missing_ok=True)
    made = imported(str(tmp_path / "hf"), Store(tmp_path / "runs"), lambda draft, facts: None)
    assert Tokenizer.load(made.path / "model").special.ends == (7, 9)
    hf.write(made.path / "model", tmp_path / "out", lambda kind, notes: "card")
    for name in ("config.json", "generation_config.json"):
        raw = json.loads((tmp_path / "out" / name).read_text())
        assert (
            raw["bos_token_id"] == 4
            and set(raw["eos_token_id"]) >= {7, 9}
            and raw["pad_token_id"] not in (7, 9, None)
        )
