"""Fine-tuning at toy size: a base that is trained here, tuned by every method, dense and packed."""

import json

import chat_fixture
import pytest
import torch
import transformers
from safetensors.torch import load_file
from toy_recipe import toy

import flyweight as fw
from flyweight.api import Session, load
from flyweight.errors import RequestError
from flyweight.training.trainer import Trainer


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A text of another kind than the base's."""
    path = tmp_path_factory.mktemp("letters") / "letters.txt"
    path.write_text("\n".join("abc abd abe " * 4 for _ in range(200)) + "\n")
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of prompts and completions: the letter that follows."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    letters = "abcdefghijklmnopqrstuvwxyz"
    rows = [
        {"prompt": f"{n} {letters[n % 25]}:", "completion": f" {letters[n % 25 + 1]}"}
        for n in range(120)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(text_file, letters):
    """Return a raw recipe: a base, dense and packed, and what is made of each."""
    raw = toy(text_file)
    base = {**raw["stages"]["teacher"], "train": {"optimizer": "muon"}}
    tuned = {
        "stage": "finetune",
        "data": {"corpus": str(letters), "tokenizer": None},
        "train": {"optimizer": "adamw"},
    }
    raw |= {
        "name": "tuning",
        "stages": {
            "base": base,
            "packed": {"stage": "quantize", "input": "base", "kind": "nf4"},
            "full": {**tuned, "input": "base", "method": "full"},
            "frozen": {**tuned, "input": "base", "method": "frozen"},
            "over": {**tuned, "input": "packed", "method": "frozen"},
            "lora": {**tuned, "input": "base", "method": {"kind": "lora", "r": 2, "dropout": 0.1}},
            "qlora": {**tuned, "input": "packed", "method": "lora"},
            "ia3": {**tuned, "input": "base", "method": "ia3"},
            "more": {**tuned, "input": "lora", "method": {"kind": "lora", "r": 2, "dropout": 0.1}},
            "same": {
                "stage": "finetune",
                "input": "base",
                "method": "full",
                "data": {"tokenizer": "model"},
            },
        },
        "report": {
            "compare": ["full", "frozen", "over", "same", "lora", "qlora"],
            "measure": ["evaluate"],
        },
    }
    return raw


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text_file, letters):
    session = Session(runs=tmp_path_factory.mktemp("tuned") / "runs", threads=1, quiet=True)
    raw = recipe(text_file, letters)
    return raw, session, fw.run(raw, session=session)


def tensors(artifact):
    return load_file(artifact.path / "model" / "model.safetensors")


def test_a_frozen_tensor_is_bit_equal_after_training(finished):
    _, _, run = finished
    for base, tuned in (("base", "frozen"), ("packed", "over")):
        before, after = tensors(run[base]), tensors(run[tuned])
        assert after.keys() - before.keys() == {"head.linear.weight"}
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {"norm.weight"}
        assert run[tuned].facts["trainable_parameters"] == 258 * 32 + 32
    before, after = tensors(run["base"]), tensors(run["full"])
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("tuned", "base"), [("lora", "base"), ("qlora", "packed"), ("ia3", "base")]
)
def test_an_adapter_is_all_that_a_tuning_adds_and_trains(finished, tuned, base):
    _, _, run = finished
    before, after = tensors(run[base]), tensors(run[tuned])
    assert all(torch.equal(before[name], after[name]) for name in before)
    added = after.keys() - before.keys()
    facts = run[tuned].facts
    assert facts["trainable_parameters"] == sum(after[name].numel() for name in added)
    assert facts["adapter_bytes"] == sum(after[name].nbytes for name in added)


def test_an_adapter_is_trained_further(finished):
    _, _, run = finished
    before, after = tensors(run["lora"]), tensors(run["more"])
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed == {name for name in before if ".lora." in name}


def test_the_text_is_cut_by_the_models_tokenizer_and_packed_once(finished):
    _, session, run = finished
    packed = {run[name].facts["corpus"] for name in ("full", "frozen", "over")}
    assert len(packed) == 1
    assert run["same"].facts["corpus"] == run["base"].facts["corpus"]
    assert len(list(session.store.root.glob("corpus-????????"))) == 2
    tokenizers = {
        (run[name].path / "model" / "tokenizer.json").read_bytes() for name in ("base", "full")
    }
    assert len(tokenizers) == 1


def test_tuning_learns_the_text(finished):
    _, _, run = finished
    for name in ("full", "frozen"):
        losses = [
            json.loads(line)["nll"]
            for line in (run[name].path / "events.jsonl").read_text().splitlines()
            if json.loads(line)["event"] == "step"
        ]
        assert losses[-1] < losses[0]


