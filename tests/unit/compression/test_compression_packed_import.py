"""Matrices packed as a checkpoint is read: the folder of import and quantize, to the bit, from a few rows at a time."""

import json
import os
import signal
import subprocess
import sys
import time

import hub_fixture
import pytest
import torch
from safetensors.torch import load_file, save_file

import flyweight as fw
from flyweight.api import model_references
from flyweight.checkpoints import convert, proof, read
from flyweight.compression import packed_import
from flyweight.compression.packed_import import ImportPacking
from flyweight.compression.quantize import quantize
from flyweight.config.schema import NF4, Dense, Int3, Int4, Int8, Int8Dynamic
from flyweight.errors import FlyweightError, RequestError
from flyweight.formats import hf
from flyweight.model import folder
from flyweight.store.artifact import Store

KINDS = [NF4(), NF4(double=False, block=32), Int8Dynamic(), Int4(), Int3(group=16)]
FILES = ("config.json", "model.safetensors", "tokenizer.json")


def packed(source, out, kind, embedding, monkeypatch, at_once=1):
    monkeypatch.setattr(packed_import, "AT_ONCE", at_once)
    done = []
    found = convert.source_of(read.read(source))
    ImportPacking(kind, embedding).write(found, out, done.append)
    assert done == sorted(done) and done[-1] == 1
    return out


def quantized(source, out, kind, embedding):
    config, state = convert.decoder(read.read(source))
    folder.write(config, state, out / "float")
    folder.save(quantize(folder.load(out / "float"), kind, embedding), out / "small")
    return out / "small"


def same(one, other, names=("config.json", "model.safetensors")):
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A checkpoint with more rows than a group of NF4's scales has blocks."""
    place = tmp_path_factory.mktemp("wide")
    fields = {**hub_fixture.LLAMA, "num_hidden_layers": 1, "vocab_size": 700}
    hub_fixture.save_kind("Qwen3ForCausalLM", {**fields, "head_dim": 12}, place)
    return place


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_folder_is_that_of_import_and_quantize_to_the_bit(kind, wide, tmp_path, monkeypatch):
    expected = quantized(wide, tmp_path, kind, kind)
    for at_once in (1, 1 << 22):
        place = tmp_path / str(at_once)
        assert same(packed(wide, place, kind, kind, monkeypatch, at_once), expected)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("gpt2", torch.float32),
        ("gpt2-untied-wide", torch.bfloat16),
        ("llama-head-dim-tied", torch.float64),
        ("qwen3-biases", torch.bfloat16),
    ],
)
def test_families_shards_and_float_types_are_packed_alike(name, dtype, tmp_path, monkeypatch):
    hub_fixture.save(name, tmp_path / "hf", shard="20KB")
    for shard in (tmp_path / "hf").glob("*.safetensors"):
        tensors = {key: tensor.to(dtype) for key, tensor in load_file(shard).items()}
        tensors = {  # some checkpoints keep their norms in float32
            key: tensor.float() if "norm" in key and dtype != torch.float64 else tensor
            for key, tensor in tensors.items()
        }
        save_file(tensors, shard, metadata={"format": "pt"})
    found = packed(tmp_path / "hf", tmp_path / "packed", NF4(), Int8(), monkeypatch)
    assert same(found, quantized(tmp_path / "hf", tmp_path, NF4(), Int8()))


def test_our_own_exports_are_packed_and_packed_ones_refused(tmp_path, monkeypatch):
    hub_fixture.save("llama", tmp_path / "hf")
    store = Store(tmp_path / "runs")
    ours = model_references.find(tmp_path / "hf", store)
    model = folder.load(ours.path / "model")
    deep = {"layers": 3, "sharing": {"kind": "repeat", "times": 2}}
    config = type(model.config).model_validate({**model.config.model_dump(), **deep}).resolved()
    folder.write(config, model.state_dict(), tmp_path / "shared")
    hf.write(tmp_path / "shared", tmp_path / "out", lambda kind, notes: "")
    found = packed(tmp_path / "out", tmp_path / "packed", NF4(), Int8(), monkeypatch)
    assert same(found, quantized(tmp_path / "out", tmp_path, NF4(), Int8()))
    hf.write(found, tmp_path / "again", lambda kind, notes: "")
    with pytest.raises(RequestError, match="quantized already"):
        fw.import_(tmp_path / "again", as_="nf4", session=quiet(tmp_path))


def quiet(tmp_path):
    return fw.Session(runs=tmp_path / "runs", quiet=True)


def test_an_import_as_nf4_is_the_artifact_that_quantize_makes_and_says_what_was_proved(tmp_path):
    hub_fixture.save("qwen3", tmp_path / "hf", shard="20KB")
    session = quiet(tmp_path)
    small = fw.import_(tmp_path / "hf", as_="nf4", session=session)
    whole = fw.import_(tmp_path / "hf", session=session)
    run = fw.quantize(whole, kind="nf4", session=session)
    assert same(small.path / "model", run["quantize"].path / "model", FILES)
    assert small.facts["packed"] == {
        "as": {"kind": "nf4", "block": 64, "double": True},
        "embedding": {"kind": "int8"},
    }
    proved = small.facts["proof"]
    assert proved["layers"] == 2 and proved["vocabulary"] is None
    assert proved["compared_with"].startswith("transformers") and proved["difference"] < proof.BOUND
    assert (
        small.id != whole.id and "its matrices in `nf4`" in (small.path / "README.md").read_text()
    )
    assert not list(small.path.parent.glob("*.partial"))
    assert fw.import_(tmp_path / "hf", as_={"kind": "nf4"}, session=session).id == small.id
    assert fw.import_(tmp_path / "hf", as_="int4", session=session).id != small.id


