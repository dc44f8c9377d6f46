import json
import shutil

import hub_fixture
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from flyweight.checkpoints import convert, fetch, foreign_model, load_any, read as checkpoint
from flyweight.decode.generate import generate
from flyweight.errors import FlyweightError, RequestError
from flyweight.evaluation import audit
from flyweight.model import folder
from flyweight.store.artifact import Artifact, Store

VOCAB = hub_fixture.VOCAB
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCAB}
LIMITS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "max_position_embeddings": 64}
WIDE = {**SMALL, **LIMITS, "intermediate_size": 48, "num_key_value_heads": 2}
FOREIGN = {
    "neox": ("GPTNeoX", {**SMALL, **LIMITS, "intermediate_size": 48}, True),
    "mistral": ("Mistral", {**WIDE, "sliding_window": None}, True),
    "gemma2": (
        "Gemma2",
        {
            **WIDE,
            "head_dim": 8,
            "final_logit_softcapping": 2.0,
            "layer_types": ["full_attention"] * 2,
        },
        False,
    ),
    "opt": ("OPT", {**SMALL, **LIMITS, "ffn_dim": 48, "word_embed_proj_dim": 32}, True),
    "llama-yarn": (
        "Llama",
        {**WIDE, "rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}},
        True,
    ),
}
each = pytest.mark.parametrize("name", FOREIGN)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, (kind, fields, _) in FOREIGN.items():
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")(
            getattr(transformers, f"{kind}Config")(**fields)
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])
        hub_fixture.tokenizer(made[name])
    return made


@each
def test_logits_and_hidden_states_are_the_models_own(name, folders):
    model = load_any.load(folders[name])
    assert isinstance(model, foreign_model.Foreign)
    assert model._split == FOREIGN[name][2]  # a family that does more to its logits is found out
    tokens = torch.randint(VOCAB, (2, 20), generator=torch.Generator().manual_seed(1))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folders[name]).eval()
    with torch.no_grad():
        expected = theirs(tokens).logits
        torch.testing.assert_close(model(tokens), expected, rtol=1e-4, atol=1e-5)
    assert model.config.vocab_size == VOCAB
    assert model.config.context == 64


@each
def test_the_audit_passes_what_it_can_check(name, folders):
    checks = {check.name: check for check in audit.audit(folders[name], None).checks}
    wanted = (
        "finite_outputs",
        "causality",
        "batch_invariance",
        "padding_invariance",
        "cached_logits",
        "save_load",
        "probabilities",
        "generate_equals_score",
    )
    assert [check for check in checks.values() if check.verdict == "fail"] == []
    assert [
        (n, checks[n].measured, checks[n].why) for n in wanted if checks[n].verdict != "pass"
    ] == []
    assert "that flyweight computes itself" in checks["stored_bytes"].why
    assert checks["stored_bytes"].verdict == "n/a"


@each
def test_generation_is_transformers_own_greedy_one(name, folders):
    model = load_any.load(folders[name])
    prompts = [[5, 6, 7, 8], [9, 10]]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folders[name]).eval()
    found = generate(model, prompts, max_new_tokens=12)
    for prompt, new in zip(prompts, found, strict=True):
        out = theirs.generate(
            torch.tensor([prompt]),
            max_new_tokens=12,
            min_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
        )
        assert out[0, len(prompt) :].tolist() == new


def test_flops_are_counted_with_attention(folders, tmp_path):
    model = load_any.load(folders["neox"])
    small, large = (load_any.forward_flops(model, length) for length in (16, 32))
    parameters = sum(p.numel() for p in model.parameters())
    assert small > 16 * parameters
    assert large - 2 * small == 4 * 2 * 32 * (
        32**2 - 2 * 16**2
    )  # what is left is attention: layers, width, T^2
    hub_fixture.save("llama", tmp_path)
    config, state = convert.decoder(checkpoint.read(tmp_path))
    folder.write(config, state, tmp_path / "ours")
    ours = load_any.forward_flops(load_any.load(tmp_path / "ours"), 24)
    assert (
        load_any.forward_flops(foreign_model.load(tmp_path), 24) == ours
    )  # both counts agree where both exist


def test_it_is_neither_trained_nor_changed(folders):
    with pytest.raises(RequestError, match=r"stages\.x\.input: gpt_neox models can be teachers"):
        load_any.decoder(folders["neox"], what="stages.x.input")
    model = load_any.load(folders["neox"])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(RequestError, match="not trained"):
        model.output(torch.zeros(1))


