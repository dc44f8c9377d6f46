"""What a study file may say, and everything that is refused before anything runs."""

import json

import pytest
import yaml
from toy_study import toy_study

from flyweight.config import study as config
from flyweight.errors import RequestError
from flyweight.studies import cells as study_cells, study_files


@pytest.fixture
def refused(tmp_path):
    """Write a study, load it, and return the message it is refused with."""

    def call(raw, *overrides, yes=False):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(raw, sort_keys=False))
        with pytest.raises(RequestError) as error:
            study_files.load(path, *overrides, yes=yes)
        return str(error.value)

    return call


def test_every_reason_at_once(refused):
    raw = toy_study("story.txt", seeds=[], metrics=["nll", "perplexty"], limit={"runs": 1})
    raw["models"]["bad"] = {
        "config": {
            "dim": 16,
            "layers": 1,
            "attention": {"heads": 3},
            "sharing": {"kind": "repeat", "tims": 2},
        }
    }
    raw["models"]["small"]["fields"] = {"position": "rope"}
    said = refused(raw)
    for part in (
        "seeds: there are none",
        "unknown metric 'perplexty' (did you mean perplexity?)",
        "limit.runs: 1, but this grid has 3 runs",
        "bad: model.sharing.tims: unknown name",
        "models.small: grid.position and fields both set position",
    ):
        assert part in said
    assert "--yes" in said


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["seeds=null"], "seeds"),
        (["seeds=[0, 0]"], "seeds: 0 stands 2 times"),
        (["metrics=[]"], "metrics: there are none"),
        (["protocol=tunned"], "there is no protocol 'tunned' (did you mean tuned?)"),
        (["train.steps=5"], "train.steps: `budgets` say how long a run trains"),
        (["models.small.train.tokens=1M"], "models.small.train.tokens: `budgets`"),
        (["budgets.short.tokens=1M"], "budgets.short: names 2 limits"),
        (["budgets.short.steps=null"], "budgets.short: names 0 limits"),
        (["budgets={}"], "data.story: has no budget"),
        (["models.small.budgets=[long]"], "models.small.budgets: story has no budget 'long'"),
        (
            ["models.small.data=[stori]"],
            "models.small.data: there is no text 'stori' (did you mean story?)",
        ),
        (
            ["train.optimizer.lr=0.1"],
            "train.optimizer.lr: protocols.published.lr gives the rate of every model",
        ),
        (
            ["protocol=tuned", "protocols.tuned.train.validations=0"],
            "validation chooses among the learning rates",
        ),
        (["protocols.published.lr=[0.1, 0.1]"], "protocols.published.lr: 0.1 stands 2 times"),
        (["models.small.grid.context=[16, 32]"], "follows the text"),
        (["models.small.grid.position=[rope, rope]"], "stands 2 times"),
        (["models.small.grid.position=[]"], "has no value"),
        (["models.small.grid={}"], "findings.0.below: no cell of this study belongs to it"),
        (
            ["models.small.config=gpt22"],
            "no model of this name in the catalogue; did you mean gpt2",
        ),
        (["models.small.fields.layerz=2"], "layerz: unknown name (did you mean layers?)"),
        (["data.story.context=[16, 16]"], "data.story.context: 16 stands 2 times"),
        (["only=[large]"], "only: no model is called large"),
        (["limit.runs=5"], "limit.runs: 5, but this grid has 6 runs; start it with --yes"),
        (["train.batch=0"], "train.batch"),
        (["bujet=1"], "bujet: unknown name"),
        (["budgets.short={time: 5}"], "the unit is missing"),
        (["seeds=[-1]"], "has to be at least 0, and is -1"),
        (
            ["seeds=[true, false, 2]"],
            "seeds.0: seeds are whole numbers, for example [0, 1, 2]; found true",
        ),
        (["models.small.data=[]"], "models.small.data: needs at least 1 entry, found 0"),
        (["models.small.context=[]"], "models.small.context: needs at least 1 entry, found 0"),
        (["models.small.budgets=[]"], "models.small.budgets: needs at least 1 entry, found 0"),
        (["data.story.context=[]"], "data.story.context: needs at least 1 entry, found 0"),
        (["protocols.published.lr=[]"], "protocols.published.lr: needs at least 1 entry, found 0"),
        (
            ["models.small.grid.position=[learned, rope, {kind: rope}]"],
            "position=rope and small position={kind: rope} are the",
        ),
        (
            ['models.small.grid.layers=[1, "1"]'],
            "models.small.grid: small position=learned layers=1 stands 2 times",
        ),
        (
            ["models.small.grid.layers=[1, 1.0]"],
            "layers=1 and small position=learned layers=1.0 are the same model",
        ),
        (
            ['models.small.grid={attention.bias: [true, "true"]}'],
            "small attention.bias=true stands 2 times",
        ),
        (
            ["models.small.grid={position: [rope], position.base: [1e3, 1e4]}"],
            "grid.position.base: lies within grid.position",
        ),
        (
            ["models.small.fields.linears={blocks: int8}"],
            "model.linears: matrices stored as int8 cannot be trained",
        ),
        (
            ["seeds=2"],
            "seeds: 2 may be one seed or a number of seeds; write [2] for that seed, [0, 1] for "
            "several",
        ),
        (
            ["seeds=0"],
            "seeds: 0 may be one seed or a number of seeds; write [0] for that seed, [0, 1, 2] "
            "for several",
        ),
        (
            ["models.small.fields.linears={foo: dense}"],
            "model.linears.foo: no layer has such a name",
        ),
        (
            ["models.small.fields.linears={blocks.7.*: dense}"],
            "model.linears.blocks.7.*: no layer has such a name",
        ),
        (
            [
                "models.small.fields.sharing={kind: all, times: 2}",
                "models.small.fields.linears={blocks.2.*: dense}",
            ],
            ".blocks.2.*: no",
        ),
        (
            ["models.small.fields.dim=2147483646"],
            "dim: 2147483646 makes an MLP of 8589934584 channels",
        ),
        (
            ["protocol=tuned", "models.small.train.validations=0"],
            "train.validations: 0 for small, but validation chooses",
        ),
    ],
)
def test_refusals(refused, overrides, part):
    assert part in refused(toy_study("story.txt"), *overrides)


