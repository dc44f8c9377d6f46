"""peft, TRL and lm-eval on our own model type: their own calls, nothing of ours in between."""

import json

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


TASK = """
task: tiny-choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{label}}}}"
doc_to_choice: ["mat", "log"]
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""


@pytest.fixture
def task_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [
        {"text": "the cat sat on the", "label": 0},
        {"text": "the dog sat on the", "label": 1},
        {"text": "a", "label": 1},
    ]
    (tmp_path / "tiny.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tiny.yaml").write_text(TASK.format(file=tmp_path / "tiny.jsonl"))
    return tmp_path / "tasks"


def test_lm_eval_scores_choices_as_the_decoder_does(own, task_folder):
    from flyweight.data.tokenizer import Tokenizer

    found = harness.evaluate(own[0], ["tiny-choice"], "cpu", task_path=task_folder)
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
    metric = found["tiny-choice"]["acc"]
    assert metric["value"] == pytest.approx(right / 3)
    assert metric["n"] == 3
    assert 0 <= metric["stderr"] < 1


def test_tasks_that_do_not_exist_are_refused(own, tmp_path):
    with pytest.raises(RequestError, match="lm-eval knows no no-such-task"):
        harness.evaluate(own[0], ["no-such-task"], "cpu")
    with pytest.raises(RequestError, match="the folder does not exist"):
        harness.evaluate(own[0], ["x"], "cpu", task_path=tmp_path / "nowhere")


def test_metrics_that_differ_in_their_filter_alone_are_all_kept():
    result = {
        "alias": "gsm8k",
        "exact_match,strict-match": 0.1,
        "exact_match_stderr,strict-match": 0.01,
    }
    result |= {"exact_match,flexible-extract": 0.3, "exact_match_stderr,flexible-extract": 0.02}
    result |= {"acc,none": 0.5, "acc_stderr,none": "N/A"}
    found = harness._metrics(result, {"effective": 20})
    assert found == {
        "exact_match,strict-match": {"value": 0.1, "stderr": 0.01, "n": 20},
        "exact_match,flexible-extract": {"value": 0.3, "stderr": 0.02, "n": 20},
        "acc": {"value": 0.5, "stderr": None, "n": 20},
    }


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
