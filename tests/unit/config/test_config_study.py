"""What a study file may say, and everything that is refused before anything runs."""

import json

import pytest
import yaml
from toy_study import toy_study

from flyweight.config import study as config
from flyweight.errors import RequestError
from flyweight.study import cells as studies


@pytest.fixture
def refused(tmp_path):
    """Write a study, load it, and return the message it is refused with."""

    def call(raw, *overrides, yes=False):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(raw, sort_keys=False))
        with pytest.raises(RequestError) as error:
            studies.load(path, *overrides, yes=yes)
        return str(error.value)

    return call


def test_every_reason_at_once(refused):
    raw = toy_study("story.txt", seeds=[], metrics=["nll", "perplexty"], limit={"runs": 1})
    raw["models"]["bad"] = {
        "config": {"dim": 16, "layers": 1, "attention": {"heads": 3}, "sharing": {"kind": "repeat", "tims": 2}}
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
        (["models.small.data=[stori]"], "models.small.data: there is no text 'stori' (did you mean story?)"),
        (["train.optimizer.lr=0.1"], "train.optimizer.lr: protocols.published.lr gives the rate of every model"),
        (["protocol=tuned", "protocols.tuned.train.validations=0"], "validation chooses among the learning rates"),
        (["protocols.published.lr=[0.1, 0.1]"], "protocols.published.lr: 0.1 stands 2 times"),
        (["models.small.grid.context=[16, 32]"], "follows the text"),
        (["models.small.grid.position=[rope, rope]"], "stands 2 times"),
        (["models.small.grid.position=[]"], "has no value"),
        (["models.small.grid={}"], "findings.0.below: no cell of this study belongs to it"),
        (["models.small.config=gpt22"], "no model of this name in the catalogue; did you mean gpt2"),
        (["models.small.fields.layerz=2"], "layerz: unknown name (did you mean layers?)"),
        (["data.story.context=[16, 16]"], "data.story.context: 16 stands 2 times"),
        (["only=[large]"], "only: no model is called large"),
        (["limit.runs=5"], "limit.runs: 5, but this grid has 6 runs; start it with --yes"),
        (["train.batch=0"], "train.batch"),
        (["bujet=1"], "bujet: unknown name"),
        (["budgets.short={time: 5}"], "the unit is missing"),
        (["seeds=[-1]"], "greater than or equal to 0"),
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
    ],
)
def test_findings_are_checked(refused, finding, part):
    raw = toy_study("story.txt")
    raw["findings"][0] |= finding
    assert part in refused(raw)


def test_a_grid_over_its_size_is_refused_by_its_size_alone(refused):
    raw = toy_study("story.txt", findings=[])
    raw["models"]["small"]["grid"] = {f"head.a{place}": list(range(40)) for place in range(5)}
    assert "307,200,000 runs" in refused(raw)


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
