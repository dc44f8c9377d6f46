"""peft, TRL and lm-eval on our own model type: their own calls, nothing of ours in between."""

import json

import lm_eval_fixture
import pytest
import torch
import transformers

from flyweight.checkpoints import convert, harness
from flyweight.config.schema import ModelConfig
from flyweight.errors import RequestError
from flyweight.model import folder
from flyweight.model.decoder import Decoder
from flyweight.spec.visits import visits

TEXT = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A tiny shared-layer model with a byte-level BPE tokenizer: (artifact's model folder, Hugging Face folder)."""
    from tokenizers import ByteLevelBPETokenizer

    from flyweight.formats import hf

    place = tmp_path_factory.mktemp("own")
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        TEXT * 20, vocab_size=290, special_tokens=["<|endoftext|>"], show_progress=False
    )
    config = {
        "vocab_size": 290,
        "context": 64,
        "dim": 32,
        "layers": 2,
        "sharing": "repeat",
        "attention": {"heads": 4},
    }
    folder.save(Decoder(ModelConfig.model_validate(config).resolved(), seed=3), place / "model")
    tokenizer.save(str(place / "model" / "tokenizer.json"))
    exported = hf.write(place / "model", place / "hf", lambda kind, notes: "card")
    assert exported.kind == "flyweight"
    return place / "model", place / "hf"


def test_autotokenizer_reads_what_was_exported(own):
    from flyweight.data.tokenizer import Tokenizer

    found = transformers.AutoTokenizer.from_pretrained(own[1])
    ours = Tokenizer.load(own[0])
    for text in TEXT:
        assert found(text)["input_ids"] == ours.encode(text)
        assert found.decode(ours.encode(text)) == text
    assert found.eos_token_id == ours.separator
    assert found.model_max_length == 64
    model = transformers.AutoModelForCausalLM.from_pretrained(own[1])
    batch = found(["the", "the cat sat"], return_tensors="pt", padding=True, padding_side="left")
    assert model.generate(**batch, max_new_tokens=4).shape[0] == 2


