"""A user's mistakes: exit status 2 or 1, one message that says what, where and what to do, and never a traceback."""

import os
import shutil

import pytest
import yaml


def refused(result, *parts, status=2):
    code, _out, err = result
    assert code == status, err
    assert "Traceback" not in err
    for part in parts:
        assert part in err, err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["run", "quickstrat"], "did you mean quickstart?"),
        (["run", "no/such.yaml"], "no such file"),
        (["run", "."], "folder"),
        (["quickstart", "stages.techer.train.steps=4"], "did you mean stages.teacher?"),
        (["quickstart", "stages.teacher.train.stepz=4"], "did you mean steps?"),
        (["quickstart", "budget.memory=5"], "unit is missing"),
        (["quickstart", "--without", "teacher"], "leave student out as well"),
        (["quickstart", "--without", "nobody"], "there is no such stage"),
        (["quickstart", "--threads", "0"], "at least 1"),
        (["quickstart", "--threads", "9" * 20], "is the most"),
        (["quickstart", "--device", "tpu"], "this machine has"),
        (["quickstart", "--device", "cpu:7"], "this machine has"),
        (["quickstart", "--device", ""], "this machine has"),
        (["plan", "gpt2", "--device", "tpu"], "this machine has"),
        (["plan", "gpt2", "--threads", "0"], "at least 1"),
        (["plan", "gpt2", "--memory", ""], "--memory: the value is empty"),
        (["run", "/dev/zero"], "a device or a pipe"),
        (["eval", "quickstart:student"], "make it: flyweight run quickstart"),
        (["eval", "nothing"], "there is no model"),
        (["eval", "."], "neither an artifact"),
        (["eval", "gpt2"], "random weights"),
        (["plan", "gpt3"], "there is no model"),
        (["floors", "no-such-corpus"], "no corpus"),
        (["compare", "a"], "no model"),
        (["train", "missing.txt"], "missing.txt"),
        (["train", "tiny-shakespeare", "--data-dir", "/nowhere"], "/nowhere"),
        (["report", "nothing"], "not a finished run"),
        (["bogus"], "bogus"),
        (["run", "tradeoffs"], "tradeoffs is a study, not a recipe: flyweight study tradeoffs"),
        (["study", "quickstart"], "quickstart is a recipe, not a study: flyweight run quickstart"),
        (
            ["run", "quickstart", "--time", "60s"],
            "--time: no such option; write budget.time=... or train.time=...",
        ),
        (
            ["train", "a.txt", "--steps=3"],
            "--steps: no such option; write train.steps=...",
        ),
        (
            ["generate", "nothing:model", "caf\udce9"],
            "the prompt is not UTF-8 text: byte 0xe9 follows 'caf'",
        ),
        (["quickstart", "--bogus"], "bogus"),
    ],
)
def test_requests_that_are_wrong(flyweight, words, part):
    refused(flyweight(*words), part)


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("budget.time=abc", "'abc' is not a time"),
        ("budget.time=10", "unit is missing"),
        ("budget=null", "budget: expected fields"),
        ("budget=5", "budget: expected fields"),
        ("budget.time=null", "no limit"),
        ("data=null", "data: expected fields"),
        ("data.corpus=null", "data.corpus"),
        ("data.tokenizer={kind: bpe, vocab: 2q}", "'2q' is not a count"),
        ("model=null", "needs either model"),
        ("model=gtp2", "unknown kind 'gtp2'"),
        ("model={kind: linear}", "dim: is missing"),
        ("stages=null", "stages"),
        ("stages.model=null", "stages.model"),
        ("data.corpus=!!timestamp x", "does not fit its tag"),
        ('data.corpus="\\uDCFF"', "data.corpus: '\\udcff' is not UTF-8 text"),
        ('report.prompts=[a, "\\uD800"]', "report.prompts: '\\ud800' is not UTF-8 text"),
    ],
)
def test_training_with_a_word_that_is_wrong(flyweight, text_file, word, part):
    refused(flyweight("train", text_file, word), part)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--memory", "6GB"], "--memory: tradeoffs-quick is a study"),
        (["--flops", "1", "--bytes", "4MB"], "--flops and --bytes: tradeoffs-quick is a study"),
        (["--time", "soon"], "limit.time: 'soon' is not a time"),
        (["--data-dir", "/nowhere"], "--data-dir: /nowhere is not a folder"),
    ],
)
def test_a_plan_of_a_study_with_options_that_are_wrong(flyweight, options, part):
    refused(flyweight("plan", "tradeoffs-quick", *options), part)


