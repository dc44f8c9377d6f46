import pytest

from flyweight.config import load
from flyweight.config.schema import ModelConfig
from flyweight.errors import RequestError

TEXT = """
name: quickstart
seed: 0
budget: {time: 6min}
data: {corpus: python-stdlib, tokenizer: {kind: bpe, vocab: 4096}, context: 256}
stages:
  teacher:  {stage: pretrain, model: {dim: 256, layers: 6}, train: {steps: 800}}
  student:  {stage: distill, teacher: teacher, model: {dim: 128, layers: 4}, train: {steps: 800}}
  int8:     {stage: quantize, input: student, kind: int8}
report: {compare: [teacher, student, int8]}
"""


def raw():
    return load.parse_yaml(TEXT, "quickstart")


def checked(*words, without=(), text=None):
    return load.recipe(
        load.override(load.parse_yaml(text, "x") if text else raw(), words), "quickstart", without
    )


def refusal(*words, **options):
    with pytest.raises(RequestError) as error:
        checked(*words, **options)
    assert error.value.status == 2
    return str(error.value)


def test_top_level_fields_are_defaults_of_the_stages_that_train():
    recipe = checked(
        "data.context=128", "train.batch=4", "stages.student.data.context=64", "model.mlp=relu2"
    )
    teacher, student = recipe.stages["teacher"], recipe.stages["student"]
    assert (teacher.data.context, student.data.context) == (128, 64)
    assert (teacher.train.batch, teacher.train.steps) == (4, 800)
    assert (teacher.model.mlp.kind, teacher.model.dim, student.model.dim) == ("relu2", 256, 128)
    assert recipe.budget.time == 360


def test_a_choice_of_another_kind_replaces_the_default_whole():
    words = [
        "train.optimizer={kind: muon, momentum: 0.9}",
        "stages.student.train.optimizer={kind: adamw, lr: 1e-3}",
    ]
    recipe = checked(*words)
    assert recipe.stages["teacher"].train.optimizer.momentum == 0.9
    assert recipe.stages["student"].train.optimizer.kind == "adamw"


def test_an_option_can_be_given_to_a_choice_that_was_written_as_a_name():
    recipe = checked(
        "model.mlp=relu2",
        "stages.teacher.model.mlp.hidden=96",
        "stages.int8.kind=nf4",
        "stages.int8.kind.block=32",
    )
    assert recipe.stages["teacher"].model.mlp.hidden == 96
    assert recipe.stages["int8"].kind.block == 32


