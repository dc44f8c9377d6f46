import pytest
import report_fixture as made

from flyweight.reports.models import groups, ranked_models
from flyweight.reports.tables import run as tables


def group(**changes):
    return groups(ranked_models([made.quickstart(**changes)]))[0]


def test_pruned_models_have_their_zeros_and_others_none():
    plain = tables.table(group())
    assert not {"sparsity", "adapter_sparsity"} & {column.key for column in plain.columns}
    models = (made.model("a"), made.model("b", sparsity=0.6004, adapter_sparsity=0.3))
    text = tables.markdown(group(models=models, comparisons=()))
    assert "zeros" in text and "60.0 %" in text and "30.0 %" in text


def test_a_model_made_of_one_that_is_not_compared_has_what_that_one_cost():
    packed = made.model("b", training=None, input=None, total_flops=3e12, total_seconds=60.0)
    shown = group(models=(made.model("a"), packed), comparisons=())
    (row,) = [line for line in tables.markdown(shown).splitlines() if line.startswith("| b |")]
    assert "none (Σ 3 T)" in row and "none (Σ 60 s)" in row
    total = ranked_models([made.quickstart(models=(packed,), comparisons=())])[0].total("flops")
    assert total == pytest.approx(3e12)