def test_all_of_a_packed_model_with_an_adapter_is_trained_once_it_is_dense(finished, letters):
    _, session, run = finished
    with pytest.raises(RequestError, match=r"cannot be trained\. .*flyweight merge MODEL --unpack"):
        fw.finetune(run["qlora"], data=letters, method="full", session=session)
    dense = fw.merge(run["qlora"], unpack=True, session=session)["merge"]
    words = ("train.steps=2", "train.batch=2")
    tuned = fw.finetune(dense, *words, data=letters, method="full", session=session)
    assert tuned["finetune"].facts["steps"] == 2


def test_a_card_says_how_the_model_came_about(finished):
    _, _, run = finished
    text = (run["frozen"].path / "README.md").read_text()
    assert f"fine-tuned from `{run['base'].id}` by the method `frozen`" in text


def test_the_plan_counts_what_trains(finished):
    raw, session, _ = finished
    plan = fw.plan(load(raw), session=session).json()
    stages = plan["stages"]
    assert stages["frozen"]["parameters"]["trainable"] == 258 * 32 + 32
    assert stages["full"]["parameters"]["trainable"] == stages["full"]["parameters"]["unique"]
    assert stages["frozen"]["memory"]["total"] < stages["full"]["memory"]["total"]
    assert stages["over"]["steps"] == 12


def test_a_model_is_tuned_on_rows_of_ones_own(finished, rows, tmp_path):
    raw, session, run = finished
    tuned = {
        "stage": "finetune",
        "input": "packed",
        "method": "lora",
        "data": {"task": str(rows), "context": 32},
        "train": {
            "steps": None,
            "epochs": 3,
            "batch": 8,
            "optimizer": {"kind": "adamw", "lr": 0.01},
        },
    }
    stages = {name: raw["stages"][name] for name in ("base", "packed")}
    asked = {
        **raw,
        "name": "rows",
        "stages": {**stages, "tuned": tuned},
        "report": {"compare": ["tuned"], "measure": ["evaluate"]},
    }
    plan = fw.plan(load(asked), session=session)
    assert next(stage for stage in plan.stages if stage.name == "tuned").steps
    made = fw.run(asked, session=session)
    facts = made["tuned"].facts
    assert facts["examples"] == pytest.approx(3 * 93, abs=20)
    before, after = tensors(made["packed"]), tensors(made["tuned"])
    assert all(torch.equal(before[name], after[name]) for name in before)
    curve = [
        json.loads(line) for line in (made["tuned"].path / "events.jsonl").read_text().splitlines()
    ]
    losses = [event["nll"] for event in curve if event["event"] == "validation"]
    assert losses[-1] < losses[0]
    assert "on the task" in (made["tuned"].path / "README.md").read_text()
    assert facts["corpus"] == run["base"].facts["corpus"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"task": "nothing.jsonl"}, "nothing.jsonl"),
        ({"task": "squad", "contxt": 3}, "stages.x.data.contxt: unknown name"),
        ({"task": "squad", "tokenizer": "byte"}, "stages.x.data.tokenizer"),
    ],
)
def test_wrong_tasks_are_refused(finished, data, message, tmp_path):
    raw, session, _ = finished
    asked = {
        "stage": "finetune",
        "input": "base",
        "method": "ia3",
        "data": data,
        "train": {"optimizer": "adamw"},
    }
    with pytest.raises(RequestError, match=message):
        fw.run({**raw, "stages": {**raw["stages"], "x": asked}, "report": {}}, session=session)


def test_before_and_after_are_of_the_same_text(finished):
    _, _, run = finished
    tunings = {tuning.name: tuning for tuning in run.summary.tuning}
    assert list(tunings) == ["full", "frozen", "over", "same", "lora", "qlora"]
    full = tunings["full"]
    assert [change.about for change in full.changes] == ["learned", "forgotten"]
    learned = full.changes[0]
    model = next(model for model in run.summary.models if model.name == "full")
    assert learned.after.value == model.evaluate.nll.value
    assert learned.difference.value == pytest.approx(learned.after.value - learned.before.value)
    assert learned.difference.verdict == "better"
    assert full.adapter_bytes is None
    assert full.trainable == full.parameters
    assert len(full.answers) == 3
    assert tunings["same"].changes[0].about == "learned"
    assert len(tunings["same"].changes) == 1
    assert tunings["lora"].adapter_bytes == run["lora"].facts["adapter_bytes"]


