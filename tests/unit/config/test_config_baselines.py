import pytest
from pydantic import TypeAdapter, ValidationError

from flyweight.config import load, schema
from flyweight.config.baselines import kind_of_model
from flyweight.errors import RequestError
from flyweight.store.stage import identity_config


def architecture(**fields):
    return TypeAdapter(schema.Architecture).validate_python(fields)


def test_a_model_without_a_kind_is_a_decoder_and_is_written_as_before() -> None:
    plain, named = architecture(dim=32, layers=1), architecture(kind="decoder", dim=32, layers=1)
    assert plain == named == schema.ModelConfig(dim=32, layers=1)
    assert "kind" not in named.model_dump()
    stage = load.check_stage(
        {
            "stage": "pretrain",
            "model": {"kind": "decoder", "dim": 32, "layers": 1},
            "data": {"corpus": "ptb"},
        }
    )
    assert "kind" not in identity_config(stage)["model"]


@pytest.mark.parametrize(
    "fields", [{"kind": "linear"}, {"kind": "mlp", "hidden": 8}, {"kind": "lstm"}]
)
def test_what_is_written_is_read_back(fields) -> None:
    config = architecture(dim=16, **fields).resolved(vocab_size=50, context=32)
    assert architecture(**config.model_dump(mode="json")) == config == config.resolved()
    assert kind_of_model(config) == kind_of_model(config.model_dump()) == fields["kind"]


def test_derived_numbers_follow_the_text() -> None:
    assert architecture(kind="linear", dim=4).resolved(9, 32).history == 32
    assert architecture(kind="mlp", dim=4, hidden=5, history=3).resolved(9, 32).history == 3
    assert architecture(kind="lstm", dim=4).resolved(9, 32).hidden == 4
    with pytest.raises(ValueError, match="vocab_size and context"):
        architecture(kind="lstm", dim=4).resolved(9)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ValidationError, match=r"tied: false; linears.head.block: 3 is odd"):
        architecture(kind="lstm", dim=4, hidden=5, linears={"head": {"kind": "nf4", "block": 3}})
    with pytest.raises(
        RequestError,
        match=r"history: 64 is longer than context 32, so its oldest places would never see a "
        r"token",
    ):
        load.resolved(architecture(kind="linear", dim=4, history=64), "here", 9, 32)


def recipe(model, default=None):
    raw = {
        "name": "r",
        "data": {"corpus": "ptb"},
        "stages": {"a": {"stage": "pretrain", "model": model}},
    }
    return load.recipe({**raw, "model": default} if default is not None else raw)


def test_a_kind_of_its_own_replaces_the_recipes_default_model_whole() -> None:
    decoder, linear = {"dim": 32, "layers": 1, "mlp": "relu2"}, {"kind": "linear", "dim": 8}
    assert recipe(linear, decoder).stages["a"].model == schema.LinearConfig(dim=8)
    assert recipe({"dim": 16}, linear).stages["a"].model == schema.LinearConfig(dim=16)
    assert recipe({"kind": "decoder", "dim": 32, "layers": 1}, linear).stages["a"].model.dim == 32
    assert recipe({"kind": "decoder", "dim": 64}, decoder).stages["a"].model.mlp.kind == "relu2"


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            {"kind": "mlp", "dim": 8, "hiden": 9, "hidden": 9},
            r"stages\.a\.model\.hiden: unknown name \(did you mean hidden\?\)",
        ),
        ({"kind": "mlp", "dim": 8}, r"stages\.a\.model\.hidden: is missing"),
        ({"kind": "linear", "dim": 8, "mlp": "relu2"}, r"stages\.a\.model\.mlp: unknown name"),
        ({"dim": 8, "layers": 1, "hidden": 4}, r"stages\.a\.model\.hidden: unknown name"),
        (
            {"dim": 8, "layers": 1, "mlp": {"kind": "gelu", "hidden": 0}},
            r"stages\.a\.model\.mlp\.hidden: ",
        ),
        (
            {"kind": "lstn", "dim": 8},
            r"stages\.a\.model: unknown kind 'lstn' \(did you mean lstm\?\)",
        ),
        (
            {"kind": "lstm", "dim": 8, "hidden": 9},
            r"stages\.a\.model: tied: the head can be the embedding only",
        ),
    ],
)
def test_faults_name_the_path_as_it_was_written(model, told) -> None:
    with pytest.raises(RequestError, match=told):
        recipe(model)
    path = told.replace(r"stages\.a\.model: ", r"\(top level\): ").replace(
        r"stages\.a\.model\.", ""
    )
    with pytest.raises(RequestError, match=path):
        load.model_config(model, "here")


def test_the_json_schema_knows_every_kind() -> None:
    result = load.json_schema()
    *kinds, shipped = result["properties"]["model"]["anyOf"]
    names = [choice["$ref"].rsplit("/", 1)[1] for choice in kinds]
    assert names == ["ModelConfig", "LinearConfig", "MlpConfig", "LstmConfig"]
    assert "gpt2" in shipped["enum"]
    assert result["$defs"]["ModelConfig"]["properties"]["kind"] == {
        "enum": ["decoder", *shipped["enum"]],
        "default": "decoder",
    }
    assert not any(
        "required" in result["$defs"][name] and result["$defs"][name]["required"] for name in names
    )