@pytest.mark.parametrize(
    ("finding", "part"),
    [
        ({"metric": "bits"}, "findings.0.metric: 'bits' is none of this study's metrics"),
        ({"flops": 0.1}, "findings.0.flops: belongs to compare: equal_flops"),
        ({"above": {"fields": {"position": "rope"}}}, "below and above name the same cells"),
        ({"above": {"model": "huge"}}, "findings.0.above: no cell"),
        ({"holds": "often"}, "is not one of"),
        ({"claim": " "}, "findings.0.claim: is empty"),
    ],
)
def test_findings_are_checked(refused, finding, part):
    raw = toy_study("story.txt")
    raw["findings"][0] |= finding
    assert part in refused(raw)


def test_findings_that_nothing_could_decide_are_refused(refused):
    model = {"dim": 16, "layers": 1, "attention": {"heads": 2}}
    text = {"corpus": "story.txt", "tokenizer": "byte", "context": 32}
    raw = toy_study("story.txt", data={"t": text, "u": text})
    raw["models"] = {
        "a": {"config": model, "data": "t"},
        "b": {"config": {**model, "dim": 32}, "data": "u"},
    }
    raw["findings"] = [{"claim": "a", "below": {"model": "a"}, "above": {"model": "b"}}]
    assert "findings.0: no cell of below can be compared with one of above" in refused(raw)
    raw["findings"] *= 2
    raw["models"]["b"]["data"] = "t"
    assert "findings.claim: 'a' stands 2 times" in refused(raw)