def test_weights_that_do_not_fit_are_an_error_not_random_numbers(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    found = load_file(folders["neox"] / "model.safetensors")
    found.pop("gpt_neox.layers.1.mlp.dense_h_to_4h.weight")
    (tmp_path / "config.json").write_text((folders["neox"] / "config.json").read_text())
    save_file(found, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FlyweightError, match=r"dense_h_to_4h\.weight are missing"):
        foreign_model.load(tmp_path)


def test_what_is_no_causal_language_model_is_refused(folders, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(
        (folders["neox"] / "model.safetensors").read_bytes()
    )
    for raw in (
        {"model_type": "vit"},
        {"model_type": "no-such-thing"},
        {"model_type": "gpt_neox", "hidden_size": "wide"},
    ):
        (tmp_path / "config.json").write_text(json.dumps(raw))
        with pytest.raises(FlyweightError, match=str(tmp_path)):
            foreign_model.load(tmp_path)


@pytest.mark.parametrize("name", ["neox", "llama"])
def test_an_import_shares_no_file_with_its_source(name, folders, tmp_path):
    source = tmp_path / "source"
    if name in folders:
        shutil.copytree(folders[name], source)
    else:
        hub_fixture.save(name, source)
    artifact = fetch.imported(str(source), Store(tmp_path / "runs"), lambda draft, facts: None)
    for file in source.iterdir():
        with open(file, "r+b") as opened:
            opened.write(b"changed")
    assert Artifact.open(artifact.path).id == artifact.id
    (tmp_path / "new").touch()
    modes = (tmp_path / "new").stat().st_mode
    assert {
        (path.stat().st_nlink, path.stat().st_mode)
        for path in artifact.path.rglob("*")
        if path.is_file()
    } == {(1, modes)}


@pytest.mark.parametrize(
    "named",
    ["owner/kernel", "paged|owner/kernel@main:name", "flash_attention_2", {"": "owner/kernel"}],
)
def test_code_that_a_config_names_for_attention_is_neither_fetched_nor_run(monkeypatch, named):
    from transformers.integrations import hub_kernels

    def fetch(*names, **options):
        raise AssertionError(names)

    monkeypatch.setattr(hub_kernels, "get_kernel", fetch)
    config = transformers.LlamaConfig(**WIDE, attn_implementation=named)
    assert config._attn_implementation is not None
    foreign_model.choose_own_code(config)
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert model.config._attn_implementation in ("sdpa", "eager")


def test_a_config_with_flash_attention_is_computed_without(folders, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folders["mistral"], copy)
    raw = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(
        json.dumps({**raw, "attn_implementation": "flash_attention_2"})
    )
    tokens = torch.arange(9)[None]
    assert torch.equal(load_any.load(copy)(tokens), load_any.load(folders["mistral"])(tokens))


REFUSED = ("bert", "bert, masked", "roformer", "t5")


@pytest.mark.parametrize("name", [name for name in hub_fixture.FAMILIES if name not in REFUSED])
def test_every_family_behind_the_adapter_gives_transformers_logits(name, tmp_path):
    theirs = hub_fixture.save_family(name, tmp_path)
    tokens = torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs(tokens).logits, load_any.load(tmp_path)(tokens)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_decoder_is_refused(name, tmp_path):
    hub_fixture.save_family(name, tmp_path)
    why = "not a causal language model" if name == "t5" else "in both directions"
    with pytest.raises(RequestError, match=why):
        load_any.load(tmp_path)


def edited(tmp_path, **fields):
    hub_fixture.save_family("mistral", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return tmp_path


def test_tuples_instead_of_named_outputs_change_nothing(tmp_path):
    expected = load_any.load(edited(tmp_path))
    found = load_any.load(edited(tmp_path, return_dict=False, output_hidden_states=True))
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(found(tokens), expected(tokens))


@pytest.mark.parametrize(
    "fields",
    [
        {"text_config": {"vocab_size": 9}},
        {"text_config": {}},
        {"decoder": 3},
    ],
)
def test_a_config_within_that_the_family_has_not_is_refused(fields, tmp_path):
    with pytest.raises(RequestError, match="does not describe one language model"):
        load_any.config(edited(tmp_path, **fields))


def test_two_configs_within_are_refused(tmp_path):
    with pytest.raises(RequestError, match="text_config"):
        load_any.config(edited(tmp_path, text_config={}, decoder={}))


def test_what_transformers_cannot_run_is_said(tmp_path):
    hub_fixture.save("qwen3", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "layer_types": ["sliding_attention"] * 3})
    )
    with pytest.raises(FlyweightError, match=r"transformers could not run it: .*sliding_window"):
        load_any.load(tmp_path)


@pytest.mark.parametrize("kind", ["Roberta", "Camembert"])
def test_positions_that_begin_behind_the_padding_count_as_transformers_counts_them(kind, tmp_path):
    fields = {
        **SMALL,
        **LIMITS,
        "intermediate_size": 48,
        "is_decoder": True,
        "pad_token_id": 1,
        "max_position_embeddings": 34,
    }
    theirs = hub_fixture.save_kind(f"{kind}ForCausalLM", fields, tmp_path)
    model = load_any.load(tmp_path)
    assert (
        model.config.context == load_any.config(tmp_path).context == 32
    )  # 34 rows, of which two are never looked up
    tokens = torch.randint(2, VOCAB, (1, 32), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(1, 32, dtype=torch.bool)
    with torch.no_grad():
        expected = theirs(tokens).logits
        torch.testing.assert_close(model(tokens), expected)
        torch.testing.assert_close(model(tokens, mask=mask), expected)


@pytest.mark.parametrize("pad", [None, 33, -1])
def test_positions_without_a_beginning_are_refused(pad, tmp_path):
    fields = {
        **SMALL,
        **LIMITS,
        "intermediate_size": 48,
        "is_decoder": True,
        "pad_token_id": 1,
        "max_position_embeddings": 34,
    }
    hub_fixture.save_kind("RobertaForCausalLM", fields, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token_id": pad}))
    with pytest.raises(RequestError, match="pad_token_id"):
        load_any.config(tmp_path)


@pytest.mark.parametrize(
    "stored, says, kept",
    [
        ((torch.float32,), "bfloat16", torch.float32),
        ((torch.bfloat16,), "float32", torch.bfloat16),
        ((torch.float16,), None, torch.float16),
        ((torch.bfloat16, torch.float32), None, torch.float32),
        ((torch.bfloat16, torch.float16), "float16", torch.float32),
        ((torch.float64,), "float16", torch.float32),
    ],
)
def test_weights_are_never_narrower_than_in_their_files(stored, says, kept, tmp_path):
    place = edited(tmp_path, dtype=says)
    tensors = load_file(place / "model.safetensors")
    cast = {
        name: tensor.to(stored[at % len(stored)])
        for at, (name, tensor) in enumerate(sorted(tensors.items()))
    }
    save_file(cast, place / "model.safetensors", {"format": "pt"})
    assert load_any.load(place).dtype == kept


@pytest.mark.parametrize("name", ["mistral", "llama"])
def test_what_is_published_is_what_was_read_though_the_files_change_meanwhile(
    name, folders, tmp_path, monkeypatch
):
    source, runs = tmp_path / "source", Store(tmp_path / "runs")
    if name in folders:
        shutil.copytree(folders[name], source)
    else:
        hub_fixture.save(name, source)
    expected = load_any.load(
        fetch.imported(str(source), runs, lambda draft, facts: None).path / "model"
    )
    read = checkpoint.read

    def read_and_change(path):
        if path != source:  # the copy was made
            for file in source.iterdir():
                file.write_bytes(b"changed")
        return read(path)

    monkeypatch.setattr(fetch.read, "read", read_and_change)
    artifact = fetch.imported(str(source), Store(tmp_path / "others"), lambda draft, facts: None)
    monkeypatch.undo()
    assert (source / "config.json").read_bytes() == b"changed"
    found, tokens = load_any.load(artifact.path / "model"), torch.arange(9)[None]
    assert torch.equal(found(tokens), expected(tokens))
    assert not (artifact.path / "source").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_files_that_change_while_they_are_copied_are_not_published(
    name, folders, tmp_path, monkeypatch
):
    source = tmp_path / "source"
    shutil.copytree(folders["mistral"], source)
    real, store = fetch.copy_file, Store(tmp_path / "runs")

    def changed_first(path, target):
        path.write_bytes(
            path.read_bytes().replace(b"{", b"{ ", 1) if path.name == name else path.read_bytes()
        )
        real(path, target)

    monkeypatch.setattr(fetch, "copy_file", changed_first)
    with pytest.raises(FlyweightError, match=str(source)):
        fetch.imported(str(source), store, lambda draft, facts: None)
    assert not store.artifacts() and not list((tmp_path / "runs").glob("*/source"))