@pytest.mark.parametrize("name", ["gpt2", "qwen3-tied"])
def test_of_a_large_vocabulary_the_first_tokens_are_compared(name, tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "VOCABULARY", 64)
    hub_fixture.save(name, tmp_path / "hf")
    checkpoint = read.read(tmp_path / "hf")
    source = convert.source_of(checkpoint)
    proved = proof.of_part(checkpoint, source.config, source.rows)
    assert (proved.layers, proved.vocabulary) == (2, 64) and proved.difference <= proof.BOUND
    changed = {**source.config.model_dump(), "norm": {"kind": source.config.norm.kind, "eps": 0.5}}
    wrong = type(source.config).model_validate(changed).resolved()
    with pytest.raises(RequestError, match="differ in their logits"):
        proof.of_part(checkpoint, wrong, source.rows)


def test_bad_checkpoints_are_refused_before_anything_is_packed(tmp_path):
    session = quiet(tmp_path)
    hub_fixture.save("qwen3", tmp_path / "hf", shard="20KB")
    index = json.loads((tmp_path / "hf" / read.INDEX).read_text())
    lost = index["weight_map"]["model.norm.weight"]
    (tmp_path / "hf" / lost).rename(tmp_path / "elsewhere")
    with pytest.raises(FlyweightError, match=rf"{lost} is missing, .*index.json names it"):
        fw.import_(tmp_path / "hf", as_="nf4", session=session)
    (tmp_path / "elsewhere").rename(tmp_path / "hf" / lost)
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = lost
    (tmp_path / "hf" / read.INDEX).write_text(json.dumps(index))
    with pytest.raises(FlyweightError, match=r"its tensors are not those that .* names"):
        fw.import_(tmp_path / "hf", as_="nf4", session=session)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(RequestError, match=r"a file, and models come in as folders"):
        fw.import_(tmp_path / "model.gguf", as_="nf4", session=session)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("import-*"))


def test_packed_foreign_and_unknown_kinds_are_refused(tmp_path):
    session = quiet(tmp_path)
    hub_fixture.save("llama", tmp_path / "hf")
    with pytest.raises(RequestError, match=r"--as nf5: not a kind .* known are int8"):
        fw.import_(tmp_path / "hf", as_="nf5", session=session)
    with pytest.raises(RequestError, match=r"every matrix would stay dense|stores pruned"):
        ImportPacking(Dense(), Dense()).config(convert.config_of(read.read(tmp_path / "hf")))
    with pytest.raises(RequestError, match="--as packs a whole model, and --onto"):
        fw.import_(tmp_path / "hf", as_="nf4", onto="teacher", session=session)
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.qweight"] = torch.ones(2)
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match="its weights are quantized"):
        fw.import_(tmp_path / "hf", as_="nf4", session=session)
    hub_fixture.save_family("mistral, sliding window", tmp_path / "mistral")
    with pytest.raises(RequestError, match="cannot become a model of flyweight's own"):
        fw.import_(tmp_path / "mistral", as_="nf4", session=session)


def test_nan_in_a_row_is_named_and_leaves_nothing_finished(tmp_path):
    hub_fixture.save("llama", tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][50, 3] = float("nan")
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FlyweightError, match=r"layers\.2\.mlp\.up_proj\.weight holds NaN"):
        fw.import_(tmp_path / "hf", as_="nf4", session=quiet(tmp_path))
    assert not [place for place in (tmp_path / "runs").glob("import-????????")]


SLOW = """
import sys, time
import flyweight as fw
from flyweight.compression import packed_import
packed = packed_import._packed
def slow(*given):
    print("packing", flush=True)
    time.sleep(60)
    return packed(*given)
packed_import._packed = slow
fw.import_(sys.argv[1], as_="nf4", session=fw.Session(runs=sys.argv[2], quiet=True))
"""


def test_a_kill_in_the_middle_leaves_nothing_finished_and_the_next_import_is_whole(tmp_path):
    hub_fixture.save("llama", tmp_path / "hf")
    words = [sys.executable, "-c", SLOW, str(tmp_path / "hf"), str(tmp_path / "runs")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as child:
        assert child.stdout is not None and child.stdout.readline() == "packing\n"
        child.send_signal(signal.SIGKILL)
    assert not list((tmp_path / "runs").glob("import-????????"))
    began = time.monotonic()
    made = fw.import_(tmp_path / "hf", as_="nf4", session=quiet(tmp_path))
    assert time.monotonic() - began < 60
    assert not list((tmp_path / "runs").glob("*.partial")) and not (made.path / "source").exists()
    other = fw.Session(runs=tmp_path / "other", quiet=True)
    assert same(
        made.path / "model", fw.import_(tmp_path / "hf", as_="nf4", session=other).path / "model"
    )