def test_all_faults_are_told_at_once_each_with_the_nearest_name():
    text = refusal(
        "stages.teacher.train.stepz=4",
        "stages.teacher.model.mlp.kind=swiglo",
        "data.contex=3",
        "stages.int8.kind=int9",
        "budget.time=6",
        "budget.memory=7",
    )
    for part in (
        "stages.teacher.train.stepz: unknown name (did you mean steps?)",
        "stages.teacher.model.mlp: unknown kind 'swiglo' (did you mean swiglu?)",
        "  data.contex: unknown name (did you mean context?)",
        "stages.int8.kind: unknown kind 'int9' (did you mean int8?)",
        "budget.time: 6 is not a time: the unit is missing",
        "budget.memory: 7 is not a size: the unit is missing",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("stages.techer.train.steps=4", "did you mean stages.teacher?"),
        ("steps", "path=value"),
        ("=4", "path=value"),
        ("seed.x=4", "holds the value 0"),
        ("budget=[1", "not valid YAML"),
        ("stages.student.teacher=techer", "did you mean teacher?"),
        ("stages.int8.input=int8", "int8 -> int8"),
        ("stages.student.train.same_as={stage: no, of: tokens}", "there is no stage 'no'"),
        ("report.compare=[a]", "there is no stage 'a'"),
        ("stages.teacher.model=null", "either model"),
        ("stages={}", "stages"),
        ("name=../up", "name"),
        ("seed=-1", "seed"),
        ("stages.teacher.train.batch=0", "batch"),
        ("stages.teacher.train={batch: 6, accumulate: 4}", "4 pieces do not divide batch 6"),
        ("stages.teacher.train.schedule.warmup=2", "warmup"),
        ("stages.teacher.train.optimizer.lr=.nan", "lr: expected a number, found '.nan'"),
        ("batch=3", "batch: unknown name (did you mean train.batch?)"),
        (
            "stages.int8={stage: select, among: [student]}",
            "stages.int8.among: needs at least 2 entries, found 1: ['student']",
        ),
        ("seed=a", "seed: expected a whole number, found 'a'"),
        ("model=gtp2", "model: unknown kind 'gtp2' (did you mean gpt2?)"),
        (
            "stages.teacher.model=xxxxxxxx",
            "unknown kind 'xxxxxxxx' (known: decoder, linear, mlp, lstm, and what `flyweight ls",
        ),
        (
            "train.steps=400",
            "train.steps=400: every stage has a value of its own there, so this would change "
            "nothing; say ",
        ),
        ("train.steps=abc", "say stages.teacher.train.steps=abc stages.student.train.steps=abc"),
        ("model={dim: 8, layers: 2}", "every stage has a value of its own there"),
        (
            "stages.teacher.train.optimizer.lr=1e38",
            "stages.teacher.train.optimizer.lr: has to be at most 1000",
        ),
        (
            "stages.teacher.train.steps=1e30",
            "stages.teacher.train.steps: has to be at most 1e+12, and is 1e+30",
        ),
        (
            "stages.teacher.train.tokens=1e30",
            "stages.teacher.train.tokens: has to be at most 1e+18",
        ),
        (
            "stages.teacher.train.validations=99999999999",
            "validations: has to be less than 2.14748e+09",
        ),
        (
            "stages.teacher.train.validation_tokens=1e30",
            "validation_tokens: has to be at most 1e+18",
        ),
        ("time=60s", "time: unknown name (did you mean budget.time or train.time?)"),
        ("steps=60", "steps: unknown name (did you mean train.steps?)"),
        ("heads=4", "did you mean model.attention.heads?"),
        ("stages.teacher.steps=60", "(did you mean stages.teacher.train.steps?)"),
        ("teacher.train.steps=20", "teacher is a stage; did you mean stages.teacher.train.steps?"),
    ],
)
def test_refusals(word, part):
    assert part in refusal(word)


def test_contradictions_of_a_model_come_together():
    text = refusal("stages.teacher.model.attention={heads: 3, kv_heads: 2}")
    assert "3 does not divide dim 256" in text
    assert "kv_heads: 2 does not divide" in text


CONTROL = TEXT.replace("report:", "  alone: {stage: pretrain, model: {dim: 8, layers: 1}}\nreport:")


def test_a_stage_tied_to_another_takes_no_other_limit_from_the_recipe():
    tie = "stages.alone.train.same_as={stage: student, of: total_flops}"
    for limit in ("steps=40", "tokens=1M", "flops=1e9", "time=3s"):
        text = CONTROL.replace(
            "stages:", f"train: {{{limit.replace('=', ': ')}, batch: 4}}\nstages:"
        )
        train = checked(tie, text=text).stages["alone"].train
        assert (train.steps, train.tokens, train.flops, train.time, train.batch) == (
            None,
            None,
            None,
            None,
            4,
        )
    tied = checked("train.same_as={stage: teacher, of: tokens}", text=CONTROL)
    assert [stage.train.steps for stage in tied.stages.values() if stage.stage != "quantize"] == [
        800,
        800,
        None,
    ]
    assert tied.stages["student"].train.same_as is None
    assert tied.stages["alone"].train.same_as.stage == "teacher"
    beside = refusal(tie, "stages.alone.train.steps=4", "stages.alone.train.time=3s", text=CONTROL)
    assert (
        "stages.alone.train: same_as gives as much as student spends, and steps and time beside "
        "it could cut that"
    ) in beside
    freed = checked(tie, "train.steps=40", "stages.alone.train.same_as=null", text=CONTROL)
    assert freed.stages["alone"].train.steps == 40