def test_lora_trains_saves_loads_and_merges(own, tmp_path):
    import peft

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(own[1])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q", "v", "up", "down"],
        "task_type": "CAUSAL_LM",
    }
    adapted = peft.get_peft_model(model, peft.LoraConfig(**options))
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    tokens = torch.randint(290, (4, 20), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = adapted(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    adapted.eval()
    adapted.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = adapted(tokens).logits
        fresh = transformers.AutoModelForCausalLM.from_pretrained(own[1])
        again = peft.PeftModel.from_pretrained(fresh, tmp_path).eval()
        torch.testing.assert_close(again(tokens).logits, expected, rtol=1e-5, atol=1e-5)
        merged = again.merge_and_unload()
        torch.testing.assert_close(merged(tokens).logits, expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    config, state = convert.decoder(convert_source(tmp_path / "merged"))
    assert len(visits(config)) == 4
    assert {f"decoder.{name}" for name in state} == set(before)
    assert any(not torch.equal(tensor, before[f"decoder.{name}"]) for name, tensor in state.items())


def convert_source(place):
    from flyweight.checkpoints import read

    return read.read(place)


def test_lora_around_every_linear_layer_leaves_the_tables_alone(own):
    import peft

    model = transformers.AutoModelForCausalLM.from_pretrained(own[1])
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    )
    names = {
        name.split(".lora_")[0].split("decoder.")[-1]
        for name, _ in adapted.named_parameters()
        if "lora_" in name
    }
    assert "blocks.1.mlp.gate" in names
    assert not any("embedding" in name for name in names)


def test_one_step_of_sft(own, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model = transformers.AutoModelForCausalLM.from_pretrained(own[1])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=3,
        learning_rate=1e-2,
        report_to=[],
        save_strategy="no",
        max_length=32,
        bf16=False,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(own[1])
    trainer = SFTTrainer(
        model,
        args=arguments,
        train_dataset=Dataset.from_dict({"text": TEXT}),
        processing_class=tokenizer,
    )
    result = trainer.train()
    assert (
        4 < result.training_loss < 7
    )  # near log(290) = 5.67: shifted once, not twice, and averaged over real tokens
    after = dict(trainer.model.named_parameters())
    assert all(not torch.equal(after[name].cpu(), before[name]) for name in before)


@pytest.fixture
def task_folder(tmp_path, monkeypatch):
    return lm_eval_fixture.write(tmp_path, monkeypatch)


def test_lm_eval_scores_choices_as_the_decoder_does(own, task_folder):
    from flyweight.data.tokenizer import Tokenizer

    request = harness.TaskRequest.of(["tiny-choice"], task_folder)
    (found,) = harness.run(own[0], request, "cpu")
    model, tokenizer = folder.load(own[0]).eval(), Tokenizer.load(own[0])
    right = 0
    for line in (task_folder.parent / "tiny.jsonl").read_text().splitlines():
        row = json.loads(line)
        scores = []
        for choice in (" mat", " log"):
            start, whole = tokenizer.encode(row["text"]), tokenizer.encode(row["text"] + choice)
            with torch.no_grad():
                log = model(torch.tensor([whole[:-1]]))[0].log_softmax(-1)
            scores.append(
                sum(float(log[at - 1, whole[at]]) for at in range(len(start), len(whole)))
            )
        right += scores.index(max(scores)) == row["label"]
    metric = found.metrics["acc"]
    assert metric.value == pytest.approx(right / 3)
    assert sum(metric.parts) == right
    assert (metric.n, metric.better, len(set(found.questions))) == (3, "higher", 3)
    assert 0 <= metric.stderr < 1


def test_tasks_that_cannot_be_asked_are_refused_without_a_model(task_folder, tmp_path):
    def check(*tasks, folder=task_folder, **rest):
        harness.check(harness.TaskRequest.of(tasks, folder, **rest))

    check("tiny-choice", "tiny-group-of-two")
    with pytest.raises(RequestError, match="lm-eval knows no no-such-task"):
        check("tiny-choice", "no-such-task")
    with pytest.raises(RequestError, match="the folder does not exist"):
        check("x", folder=tmp_path / "nowhere")
    (task_folder.parent / "tiny.jsonl").unlink()
    with pytest.raises(RequestError, match="lm-eval cannot read tiny-choice"):
        check("tiny-choice")


def test_a_change_of_a_task_or_of_its_data_is_another_fingerprint(task_folder):
    first = harness.fingerprint(task_folder)
    assert first == harness.fingerprint(str(task_folder)) != harness.fingerprint(None)
    rows = task_folder.parent / "tiny.jsonl"
    kept = rows.read_text()
    rows.write_text(kept.replace("a cat", "a dog"))
    assert harness.fingerprint(task_folder) != first
    rows.write_text(kept)
    assert harness.fingerprint(task_folder) == first
    (task_folder / "more.py").write_text("x = 1\n")
    assert harness.fingerprint(task_folder) != first


def test_metrics_that_differ_in_their_filter_alone_are_all_kept():
    result = {
        "alias": "gsm8k",
        "exact_match,strict-match": 0.1,
        "exact_match_stderr,strict-match": 0.01,
    }
    result |= {"exact_match,flexible-extract": 0.3, "exact_match_stderr,flexible-extract": 0.02}
    result |= {"acc,none": 0.5, "acc_stderr,none": "N/A"}
    found = harness.metrics(result, {"acc": True, "exact_match": True}, 20)
    assert {key: (each.name, each.value, each.stderr, each.n) for key, each in found.items()} == {
        "exact_match,strict-match": ("exact_match", 0.1, 0.01, 20),
        "exact_match,flexible-extract": ("exact_match", 0.3, 0.02, 20),
        "acc": ("acc", 0.5, None, 20),
    }
    assert {each.better for each in found.values()} == {"higher"}


@pytest.mark.parametrize("kind", ["byte", "char", "word", "bpe"])
@pytest.mark.parametrize("separated", [True, False])
def test_lm_eval_gets_the_tokenizer_that_the_model_has(kind, separated, tmp_path):
    from flyweight.config import schema
    from flyweight.data.tokenizer import Tokenizer
    from flyweight.data.tokenizer_training import train

    kinds = {"byte": schema.ByteTokenizer(), "char": schema.CharTokenizer()}
    kinds |= {"word": schema.WordTokenizer(), "bpe": schema.BpeTokenizer(vocab=300)}
    text = lambda: iter(["the cat sat on the mat\nthe dog sat\n"])  # noqa: E731
    train(kinds[kind], text, text, 1 << 20, separated).save(tmp_path / "tokenizer.json")
    theirs, ours = harness.transformers_tokenizer(tmp_path, 64), Tokenizer.load(tmp_path)
    assert theirs("the cat sat")["input_ids"] == ours.encode("the cat sat")


def test_lm_eval_gets_no_pattern_that_may_never_end(tmp_path):
    split = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "b"}
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "pre_tokenizer": split, "model": model})
    )
    with pytest.raises(
        RequestError,
        match="nothing would stop it in lm-eval; measure this model with --data",
    ):
        harness.transformers_tokenizer(tmp_path, 64)
