"""What an artifact's id depends on."""

import pytest

from flyweight.config import schema
from flyweight.store.stage import drops, identity_config

FIELDS = {"stage": "pretrain", "data": {"corpus": "ptb"}, "model": {"dim": 16, "layers": 1}}


def test_what_is_done_where_memory_runs_out_changes_no_id():
    halve, stop = (
        schema.Pretrain.model_validate({**FIELDS, "train": {"steps": 2, "on_oom": on_oom}})
        for on_oom in ("halve", "stop")
    )
    assert halve.model_dump()["train"].get("on_oom") is None
    assert stop.model_dump()["train"]["on_oom"] == "stop"
    assert identity_config(halve) == identity_config(stop)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (schema.ModelConfig(dim=16, layers=1), False),
        (
            schema.ModelConfig.model_validate({"dim": 16, "layers": 1, "dropout": {"mlp": 0.1}}),
            True,
        ),
        (schema.LstmConfig(dim=16), False),
        (schema.LstmConfig(dim=16, dropout=0.1), True),
        (schema.Lora(), False),
        (schema.Lora(dropout=0.1), True),
    ],
    ids=str,
)
def test_a_dropout_is_found_wherever_it_is(model, expected):
    assert drops([{"train": {}}, {"models": [model.model_dump()]}]) == expected