@pytest.mark.parametrize(
    ("same_as", "part"),
    [
        (
            "{stage: int8, of: tokens}",
            "int8 is a stage of kind quantize and spends no tokens of its own",
        ),
        ("{stage: int8, of: seconds}", "name the stage whose model it stores, student"),
        ("{stage: raw, of: total_flops}", "raw is a stage of kind init and trains nothing"),
        ("{stage: timed, of: seconds}", "timed is a stage of kind bench and trains nothing"),
    ],
)
def test_a_limit_from_a_stage_that_does_not_know_it(same_as, part):
    more = (
        "  raw: {stage: init, model: {dim: 8, layers: 1}}\n  timed: {stage: bench, input: "
        "student}\n"
    )
    text = CONTROL.replace("  alone:", f"{more}  alone:")
    assert part in refusal(f"stages.alone.train.same_as={same_as}", text=text)


def test_a_limit_from_what_a_quantized_or_chosen_model_had_cost():
    text = CONTROL.replace(
        "  alone:", "  best: {stage: select, among: [teacher, student]}\n  alone:"
    )
    for stage, of in (
        ("int8", "total_flops"),
        ("int8", "total_seconds"),
        ("best", "tokens"),
        ("best", "seconds"),
    ):
        checked(f"stages.alone.train.same_as={{stage: {stage}, of: {of}}}", text=text)


@pytest.mark.parametrize(
    ("word", "part"),
    [
        (
            "stages.best.among=[student, int8]",
            "among.1: int8 is a stage of kind quantize, so it has no validation result",
        ),
        (
            "stages.teacher.train.validations=0",
            "among.0: teacher trains with validations: 0, so it has no validation result",
        ),
    ],
)
def test_only_what_was_validated_can_be_selected(word, part):
    text = CONTROL.replace(
        "  alone:", "  best: {stage: select, among: [teacher, student]}\n  alone:"
    )
    assert part in refusal(word, text=text)


@pytest.mark.parametrize(
    "word",
    [
        "stages.student=null",
        "stages.alone=5",
        "report.compare=null",
        "report=5",
        "stages.alone.train.same_as=a",
        "stages=null",
    ],
)
def test_leaving_a_stage_out_of_a_malformed_recipe(word):
    assert word.partition("=")[0] in refusal(word, text=CONTROL, without=["int8"])


def test_leaving_a_stage_out_where_nothing_is_selected():
    text = CONTROL.replace("  alone:", "  best: {stage: select, among: null}\n  alone:")
    assert "stages.best.among" in refusal(text=text, without=["int8"])