def test_leaving_a_tuning_out_gives_its_input(finished):
    raw, _, _ = finished
    chain = {**raw["stages"], "q": {"stage": "quantize", "input": "full", "kind": "int8"}}
    checked = load({**raw, "stages": chain}, without=["full"])
    assert checked.stages["q"].input == "base"


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"input": "packed", "method": "full"}, "leave them as they are with method: lora"),
        ({"input": "base", "method": "half"}, "half"),
        ({"input": "base"}, "stages.x.method"),
        ({"input": "base", "method": "full", "model": {"dim": 8}}, "stages.x.model"),
        ({"method": "full"}, "stages.x.input"),
        ({"input": "base", "method": "lora"}, "stages.x: train.optimizer: muon"),
        ({"input": "base", "method": {"kind": "lora", "rank": 3}}, "stages.x.method.rank"),
        (
            {"input": "base", "method": {"kind": "rslora", "scale": "standard"}},
            "rslora is lora with scale=rs, and scale is standard",
        ),
        ({"input": "base", "method": {"kind": "dora", "dora": False}}, "dora is false"),
    ],
)
def test_a_wrong_request_is_refused_with_its_place(finished, stage, message):
    raw, _, _ = finished
    with pytest.raises(RequestError, match=message):
        load({**raw, "stages": {**raw["stages"], "x": {"stage": "finetune", **stage}}})


def test_the_tokenizer_of_another_model_is_refused(finished, tmp_path):
    raw, session, _ = finished
    other = {
        **raw["stages"]["full"],
        "data": {**raw["stages"]["full"]["data"], "tokenizer": "char"},
    }
    with pytest.raises(
        RequestError, match=r"different tokenizers; give this stage data.tokenizer=model"
    ):
        fw.run(
            {**raw, "name": "other", "stages": {**raw["stages"], "full": other}}, session=session
        )


def test_a_tokenizer_of_a_model_needs_a_model(finished):
    raw, _, _ = finished
    alone = {"stage": "pretrain", "data": {"tokenizer": "model"}}
    with pytest.raises(
        RequestError, match=r"stages.x: data.tokenizer: kind model is the tokenizer"
    ):
        load({**raw, "stages": {**raw["stages"], "x": alone}})


def test_the_verb_chooses_a_method_and_says_why(finished, rows, flyweight):
    _, session, run = finished
    root = ["--runs", session.store.root, "--threads", 1]
    packed = run["packed"].path
    status, out, err = flyweight(
        "finetune", packed, "--data", rows, "train.steps=4", "--json", *root
    )
    assert status == 0, err
    assert "method lora: matrices are stored as nf4 and int8, so only what is added" in err
    summary = json.loads(out)
    assert summary["name"].startswith("finetune-lora-")
    (model,) = summary["models"]
    assert model["training"]["steps"] == 4
    (tuning,) = summary["tuning"]
    assert tuning["task"] == str(rows)
    assert tuning["trainable"] * 4 == tuning["adapter_bytes"]
    changes = {(change["about"], change["metric"]): change for change in tuning["changes"]}
    nll = changes["learned", "nll"]
    assert nll["after"]["value"] - nll["before"]["value"] == pytest.approx(
        nll["difference"]["value"]
    )
    assert nll["before"]["low"] < nll["before"]["value"] < nll["before"]["high"]
    assert ("learned", "exact_match") in changes
    assert ("forgotten", "nll") in changes
    assert tuning["answers"][0]["references"]
    page = (session.store.root / summary["name"] / "report.html").read_text()
    assert "Before and after" in page
    assert "the reference" in page
    status, out, _ = flyweight("finetune", packed, "--data", rows, "train.steps=4", *root)
    assert "lora-" not in out or status == 0
    assert " parameters on " in out
    assert "before:" in out
    assert "after:" in out


