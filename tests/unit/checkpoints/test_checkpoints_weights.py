"""Which files are read, and what may be in them: what transformers would load, or a message that says what there is."""

import json

import hub_fixture
import pytest
import torch
from safetensors.torch import load_file, save_file

from flyweight.api import model_references
from flyweight.checkpoints import convert, foreign_model, read
from flyweight.errors import FlyweightError, RequestError
from flyweight.store.artifact import Store

ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "owner/base"}


@pytest.fixture
def folder(tmp_path):
    hub_fixture.save("llama", tmp_path / "hf")
    return tmp_path / "hf"


def changed(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_one_file_comes_before_an_index(folder, tmp_path):
    expected = convert.decoder(read.read(folder))[1]
    hub_fixture.save("llama", tmp_path / "parts", seed=1, shard="20KB")
    for file in tmp_path.glob("parts/model*"):
        file.rename(folder / file.name)
    source = read.read(folder)
    assert source.weights == ("model.safetensors",) and read.INDEX not in source.files
    assert torch.equal(convert.decoder(source)[1]["norm.weight"], expected["norm.weight"])
    assert all("-of-" in name for name in source.unread) and len(source.unread) > 1


def test_a_variant_beside_the_weights_is_not_read_and_named(folder, tmp_path):
    (folder / "model.fp16.safetensors").write_bytes(b"anything")
    (folder / "consolidated.safetensors").write_bytes(b"anything")
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    (folder / "training_args.bin").write_bytes(b"anything")
    expected = ["consolidated.safetensors", "model.fp16.safetensors", "pytorch_model.bin"]
    artifact = model_references.find(folder, Store(tmp_path / "runs"))
    assert artifact.facts["unread"] == expected
    assert "model.fp16.safetensors" in (artifact.path / "README.md").read_text()


@pytest.mark.parametrize(
    "name",
    ["model.fp16.safetensors", "consolidated.safetensors", "model-00001-of-00002.safetensors"],
)
def test_weights_of_another_name_are_named(name, folder):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(
        RequestError, match=f"has neither model.safetensors nor .*, but {name}.*rename"
    ):
        read.read(folder)


def test_an_adapter_is_never_left_out_in_silence(folder, tmp_path):
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    with pytest.raises(RequestError, match=r"an adapter of peft's .* lies beside the model"):
        read.read(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(
        RequestError,
        match=r"not a whole model; its base is 'owner/base'.*--onto MODEL.*merge_and_unload",
    ) as caught:
        model_references.find(folder, Store(tmp_path / "runs"))
    assert str(folder) in str(caught.value)
    for broken in ("", "[]", "{}", "[" * 100_000):
        (folder / "adapter_config.json").write_text(broken)
        with pytest.raises(RequestError, match="its base is not named"):
            read.read(folder)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.int8,
        torch.uint8,
        torch.int32,
        torch.int64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.complex64,
    ],
)
def test_weights_that_are_no_floats_are_refused_by_name(dtype, folder):
    name = "model.layers.1.mlp.up_proj.weight"
    changed(folder, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    with pytest.raises(RequestError, match=rf"quantized: {name} \("):
        read.read(folder)


@pytest.mark.parametrize(
    ("end", "format"),
    [
        ("qweight", "GPTQ or AWQ"),
        ("weight_packed", "compressed-tensors"),
        ("weight.absmax", "bitsandbytes"),
        ("weight_scale_inv", "FP8"),
        ("gate_up_proj_blocks", "MXFP4"),
    ],
)
def test_the_tensors_of_quantized_formats_are_known(end, format, folder):
    changed(
        folder, lambda tensors: tensors.update({f"model.layers.0.mlp.up_proj.{end}": torch.ones(4)})
    )
    with pytest.raises(RequestError, match=rf"up_proj\.{end} \(F32, as in {format}\)"):
        read.read(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_every_size_are_read(dtype, folder):
    changed(
        folder,
        lambda tensors: tensors.update(
            {name: tensor.to(dtype) for name, tensor in tensors.items()}
        ),
    )
    assert {tensor.dtype for tensor in convert.decoder(read.read(folder))[1].values()} == {dtype}


@pytest.fixture
def mistral(tmp_path):
    hub_fixture.save_family("mistral", tmp_path / "hf")
    return tmp_path / "hf"


def test_unused_and_missing_tensors_of_foreign_models_are_listed(mistral):
    names = [f"model.layers.{layer}.self_attn.q_proj.bias" for layer in (0, 1)]
    changed(mistral, lambda tensors: tensors.update({name: torch.ones(32) for name in names}))
    with pytest.raises(FlyweightError, match=f"{names[0]}, {names[1]} have no use"):
        foreign_model.load(mistral)
    changed(mistral, lambda tensors: [tensors.pop(name) for name in [*names, "model.norm.weight"]])
    with pytest.raises(FlyweightError, match=r"model\.norm\.weight are missing"):
        foreign_model.load(mistral)


@pytest.mark.parametrize(
    "fields", [{"hidden_size": 2**20}, {"vocab_size": 2**30}, {"num_hidden_layers": 9000}]
)
def test_a_model_that_is_not_in_its_files_is_not_built(fields, mistral):
    path = mistral / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(RequestError, match=r"its files hold \d"):
        foreign_model.load(mistral)


@pytest.mark.parametrize("name", ["gpt2", "llama-head-dim-tied", "qwen3-tied"])
def test_a_table_may_be_kept_under_the_name_of_the_head_that_it_is_tied_to(name, tmp_path):
    hub_fixture.save(name, tmp_path)
    expected = convert.decoder(read.read(tmp_path))[1]["embedding.tokens.weight"]
    table = "transformer.wte.weight" if name == "gpt2" else "model.embed_tokens.weight"
    changed(tmp_path, lambda tensors: tensors.update({"lm_head.weight": tensors.pop(table)}))
    assert torch.equal(convert.decoder(read.read(tmp_path))[1]["embedding.tokens.weight"], expected)


def test_a_weight_of_booleans_is_refused(folder):
    changed(
        folder,
        lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"].bool()}),
    )
    with pytest.raises(FlyweightError, match=r"weights that are not floats: model\.norm\.weight"):
        convert.decoder(read.read(folder))


@pytest.mark.parametrize(
    "named", ["", ".", "..", "../x.safetensors", "/etc/passwd", "a/b.safetensors", None, 3, ["x"]]
)
def test_an_index_names_files_beside_it_alone(named, folder):
    (folder / "model.safetensors").unlink()
    (folder / read.INDEX).write_text(json.dumps({"weight_map": {"x": named}}))
    with pytest.raises(
        RequestError, match=r"is not (the name of a file beside it|a safetensors file)"
    ):
        read.read(folder)


@pytest.mark.parametrize("kind", ["folder", "dangling", "itself"])
def test_weights_that_are_no_file_are_said_to_be_none(kind, folder):
    place = folder / "model.safetensors"
    place.unlink()
    if kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("nowhere" if kind == "dangling" else place.name)
    with pytest.raises(
        RequestError, match=r"model\.safetensors is not a file \(a folder, a pipe or a link"
    ):
        read.read(folder)