def test_leaving_a_stage_out_hands_its_input_on_or_says_why_not():
    chain = TEXT.replace(
        "report:", "  again:    {stage: quantize, input: int8, kind: nf4}\nreport:"
    )
    recipe = checked(text=chain, without=["int8"])
    assert recipe.stages["again"].input == "student"
    assert recipe.report.compare == ("teacher", "student")
    assert "leave student out as well" in refusal(without=["teacher"])
    assert "did you mean teacher?" in refusal(without=["techer"])


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: b: c", "- 1\n- 2", "", "a: 1\na: 2", "\t", "*x", "!!python/object:os.system {}"],
)
def test_broken_yaml_is_a_request_error(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(RequestError, match=r"x\.yaml"):
        load.read_yaml(path)


LONG = (
    "0x" + "f" * 5000,
    "9" * 5000,
    "-" + "9" * 5000,
    "0b" + "1" * 20_000,
    "0" + "7" * 5000,
    "1" + ":1" * 5000,
    "1_" * 5000,
)


@pytest.mark.parametrize("number", LONG)
@pytest.mark.parametrize("text", ["seed: {}", "? {}\n: 1", "a: [1, {}]", "!!int {}"])
def test_numbers_that_python_cannot_write_are_refused_in_any_base(number, text):
    with pytest.raises(
        RequestError,
        match=r"x, line 1, column \d+: not valid YAML: a number of [0-9,]+ digits; 100 are the "
        r"most",
    ):
        load.parse_yaml(text.format(number), "x")
    assert load.parse_yaml("a: [0xff, 017, 99999999999999999999]", "x") == {
        "a": [255, 15, 99999999999999999999]
    }


def test_unreadable_files(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    for path, part in (
        (tmp_path, "folder"),
        (tmp_path / "no.yaml", "no such file"),
        (tmp_path / "latin.yaml", "UTF-8"),
    ):
        with pytest.raises(RequestError, match=part):
            load.read_yaml(path)


def test_stages_come_after_what_they_refer_to():
    stages = (
        "{q: {stage: quantize, input: m, kind: int8}, m: {stage: pretrain, model: {dim: 8, "
        "layers: 1}}}"
    )
    text = f"name: x\ndata: {{corpus: c}}\nstages: {stages}"
    assert load.order(checked(text=text)) == ["m", "q"]


def test_resolving_writes_every_number_out_and_changes_nothing_twice():
    config = ModelConfig(dim=96, layers=2).resolved(65, 32)
    assert (config.attention.heads, config.attention.head_dim, config.mlp.hidden) == (3, 32, 256)
    assert config.resolved() == config
    assert ModelConfig.model_validate(config.model_dump(mode="json")) == config


def test_the_json_schema_accepts_partial_defaults():
    schema = load.json_schema()
    assert {"data", "train", "model", "stages"} <= set(schema["properties"])
    assert "required" not in schema["$defs"]["Data"]
    assert "data" not in schema["$defs"]["Pretrain"]["required"]


@pytest.mark.parametrize(
    ("word", "part"),
    [
        (
            "stages.alone={stage: pretrain, input: int8, train: {steps: 3}}",
            "stages.alone.input: int8 stores its matrices in",
        ),
        (
            "stages.alone.model.linears={blocks: nf4}",
            "stages.alone.model.linears: matrices stored as nf4 cannot be trained",
        ),
        (
            "stages.student.model.linears={blocks: int8}",
            "stages.student.model.linears: matrices stored as int8 cannot",
        ),
        (
            "stages.alone={stage: pretrain, input: raw, train: {steps: 3}}",
            "raw has matrices stored as int8, which cannot be",
        ),
    ],
)
def test_packed_matrices_are_not_trained(word, part):
    raw_stage = "  raw: {stage: init, model: {dim: 8, layers: 1, linears: {blocks: int8}}}\n"
    assert part in refusal(word, text=CONTROL.replace("  alone:", f"{raw_stage}  alone:"))


def test_a_default_that_no_stage_takes_is_checked_too():
    text = TEXT.replace("stages:", "train: {steps: abc, batch: 4}\nstages:", 1)
    assert "train.steps: 'abc' is not a count" in refusal(text=text)
    assert refusal("train.batch=0").count("has to be more than 0") == 1


def test_a_fault_that_stages_share_is_told_once():
    text = refusal("stages.teacher.model={dim: 8}", "stages.student.model={dim: 8}")
    assert text.splitlines()[1:] == [
        "  stages.teacher.model.layers: is missing; name it here, or as model.layers for every "
        "stage (and the same in student)"
    ]
    text = refusal("train={batch: 6, accumulate: 4}")
    assert text.count("do not divide") == 1 and text.endswith("(and the same in student)")


def test_a_word_counts_where_any_stage_takes_a_part_of_it():
    assert (
        checked("stages.student.train.batch=8", "train.batch=8").stages["teacher"].train.batch == 8
    )
    assert checked("train.optimizer=muon").stages["teacher"].train.optimizer.kind == "muon"
    assert checked("train={steps: 3, batch: 5}").stages["teacher"].train.batch == 5
    assert checked("data.corpus=python-stdlib").stages["student"].data.corpus == "python-stdlib"


def test_a_name_of_the_catalogue_is_a_model_wherever_one_is_described():
    recipe = checked(
        "stages.teacher.model=gpt2",
        "stages.teacher.model.layers=3",
        "stages.student.model=tradeoffs/lstm",
    )
    teacher, student = recipe.stages["teacher"].model, recipe.stages["student"].model
    assert (teacher.dim, teacher.layers, teacher.position.kind, student.kind) == (
        768,
        3,
        "learned",
        "lstm",
    )
    assert (
        teacher.vocab_size is teacher.context is student.vocab_size is None
    )  # they follow the text
    pinned = (
        checked("stages.teacher.model={kind: gpt2, vocab_size: 50257, dropout: 0.1}")
        .stages["teacher"]
        .model
    )
    assert (pinned.vocab_size, pinned.dropout.residual, pinned.dim) == (50257, 0.1, 768)


def test_a_name_of_the_catalogue_as_a_default_takes_the_stages_own_fields():
    text = """
        name: x
        data: {corpus: python-stdlib}
        train: {steps: 3}
        model: gpt2
        stages:
          small: {stage: pretrain, model: {dim: 48}}
          whole: {stage: pretrain}
          raw: {stage: init, model: gpt2}
    """
    stages = checked("model.layers=2", text=text).stages
    assert [(stages[name].model.dim, stages[name].model.layers) for name in ("small", "whole")] == [
        (48, 2),
        (768, 2),
    ]
    assert (
        stages["raw"].model.vocab_size,
        stages["raw"].model.context,
        stages["raw"].model.layers,
    ) == (50257, 1024, 12)
    assert stages["whole"].model.attention.heads == 12


def test_the_json_schema_knows_the_catalogue():
    schema = load.json_schema()
    for places in (
        schema["properties"],
        *(schema["$defs"][kind]["properties"] for kind in ("Pretrain", "Distill")),
    ):
        assert any("gpt2" in choice.get("enum", ()) for choice in places["model"]["anyOf"])


def test_options_of_a_tokenizer_without_a_kind_are_those_of_bpe():
    raw = {
        "name": "a",
        "data": {"corpus": "x.txt"},
        "stages": {"m": {"stage": "pretrain", "model": {"dim": 8, "layers": 1}}},
    }
    checked = load.recipe(load.override(raw, ["data.tokenizer.vocab=2048", "train.steps=1"]))
    assert checked.stages["m"].data.tokenizer.vocab == 2048


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ({"train.steps": 3}, "'train.steps=3'"),
        ({"train": {"steps": 3}}, "'train.steps=3'"),
        (3, "'train.steps=400'"),
        ({}, "'train.steps=400'"),
    ],
)
def test_an_override_that_is_not_text_is_told_how_it_is_written(word, written):
    with pytest.raises(RequestError, match="an override is text, path=value") as refused:
        load.override(raw(), [word])
    assert str(refused.value).endswith(written)