def test_a_group_of_several_models_needs_validation(refused, tmp_path):
    raw = toy_study("story.txt")
    raw["models"]["small"]["grid"]["layers"] = [1, 2]
    raw["findings"][0]["below"]["fields"]["layers"] = [1, 2]
    raw["models"]["other"] = {"config": {"dim": 16, "layers": 2}}
    raw["findings"] = [
        {"claim": "small below other", "below": {"model": "small"}, "above": {"model": "other"}}
    ]
    said = refused(raw, "train.validations=0")
    assert "findings.0.below: train.validations is 0 for small position=learned layers=1" in said
    assert "findings.0.above" not in said
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(raw))
    assert study_files.load(tmp_path / "study.yaml").name == "toy-study"


def test_a_wrong_name_hides_no_other_fault(refused):
    words = (
        "bujet=1",
        "metrics=[nll, perplexty]",
        "budgets.short.steps=none",
        "models.small.fields.layerz=2",
        "limit.runs=1",
    )
    said = refused(toy_study("story.txt"), *words, "seeds=[0, -1]")
    for part in (
        "bujet: unknown name",
        "perplexty",
        "layerz: unknown name",
        "budgets.short.steps: 'none'",
        "limit.runs: 1",
    ):
        assert said.count(part) == 1
    assert "there are none" not in said  # seeds that cannot be read are not missing as well
    assert "names 0 limits" not in said


def test_no_fault_is_blamed_on_a_group_that_it_emptied(refused):
    said = refused(toy_study("story.txt"), "budgets={}")
    assert "has no budget" in said
    assert "findings.0" not in said


def test_no_fault_is_blamed_on_a_claim_whose_models_cannot_be_read(refused):
    said = refused(toy_study("story.txt"), "models.small.grid.position={kind: rope}")
    assert "models.small.grid" in said
    assert "findings" not in said


def test_a_grid_over_its_size_is_refused_by_its_size_alone(refused):
    raw = toy_study("story.txt", findings=[])
    raw["models"]["small"]["grid"] = {f"head.a{place}": list(range(40)) for place in range(5)}
    assert "307,200,000 runs" in refused(raw)
    said = refused(raw, yes=True)
    assert "102,400,000 cells are more than the 20,000" in said
    assert "head.a0" not in said


def test_a_rate_that_moves_nothing_is_refused(refused):
    raw = toy_study("story.txt", findings=[], protocol="tuned")
    raw["models"]["small"] = {
        "config": {"kind": "linear", "dim": 8},
        "train": {"optimizer": "muon"},
    }
    assert "models.small: the protocol's learning rate is Muon's" in refused(raw)


def test_a_word_reaches_the_fields_of_a_model_that_is_only_a_name(tmp_path, refused):
    path = tmp_path / "study.yaml"
    raw = toy_study("story.txt", models={"small": "tradeoffs/transformer-2"}, findings=[])
    path.write_text(yaml.safe_dump(raw))
    made, wrong = study_cells.cells(study_files.load(path, "models.small.fields.dropout=0.25"))
    assert not wrong and made[0].config.model.dropout.residual == 0.25
    said = refused(raw, "models.small.fields.layerz=3", "seeds=[]", "metrics=[nllx]")
    assert all(
        part in said for part in ("model.layerz: unknown name", "seeds: there are none", "nllx")
    )


def test_numbers_of_runs():
    study = config.parse(toy_study("story.txt"), "toy")
    assert (config.cell_count(study), config.run_count(study)) == (2, 6)
    tuned = config.parse(toy_study("story.txt", protocol="tuned"), "toy")
    assert (config.cell_count(tuned), config.run_count(tuned)) == (2, 8)


def test_json_schema_has_every_definition_it_refers_to():
    schema = json.dumps(config.json_schema())
    parsed = json.loads(schema)
    referred = {part.split('"')[0] for part in schema.split("#/$defs/")[1:]}
    assert referred <= set(parsed["$defs"])
    assert {"ModelFields", "TrainFields"} <= referred
    assert set(parsed["properties"]) == set(config.Study.model_fields)