def test_python_takes_the_same_words(finished, letters):
    _, session, run = finished
    made = fw.finetune(run["base"], data=letters, train={"steps": 3}, name="whole", session=session)
    config = made["finetune"].identity["config"]
    assert config["method"] == {"kind": "full"}
    assert config["train"]["epochs" if "epochs" in config["train"] else "steps"] == 3
    assert config["data"]["context"] == 32
    named = fw.finetune(
        run["base"],
        "method.r=4",
        data=letters,
        method="rslora",
        train={"steps": 3},
        session=session,
    )
    method = named["finetune"].identity["config"]["method"]
    assert (method["kind"], method["scale"], method["r"]) == ("lora", "rs", 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "finetune needs something to learn: --data"),
        (("--data", "a.txt", "--task", "squad"), "give one of them"),
        (
            ("--task", "squad", "--method", "lara"),
            "no method is called 'lara'; choose lora, rslora",
        ),
        (("--task", "squad", "--method", "full"), "cannot be trained"),
        (("--task", "squod"), "one of squad, dialogue, summarize"),
        (("--data", "tiny-shakespeare", "method.targets=[attention.x]"), "no layer is called"),
        (("--data", "tiny-shakespeare", "train.optimizer=muon"), "use adamw"),
        (("--data", "tiny-shakespeare", "budget.memory=6"), "the unit is missing"),
        (("--data", "tiny-shakespeare", "budget.memory=1MB"), "takes more than 130 MB"),
    ],
)
def test_wrong_words_are_told(finished, flyweight, words, message):
    _, session, run = finished
    status, _, err = flyweight("finetune", run["packed"].path, *words, "--runs", session.store.root)
    assert status == 2
    assert message in " ".join(err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data.context=99999",), "99999 is longer than the 32 tokens that the input reads"),
        (("data.context=64", "--method", "frozen"), "64 is longer than the 32 tokens"),
        (("--method", "lora", "method.targets=[attention.x]"), "no layer is called"),
    ],
)
def test_what_a_model_cannot_read_is_refused_before_rows_are_encoded(
    finished, flyweight, rows, words, message
):
    _, session, run = finished

    def encoded():
        return {path.name for path in session.store.root.glob("examples-*")}

    before = encoded()
    status, _, err = flyweight(
        "finetune", run["base"].path, "--data", rows, *words, "--runs", session.store.root
    )
    assert status == 2
    assert message in " ".join(err.split())
    assert encoded() == before


def elsewhere_model(kind, folder):
    """Write a random model with a tokenizer and a chat template, and return its folder."""
    if kind == "Llama":
        return chat_fixture.save(folder, context=64)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=259,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=256,
        eos_token_id=256,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    chat_fixture.tokenizer(folder)
    return folder


@pytest.mark.parametrize("kind", ["GPT2", "Llama"])
def test_an_imported_model_is_tuned_over_its_packed_matrices(tmp_path, kind):
    session = Session(runs=tmp_path / "runs", threads=1, quiet=True)
    base = fw.import_(elsewhere_model(kind, tmp_path / "elsewhere"), session=session)
    chats = tmp_path / "chats.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{n} plus 1"},
                {"role": "assistant", "content": f"{n + 1}"},
            ]
        }
        for n in range(60)
    ]
    chats.write_text("".join(json.dumps(row) + "\n" for row in rows))
    packed = fw.quantize(base, kind="nf4", session=session)["quantize"]
    made = fw.finetune(packed, data=chats, method="lora", train={"steps": 4}, session=session)
    tuned = made["finetune"]
    (record,) = made.summary.tuning
    assert record.task == str(chats)
    assert [change.about for change in record.changes] == ["learned"] * len(record.changes)
    assert "came without its corpus" not in "".join(record.notes)
    assert made.summary.models[0].evaluate is None
    before, after = tensors(packed), tensors(tuned)
    assert all(torch.equal(before[name], after[name]) for name in before)
    files = {path.name for path in (tuned.path / "model").iterdir()}
    assert "chat_template.jinja" in files


class Killed(BaseException):
    """Stands for a kill: nothing in flyweight catches it."""


@pytest.mark.parametrize("at", [1, 5, 7])
def test_a_killed_tuning_goes_on_to_the_same_bits(finished, rows, at, monkeypatch, tmp_path):
    _, _, run = finished
    fields = {"steps": 8, "validations": 2, "checkpoint": "1ms", "batch": 4}
    words = ["method.dropout=0.2"]
    first = Session(runs=tmp_path / "first", threads=1, quiet=True)
    second = Session(runs=tmp_path / "second", threads=1, quiet=True)
    asked = {"data": rows, "method": "lora", "train": fields, "name": "killed"}
    whole = fw.finetune(run["packed"], *words, **asked, session=first)["finetune"]
    step = Trainer.step

    def killed(trainer, state):
        if state.progress.step == at:
            raise Killed
        return step(trainer, state)

    monkeypatch.setattr(Trainer, "step", killed)
    with pytest.raises(Killed):
        fw.finetune(run["packed"], *words, **asked, session=second)
    (weights,) = (tmp_path / "second").rglob("step-*/model.safetensors") if at == 1 else [None]
    if weights is not None:
        assert weights.stat().st_size < 1.2 * whole.facts["adapter_bytes"] + 4000
    monkeypatch.setattr(Trainer, "step", step)
    again = fw.finetune(run["packed"], *words, **asked, session=second)["finetune"]
    assert again.id == whole.id
    before, after = tensors(whole), tensors(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