def test_a_field_that_another_kind_of_model_has_is_not_advised():
    recipe = {
        "name": "b",
        "model": {"dim": 32},
        "data": {"corpus": "x"},
        "train": {"steps": 1},
        "stages": {"one": {"stage": "pretrain", "model": {"kind": "mlp"}}},
    }
    with pytest.raises(RequestError) as refused:
        load.recipe(recipe)
    dim, hidden = str(refused.value).splitlines()[1:]
    assert "because model.dim is that of another kind of model" in dim
    assert "or as model.hidden for every stage" in hidden


def test_another_kind_of_model_leaves_the_fields_of_this_one():
    recipe = {"name": "b", "model": {"dim": 32, "mlp": {"kind": "gelu"}}, "stages": {}}
    words = ["model.kind=lstm", "model.dim=8"]
    assert load.override({**recipe, "stages": {"one": {"stage": "pretrain"}}}, words)["model"] == {
        "kind": "lstm",
        "dim": 8,
    }
    kept = {**recipe, "stages": {"one": {"stage": "pretrain"}}}
    assert load.override(kept, ["model.kind=decoder"])["model"]["dim"] == 32


def test_a_stage_to_leave_out_is_named_in_a_list():
    with pytest.raises(RequestError, match=r"without='int8': .* without=\['int8'\]"):
        load.recipe(raw(), "quickstart", "int8")


def test_a_word_changes_one_stage_of_those_that_share_an_anchor():
    text = """
name: shared
data: {corpus: ptb, tokenizer: byte}
stages:
  first: {stage: pretrain, model: {dim: 16, layers: 1}, train: &short {steps: 8, schedule: {warmup: 0.1}}}
  second: &other {stage: pretrain, model: {dim: 16, layers: 1}, train: *short}
  third: {<<: *other, seed: 1}
"""
    words = ("stages.second.train.steps=5", "stages.third.train.schedule.warmup=0.3")
    stages = checked(*words, text=text).stages
    assert [stage.train.steps for stage in stages.values()] == [8, 5, 8]
    assert [stage.train.schedule.warmup for stage in stages.values()] == [0.1, 0.1, 0.3]


@pytest.mark.parametrize("name", ["int", "str", "float", "bool"])
def test_an_unknown_field_may_be_called_like_a_kind_of_value(name):
    text = f"name: a\n{name}: 1\nstages: {{t: {{stage: pretrain, {name}: 1}}}}"
    said = refusal(text=text)
    assert f"  {name}: unknown name" in said
    assert f"stages.t.{name}: unknown name" in said
