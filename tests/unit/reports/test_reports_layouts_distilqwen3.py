import json
import math

import distilqwen3_fixture as poster
import pytest
import report_fixture as made

from flyweight import api
from flyweight.config import catalogue
from flyweight.reports.layouts.content import LinkedFigure, LinkedTable, TargetTable, reasons
from flyweight.reports.layouts.distilqwen3 import roles
from flyweight.reports.layouts.distilqwen3.seeds import SLICES
from flyweight.reports.layouts.registry import layout_of
from flyweight.reports.pages import run as page
from flyweight.spec import flops

KEYS = {"claims", "figure_2", "figure_3", "figure_4", "models", "experiments"}


@pytest.fixture(scope="module")
def run():
    return poster.run()


def content(run):
    filled = layout_of(run)
    assert filled is not None
    return filled


def figure(run, key) -> LinkedFigure:
    part = content(run)[key]
    assert isinstance(part, LinkedFigure)
    return part


def table(run, key):
    part = content(run)[key]
    assert isinstance(part, LinkedTable)
    return {row.stage: row.cells for row in part.rows}


def claims(run):
    part = content(run)["claims"]
    assert isinstance(part, TargetTable)
    return {target.key: target for target in part.targets}


def test_the_json_has_the_posters_parts_and_nothing_else(run):
    plain = content(run).json()
    assert set(plain) == KEYS
    json.dumps(plain, allow_nan=False)


def test_every_number_names_its_artifact_and_every_gap_its_reason(run):
    known = {stage.id for stage in run.stages} | {model.id for model in run.models}
    known |= {artifact for model in run.models for artifact in model.measured.values()}
    for part in content(run).parts:
        for cell in part.cells():
            assert bool(cell.artifacts) != bool(cell.missing), cell
            assert set(cell.artifacts) <= known
            assert (cell.value is None) == bool(cell.missing)


def test_the_small_recipe_measures_all_but_what_does_not_fit_here(run):
    filled = content(run)
    for key in ("figure_2", "figure_3", "experiments"):
        assert reasons(filled[key]) == []
    gaps = reasons(filled["models"])
    assert len(gaps) == 3
    assert all("Qwen3-8B" in gap or "qwen3-8b" in gap or "random weights" in gap for gap in gaps)
    verdicts = {key: claim.verdict for key, claim in claims(run).items()}
    assert {key for key, verdict in verdicts.items() if verdict == "not measured"} == {
        "parameters",
        "decode_tokens_per_s",
        "memory",
    }


# --- figures ---


def test_figure_2_is_over_seeds(run):
    part = figure(run, "figure_2")
    assert [line.stage for line in part.lines] == list(roles.BOTTLENECKS)
    line = part.lines[0]
    assert len(line.points) == SLICES and len(line.points[0][1].artifacts) == 3
    last = line.points[-1][1]
    assert last.high - last.low == pytest.approx(0.02)
    assert last.value == pytest.approx((last.low + last.high) / 2)
    assert 3.0 < last.value < 3.0 + 2 / SLICES + 0.02
    assert line.points[0][1].value > 4.5
    assert "<svg" in part.drawings("x-")[0].svg


def test_a_variant_of_one_seed_is_its_stage(run):
    stages = [each for each in run.stages if each.name not in ("once-1", "once-2")]
    renamed = [
        each.model_copy(update={"name": "once"}) if each.name == "once-0" else each
        for each in stages
    ]
    alone = run.model_copy(update={"stages": tuple(renamed)})
    cell = table(alone, "experiments")["once"]["last"]
    assert cell.sub == "" and len(cell.artifacts) == 1


def test_figure_3_is_one_axis(run):
    part = figure(run, "figure_3")
    lines = {line.stage: line for line in part.lines}
    assert lines["poster-pretrained"].points[-1][0] == 300
    assert lines["poster"].points[0][0] > 300 and lines["poster"].points[-1][0] == 600
    assert lines["poster-squad"].points[-1][0] == 660
    value = run.model("poster").curve.validation[-1].nll
    assert lines["poster"].points[-1][1].value == pytest.approx(math.exp(value))
    assert len(part.drawings("x-")) == 1


def test_figure_4_has_the_numbers_of_the_table(run):
    part, rows = figure(run, "figure_4"), table(run, "models")
    assert part.categories == tuple(roles.COMPARED.values())
    for line, key in zip(part.lines, ("parameters", "disk_bytes"), strict=False):
        assert [cell for _, cell in line.points] == [cells[key] for cells in rows.values()]
    assert rows["gpt2"]["parameters"].value == 124_439_808
    assert rows["gpt2"]["bits_per_byte"].missing == (
        "gpt2 has random weights here, which only tell size and speed"
    )
    assert rows["poster"]["squad"].value == 8.0
    assert rows["poster"]["squad"].setting.startswith("fine-tuned on it; 100 rows")
    assert rows["teacher"]["dialogue"].setting.startswith("as it is")
    assert rows["poster-nf4"]["summarize"].artifacts != rows["poster"]["summarize"].artifacts


def test_what_was_measured_of_no_model_is_not_drawn(run):
    stages = tuple(each for each in run.stages if each.stage != "score")
    part = figure(run.model_copy(update={"stages": stages}), "figure_4")
    assert len(part.drawings("x-")) == 4 and len(part.lines) == 7


def test_a_model_that_does_not_fit_says_what_it_would_take(run):
    cells = table(run, "models")["qwen3-8b"]
    memory = run.environment.memory_bytes / 1e9
    said = cells["parameters"].missing
    assert said.startswith("there is no stage qwen3-8b") and "8.19 G parameters" in said
    assert f"this machine has {memory:.3g} GB" in said


