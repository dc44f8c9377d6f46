from typing import Any

import pytest

from flyweight.config.schema import ModelConfig
from flyweight.errors import RequestError
from flyweight.model import linear
from flyweight.model.decoder import Decoder
from flyweight.spec.linears import bigram_rows, check_patterns, kind_of, linear_names


def config(**fields: Any) -> ModelConfig:
    return ModelConfig.model_validate(
        {"vocab_size": 10, "context": 8, "dim": 16, "layers": 2, **fields}
    ).resolved()


@pytest.mark.parametrize("mlp", ["gelu", "relu2", "swiglu"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bigram", ["none", "exact"])
def test_names_are_those_of_the_built_model(mlp: str, tied: bool, bigram: str) -> None:
    named = config(mlp=mlp, embedding={"tied": tied, "bigram": bigram})
    built = [
        name
        for name, module in Decoder(named).named_modules()
        if isinstance(module, tuple(linear.KINDS.values()))
    ]
    assert sorted(linear_names(named)) == sorted(built)


def test_the_first_pattern_that_matches_decides() -> None:
    mixed = config(
        linears={
            "blocks.0.mlp.*": "int8",
            "blocks.*": {"kind": "nf4", "block": 32},
            "embedding": "int8",
        }
    )
    kinds = {name: kind_of(mixed, name).kind for name in linear_names(mixed)}
    assert kinds["blocks.0.mlp.up"] == "int8"
    assert kinds["blocks.1.mlp.up"] == kinds["blocks.0.attention.q"] == "nf4"
    assert kinds["embedding.tokens"] == "int8"
    assert kind_of(config(), "embedding.tokens").kind == "dense"


def test_a_pattern_names_a_module_whole_and_not_the_start_of_its_name() -> None:
    assert kind_of(config(linears={"embed*": "int8"}), "embedding.tokens").kind == "int8"
    assert (
        kind_of(config(linears={"blocks.1": "int8"}, layers=12), "blocks.11.mlp.up").kind == "dense"
    )
    assert (
        kind_of(config(linears={"blocks.1": "int8"}, layers=12), "blocks.1.mlp.up").kind == "int8"
    )


def test_a_pattern_that_matches_nothing_is_refused_by_name() -> None:
    with pytest.raises(
        RequestError, match=r"linears\.block\.\*\.mlp: no layer has such a name.*blocks\.0\.mlp"
    ):
        Decoder(config(linears={"block.*.mlp": "int8"}))
    check_patterns(
        config(linears={"head": "int8", "embedding.bigram": "int8", "blocks.*": "int8"}, layers=0)
    )


def test_bigram_rows() -> None:
    assert bigram_rows(config()) == 0
    assert bigram_rows(config(embedding={"bigram": "exact"})) == 11 * 10
    assert bigram_rows(config(embedding={"bigram": {"kind": "hashed", "buckets": 7}})) == 7
