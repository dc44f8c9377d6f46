"""An export is the model, or it is not: planted errors show that the check can fail."""

import json
from pathlib import Path

import numpy as np
import pytest
from gguf_models import CONTEXT, MODELS, TEXT, changed, save, tokenizer
from safetensors.torch import load_file, save_file

from flyweight.compression.pack import pack
from flyweight.compression.prune import prune
from flyweight.compression.quantize import quantize
from flyweight.compression.structured import shrink
from flyweight.config import schema
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import RequestError
from flyweight.formats import gguf, hf, peft, readings
from flyweight.formats.readings import Source
from flyweight.formats.verify import Request, verify, verify_all
from flyweight.model import folder
from flyweight.model.attach import attach
from flyweight.model.build import Model
from flyweight.model.linear_layer import layers_of

transformers = pytest.importorskip("transformers")

NONE = lambda kind, notes: ""  # noqa: E731


@pytest.fixture(scope="module")
def known() -> Tokenizer:
    return tokenizer()


@pytest.fixture(scope="module")
def model(tmp_path_factory, known) -> Path:
    """A small Llama that has learned a little: a mistake has to matter."""
    place = tmp_path_factory.mktemp("verify") / "model"
    save(place, known, steps=15, **MODELS["llama, grouped heads of 32, own head"])
    return place


def request(place: Path, known: Tokenizer, within: float | None = None) -> Request:
    tokens = np.array(known.encode(TEXT)[: 6 * CONTEXT + 20])
    return Request(Source(place, TEXT[:400], CONTEXT), tokens, known.vocab_size, within)


@pytest.fixture
def asked(model, known) -> Request:
    return request(model, known)


def only(exports, program: str):
    (found,) = [each for each in exports if each.program.startswith(program)]
    return found


def edited(place: Path, **fields) -> None:
    """Change fields of a Hugging Face config."""
    file = place / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def transposed(place: Path) -> None:
    tensors = load_file(place / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    square = tensors[name][: tensors[name].shape[1]]
    tensors[name][: len(square)] = square.T.clone()
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})


def another_merge(place: Path) -> None:
    known = Tokenizer.load(place)
    merges = json.loads(known.text)["model"]["merges"]
    changed(known, model={"merges": merges[1:]}).save(place / "tokenizer.json")


def tied_head(place: Path) -> None:
    """The head is left out, and the config says that it is the embedding."""
    tensors = load_file(place / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    edited(place, tie_word_embeddings=True)


PLANTED = {
    "a transposed matrix": transposed,
    "another epsilon": lambda place: edited(place, rms_norm_eps=1e-2),
    "another base of positions": lambda place: edited(
        place, rope_theta=100.0, rope_parameters={"rope_type": "default", "rope_theta": 100.0}
    ),
    "another merge": another_merge,
    "a head that was tied": tied_head,
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_mistake_in_a_hugging_face_folder_fails(asked, model, tmp_path, mistake):
    hf.write(model, tmp_path / "hf", NONE)
    sound = only(verify(asked, tmp_path / "hf"), "transformers")
    assert sound.verdict == "pass" and sound.loss == "lossless", sound.why
    assert sound.agreement is not None
    assert sound.agreement.top_1.value == 1 and sound.agreement.kl_999 < 1e-6
    PLANTED[mistake](tmp_path / "hf")
    failed = only(verify(asked, tmp_path / "hf"), "transformers")
    assert failed.verdict == "fail" and failed.why
    if mistake == "another merge":
        assert "its tokenizer" in failed.why


HEADER = {
    "llama.attention.layer_norm_rms_epsilon": 1e-2,
    "llama.rope.freq_base": 100.0,
}


@pytest.mark.parametrize("field", HEADER)
def test_a_mistake_in_the_header_of_a_gguf_file_fails(asked, model, tmp_path, field):
    import gguf as library

    file = gguf.write(model, tmp_path / "m.gguf", "f32").path
    ways = verify(asked, file)
    sound = only(ways, "flyweight's reader")
    assert (sound.verdict, sound.weaker, sound.loss) == ("pass", True, "lossless")
    llama = only(ways, "llama.cpp")
    assert llama.verdict == "not run" and "not installed" in llama.why
    reader = library.GGUFReader(file, "r+")
    reader.fields[field].parts[reader.fields[field].data[0]][0] = HEADER[field]
    reader.data.flush()
    assert only(verify(asked, file), "flyweight's reader").verdict == "fail"


def test_a_mistake_in_the_tokens_of_a_gguf_file_fails(known, model, tmp_path):
    other = tmp_path / "model"
    folder.save(folder.load(model), other)
    known.save(other / "tokenizer.json")
    another_merge(other)
    file = gguf.write(other, tmp_path / "m.gguf", "f32").path
    failed = only(verify(request(model, known), file), "flyweight's reader")
    assert failed.verdict == "fail" and "merge" in failed.why


@pytest.mark.parametrize("type", ["f16", "q8_0", "q4_0"])
def test_fewer_bits_pass_within_their_limit(known, asked, model, tmp_path, type):
    file = gguf.write(model, tmp_path / "m.gguf", type).path
    found = only(verify(asked, file), "flyweight's reader")
    assert found.loss == ("rounded" if type == "f16" else "quantized")
    assert found.verdict == "pass", found.why
    strict = only(verify(request(model, known, within=1e-9), file), "flyweight's reader")
    assert strict.verdict == "fail" and "at most 1e-09" in strict.why


def test_another_model_fails_and_a_packed_one_passes(known, asked, model, tmp_path):
    save(tmp_path / "other", known, **MODELS["llama"])
    (failed,) = verify(asked, tmp_path / "other")
    assert failed.verdict == "fail" and "nats per token" in failed.why
    folder.save(quantize(folder.load(model), schema.Int8(), schema.Int8()), tmp_path / "packed")
    (packed,) = verify(asked, tmp_path / "packed")
    assert (packed.verdict, packed.loss) == ("pass", "quantized"), packed.why


def test_a_model_with_fewer_tokens_fails(asked, tmp_path):
    small = tokenizer(schema.BpeTokenizer(vocab=300))
    save(tmp_path / "small", small)
    (failed,) = verify(asked, tmp_path / "small")
    assert failed.verdict == "fail"


def adapted(place: Path, model: Path, known: Tokenizer) -> Path:
    tuned = attach(folder.load(model), [schema.Lora(r=2)])
    for name, parameter in tuned.named_parameters():
        if name.endswith(".b"):
            parameter.data.normal_(0, 0.2)
    folder.save(tuned, place)
    known.save(place / "tokenizer.json")
    return place


def test_every_format_that_can_hold_a_model_is_verified(known, model, tmp_path):
    pytest.importorskip("peft")
    tuned = adapted(tmp_path / "tuned", model, known)
    result = verify_all(request(tuned, known), model, "before")
    verdicts = {each.export: each.verdict for each in result.exports}
    assert verdicts["Hugging Face folder"] == verdicts["adapter of peft's"] == "pass"
    assert verdicts["GGUF file, f32"] == "not run"
    # An adapter that does something makes another model than the one before.
    assert verdicts["the model before it, before"] == "fail" and not result.passed
    assert verify_all(request(model, known)).passed


def test_an_adapter_that_was_changed_fails(known, model, tmp_path):
    pytest.importorskip("peft")
    tuned = adapted(tmp_path / "tuned", model, known)
    peft.write(tuned, tmp_path / "adapter", NONE)
    (sound,) = verify(request(tuned, known), tmp_path / "adapter")
    assert sound.verdict == "pass", sound.why
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "lora_alpha": 2 * config["lora_alpha"]}))
    (failed,) = verify(request(tuned, known), tmp_path / "adapter")
    assert failed.verdict == "fail"
    (other,) = verify(request(model, known), tmp_path / "adapter")
    assert other.verdict == "fail" and "another model" in other.why