def test_models_of_another_text_are_not_compared(run):
    other = made.corpus(fingerprint="another", source="b")
    corpora = (run.corpus[0].model_copy(update={"source": "a"}), other)
    models = [
        each.model_copy(update={"evaluate": each.evaluate.model_copy(update={"corpus": "another"})})
        if each.name == "teacher"
        else each
        for each in run.models
    ]
    mixed = run.model_copy(update={"corpus": corpora, "models": tuple(models)})
    rows = table(mixed, "models")
    assert (
        rows["teacher"]["bits_per_byte"].missing == "teacher was scored on another text than poster"
    )
    assert rows["independent"]["bits_per_byte"].value == pytest.approx(1.1)


# --- claims ---


def test_the_bottleneck_is_judged_at_equal_parameters_and_at_equal_flops(run):
    made_claims = claims(run)
    for part in ("start", "fall", "end"):
        claim = made_claims[f"bottleneck_{part}"]
        assert claim.verdict == "reached"
        assert [each.change.value for each in claim.judged] == pytest.approx([-0.2, -0.1])
        assert claim.controls[0].verdict == "not reached"  # the poster's own comparison
    assert len(made_claims["bottleneck_end"].controls) == 3


@pytest.mark.parametrize("other", ["none-parameters", "none-flops"])
def test_a_planted_gain_at_one_of_both_alone_is_not_reached(monkeypatch, other):
    monkeypatch.setitem(poster.LOSS, other, 2.9)
    assert claims(poster.run())["bottleneck_end"].verdict == "not reached"


def test_within_the_spread_of_seeds_nothing_is_decided(monkeypatch):
    monkeypatch.setitem(poster.LOSS, "none-flops", 3.01)
    judged = claims(poster.run())["bottleneck_end"].judged[1]
    assert judged.change.value < 0 and judged.verdict == "undecided"


def test_distillation_is_paired_with_the_same_model_alone(run):
    claim = claims(run)["distillation"]
    assert claim.verdict == "reached"
    judged = claim.judged[0]
    assert judged.change.value == pytest.approx(-0.05)
    assert judged.change.low < -0.05 < judged.change.high
    assert claim.controls[0].verdict == "not reached"  # for the same compute alone is better


def test_sharing_saves_and_is_better_than_one_use(run):
    claim = claims(run)["sharing"]
    assert [each.verdict for each in claim.judged] == ["reached", "reached"]
    assert claim.judged[0].change.value == pytest.approx(1.3 / 2 - 1)
    assert claim.controls[0].verdict == "not reached"  # a layer for each use is better


def test_perplexities_are_held_to_the_posters_numbers(run, monkeypatch):
    made_claims = claims(run)
    first, last = made_claims["pretraining"].judged[0].before, made_claims["pretraining"].judged[0]
    assert first.value > last.after.value and last.change.value == last.after.value
    verdict = "reached" if last.after.value <= 50 else "not reached"
    assert made_claims["pretraining"].verdict == verdict
    assert len(made_claims["fine_tuning"].judged) == 3


def test_memory_is_judged_where_it_was_limited(run):
    assert "budget.memory" in claims(run)["memory"].judged[0].change.missing
    lines = tuple(
        line.model_copy(update={"limit": 20e9}) if line.name == "memory" else line
        for line in run.budget
    )
    assert any(line.name == "memory" for line in lines)
    claim = claims(run.model_copy(update={"budget": lines}))["memory"]
    assert claim.verdict == "reached" and claim.judged[0].change.text == "900 MB"


# --- what is missing ---


@pytest.mark.parametrize("role", ["poster", "teacher", "independent", "bottleneck-0", "poster-nf4"])
def test_a_missing_stage_says_why(role):
    filled = content(poster.without(role))
    name = role.partition("-0")[0]
    assert any(name in reason for part in filled.parts for reason in reasons(part)) or (
        role in ("teacher", "bottleneck-0")
    )
    json.dumps(filled.json(), allow_nan=False)


def test_without_a_variant_its_claims_are_not_measured():
    names = [f"bottleneck-{seed}" for seed in range(3)]
    judged = claims(poster.without(*names))
    assert judged["bottleneck_end"].verdict == "not measured"
    why = judged["bottleneck_end"].judged[0].change.missing
    assert why == "there is no stage bottleneck-0: it is not in the recipe, or was left out"


# --- page and recipes ---


def test_the_page_shows_every_number(run):
    html = page.render([run])
    for part in content(run).parts:
        assert f'id="paper0-{part.key}"' in html
    for artifact in content(run).artifacts():
        assert f'<tr id="paper0-{artifact}">' in html
    assert '<th scope="col">ours</th>' in html


def config(recipe, name):
    return recipe.stages[name].model.resolved(9_618, 256)


def test_controls_of_the_small_recipe_are_equal():
    recipe = api.load("distilqwen3-small")
    counts = {name: flops.parameters(config(recipe, f"{name}-0")) for name in roles.VARIANTS}
    bottleneck = counts["bottleneck"]
    assert counts["none-parameters"] == bottleneck
    whole = [
        flops.forward_flops(config(recipe, f"{name}-0"), 256)
        for name in ("bottleneck", "none-flops")
    ]
    assert whole[1] == pytest.approx(whole[0], rel=0.001)
    once = counts["once"]
    assert once.unique == bottleneck.unique - 8 * 128  # the index for each use
    assert counts["none"].unique > bottleneck.unique


def test_other_models_are_shapes_of_the_catalogue():
    assert set(roles.SHAPES) == set(roles.OTHERS)
    assert set(roles.SHAPES.values()) <= set(catalogue.names())