def test_the_folder_of_corpora_is_named_by_who_named_it(flyweight, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLYWEIGHT_DATA", "~/data")
    refused(flyweight("plan", "quickstart"), f"FLYWEIGHT_DATA: {tmp_path / 'data'} is not a folder")
    (tmp_path / "data").mkdir()
    status, _, err = flyweight("plan", "quickstart")
    assert status == 0 and "FLYWEIGHT_DATA" not in err
    refused(
        flyweight("plan", "quickstart", "--data-dir", "~/other"),
        f"--data-dir: {tmp_path / 'other'} is not a folder",
    )


def test_nothing_is_said_of_a_model_that_is_not_there(flyweight):
    status, out, err = flyweight("generate", "nosuch:model", "Hello")
    assert (status, out) == (2, "")
    assert "no run 'nosuch'" in err and "flyweight run nosuch" not in err


def test_the_help_names_every_split(flyweight):
    for verb in ("eval", "compare"):
        assert "validation+test" in "".join(flyweight(verb, "--help")[1].split())
    assert "validation+test" not in "".join(flyweight("floors", "--help")[1].split())


def test_text_that_cannot_be_used(flyweight, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "tiny.txt").write_text("a few words\n")
    (tmp_path / "latin.txt").write_bytes("café ".encode("latin-1") * 5000)
    (tmp_path / "binary.txt").write_bytes(b"\0\1\2" * 5000)
    (tmp_path / "folder").mkdir()
    for name in ("empty.txt", "tiny.txt", "latin.txt", "binary.txt", "folder"):
        refused(flyweight("train", tmp_path / name, "budget.time=30s"), name)


def test_names_that_no_manifest_could_hold(flyweight, text_file, tmp_path, monkeypatch):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")
    shutil.copyfile(text_file, f"{name}.txt")
    os.mkdir(name)
    for words in (["floors", f"{name}.txt"], ["train", f"{name}.txt"]):
        refused(flyweight(*words), "bad\\udcff.txt' is not UTF-8 text; rename the file")
    refused(
        flyweight("floors", text_file, "--data-dir", name),
        "--data-dir: the name",
        "bad\\udcff' is not UTF-8 text",
    )
    refused(
        flyweight("floors", text_file, "--runs", name),
        "the runs root: the name",
        "bad\\udcff' is not UTF-8 text",
    )
    study = {
        "name": "s",
        "data": {"a": {"corpus": "\udcff"}},
        "models": {"a": {"config": {"dim": 16, "layers": 1}}},
    }
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump({**study, "budgets": {"b": {"steps": 1}}, "seeds": [0]})
    )
    for verb in ("plan", "study"):
        refused(
            flyweight(verb, tmp_path / "study.yaml"), "data.a.corpus: '\\udcff' is not UTF-8 text"
        )
    monkeypatch.chdir(name)
    monkeypatch.delenv("FLYWEIGHT_RUNS", raising=False)
    refused(flyweight("ls", "--runs", "here"), "the runs root: the name")
    assert os.listdir(name) == []


def test_broken_recipes(flyweight, tmp_path):
    for number, text in enumerate(
        ["", "name: [", "name: x", "- 1", "name: x\nstages: {}", "name: x\nstages: {a: {}}", "\x00"]
    ):
        path = tmp_path / f"r{number}.yaml"
        path.write_text(text)
        refused(flyweight("run", path), path.name)


def test_a_tokenizer_that_does_not_fit(flyweight, toy_recipe, text_file):
    refused(
        flyweight("run", toy_recipe, "stages.teacher.model.vocab_size=7", "--threads", 1),
        "vocab_size: 7",
    )
    words = ("stages.student.data.tokenizer=char", "--threads", 1)
    refused(flyweight("run", toy_recipe, *words), "different tokenizers (byte and char)")


@pytest.mark.parametrize(
    ("size", "part"),
    [
        ("6", "the unit is missing"),
        ("0", "the unit is missing"),
        ("6 G", "did you mean 6GB?"),
        ("6G", "did you mean 6GB?"),
        ("6gb", "did you mean 6GB?"),
        ("6Gb", "did you mean 6GB?"),
        ("6gib", "did you mean 6GiB?"),
        ("-6GB", "write it like 6GB"),
        ("0GB", "has to be more than 0"),
        ("0.4B", "has to be more than 0"),
        ("nan", "write it like 6GB"),
        ("nanGB", "write it like 6GB"),
        ("inf", "write it like 6GB"),
        ("1e30GB", "too large for a size"),
        ("1e9TB", "no machine has that much"),
        ("GB", "write it like 6GB"),
        ("6,5GB", "write it like 6GB"),
        ("6_000MB", "write it like 6GB"),
        ("48Gbit", "write it like 6GB"),
        ("50%", "write it like 6GB"),
        ("true", "True is not a size"),
        ("[1GB]", "is not a size"),
    ],
)
def test_what_is_not_a_size_is_told_with_what_one_looks_like(
    flyweight, toy_recipe, text_file, size, part
):
    word = f"budget.memory={size}"
    refused(flyweight("plan", toy_recipe, "--memory", size), "budget.memory", part)
    refused(flyweight("run", toy_recipe, word), "budget.memory", part)
    refused(flyweight("train", text_file, word), "budget.memory", part)
    refused(flyweight("plan", text_file, "--memory", size), "budget.memory", part)


def test_an_empty_limit_is_refused(flyweight, toy_recipe, text_file):
    for target in (toy_recipe, text_file):
        refused(flyweight("plan", target, "--memory", ""), "--memory: the value is empty")