def test_what_is_not_an_export_is_refused(asked, known, model, tmp_path, monkeypatch):
    with pytest.raises(RequestError, match="is not an export"):
        verify(asked, tmp_path / "nothing")
    hf.write(model, tmp_path / "hf", NONE)
    (tmp_path / "hf" / "model.safetensors").unlink()
    with pytest.raises(RequestError, match="has no weights"):
        verify(asked, tmp_path / "hf")
    peft.write(adapted(tmp_path / "tuned", model, known), tmp_path / "adapter", NONE)
    monkeypatch.setattr(readings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="pip install peft"):
        verify(asked, tmp_path / "adapter")


def test_a_text_that_is_too_short_is_said(model, known, tmp_path):
    hf.write(model, tmp_path / "hf", NONE)
    short = Request(Source(model, "a", CONTEXT), np.arange(10), known.vocab_size)
    found = only(verify(short, tmp_path / "hf"), "transformers")
    assert found.verdict == "fail" and "--data" in found.why


def pruned(model: Path, form: str) -> Model:
    """Return the model in one of the forms that pruning leaves."""
    fields: dict[str, object] = {"stage": "prune", "input": "m"}
    source = folder.load(model)
    if form == "structured":
        fewer = {**fields, "method": "structured", "heads": 2, "hidden": 64}
        return shrink(source, schema.Prune.model_validate(fewer), 0, [])
    pattern = {"pattern": "2:4"} if form == "two_four" else {"sparsity": 0.7}
    zeros = prune(source, schema.Prune.model_validate({**fields, **pattern}), 0.7)
    return zeros if form == "masked" else pack(zeros)


@pytest.mark.parametrize("form", ["masked", "sparse", "two_four", "structured"])
def test_exports_of_a_pruned_model_are_that_model(known, model, tmp_path, form):
    place = tmp_path / "pruned"
    made = pruned(model, form)
    kinds = {layer.kind.kind for _, layer in layers_of(made)}
    assert ("dense" if form == "structured" else form) in kinds
    folder.save(made, place)
    known.save(place / "tokenizer.json")
    result = verify_all(request(place, known))
    verdicts = {each.export: each.verdict for each in result.exports}
    assert result.passed
    assert verdicts["Hugging Face folder"] == verdicts["GGUF file, f32"] == "pass"
    (before,) = verify(request(place, known), model)
    assert before.verdict == "fail"