def test_a_limit_below_what_libraries_take_is_refused(flyweight, toy_recipe, text_file):
    least = "every training here takes more than 130 MB"
    refused(flyweight("run", toy_recipe, "budget.memory=1MB"), "budget.memory: 1 MB", least)
    refused(flyweight("train", text_file, "budget.memory=1MB"), "budget.memory: 1 MB", least)
    status, _, err = flyweight("plan", text_file, "--memory", "1MB")
    assert status == 1 and "budget.memory: 1 MB" in err and least in err


def test_a_plan_that_breaks_its_budget_is_refused_before_anything_runs(
    flyweight, toy_recipe, tmp_path
):
    words = ("budget.memory=1kB", "budget.flops=10", "budget.parameters=3", "budget.bytes=1kB")
    result = flyweight("run", toy_recipe, *words)
    refused(result, "budget.memory", "budget.flops", "budget.parameters", "budget.bytes")
    assert not list((tmp_path / "runs").glob("pretrain-*"))


def test_a_damaged_artifact_is_named(flyweight, toy_recipe, tmp_path):
    words = (
        "report.compare=[teacher]",
        "report.measure=[]",
        "report.prompts=[]",
        "--without",
        "int8",
        "--threads",
        1,
    )
    assert flyweight("run", toy_recipe, *words)[0] == 0
    (weights,) = {
        p.resolve() for p in (tmp_path / "runs" / "toy" / "teacher").glob("model/model.safetensors")
    }
    content = bytearray(weights.read_bytes())
    content[-3] ^= 4
    weights.write_bytes(content)
    refused(flyweight("run", toy_recipe, *words), "model.safetensors", "checksum", status=1)
    shutil.rmtree(weights.parent.parent)
    assert flyweight("run", toy_recipe, *words)[0] == 0


def test_a_runs_root_that_cannot_be(flyweight, toy_recipe, tmp_path):
    (tmp_path / "file").write_text("")
    refused(flyweight("run", toy_recipe, "--runs", tmp_path / "file"), "not a folder")


def test_the_json_schema_is_valid_json(flyweight):
    import json

    status, out, _ = flyweight("schema")
    assert status == 0
    assert "Pretrain" in json.loads(out)["$defs"]


def test_a_recipe_with_contradictions_tells_them_all(flyweight, toy_recipe):
    raw = yaml.safe_load(toy_recipe.read_text())
    raw["stages"]["teacher"]["model"]["attention"] = {"heads": 3, "kv_heads": 2}
    raw["stages"]["student"]["teacher"] = "techer"
    raw["budget"] = {"time": 5}
    toy_recipe.write_text(yaml.safe_dump(raw))
    refused(
        flyweight("run", toy_recipe),
        "heads: 3 does not divide dim 32",
        "kv_heads: 2 does not divide",
        "budget.time",
    )


def test_pipes_and_links_to_themselves_are_not_waited_for(flyweight, toy_recipe, tmp_path):
    (tmp_path / "model").mkdir()
    for pipe in (
        tmp_path / "pipe",
        tmp_path / "model" / "config.json",
        tmp_path / "tokenizer.json",
    ):
        os.mkfifo(pipe)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(flyweight("run", tmp_path / "pipe"), "a device or a pipe")
    refused(flyweight("eval", tmp_path / "model"), "neither an artifact")
    word = f"data.tokenizer={{kind: file, path: {tmp_path / 'tokenizer.json'}}}"
    refused(flyweight("run", toy_recipe, word, "--threads", 1), "tokenizer.json is not a file")
    refused(flyweight("report", tmp_path / "loop"), "cannot be read", status=1)


def test_a_recipe_is_read_up_to_a_size(flyweight, tmp_path):
    (tmp_path / "long.yaml").write_bytes(b"#" * 5_000_000)
    refused(flyweight("run", tmp_path / "long.yaml"), "more than 4,000,000 bytes")


def test_a_corpus_that_is_gone_is_named(flyweight, toy_recipe, tmp_path):
    words = (
        "report.compare=[teacher]",
        "report.measure=[]",
        "report.prompts=[]",
        "--without",
        "int8",
        "--threads",
        1,
    )
    assert flyweight("run", toy_recipe, *words, "train.steps=1")[0] == 0
    (corpus,) = (tmp_path / "runs").glob("corpus-*")
    shutil.rmtree(corpus)
    refused(flyweight("eval", "toy:teacher"), f"was trained on {corpus.name}, which is not in")
    corpus.write_text("no folder")
    refused(flyweight("eval", "toy:teacher"), str(corpus), status=1)
    refused(flyweight("audit", "toy:teacher"), str(corpus), status=1)


@pytest.mark.parametrize("name", ["toy", ".locks"])
@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
def test_a_link_in_the_runs_root_is_refused_before_any_work(
    flyweight, toy_recipe, tmp_path, elsewhere, name, fresh
):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / name).symlink_to(elsewhere)
    refused(flyweight("run", toy_recipe, "--threads", 1, *fresh), f"{name} is a symbolic link")
    assert not list((tmp_path / "runs").glob("*-????????*"))
