import json
import math
import re
import typing

import layout_fixture as light
import pytest
import report_fixture as made

from flyweight import api
from flyweight.config import load, schema
from flyweight.config.layouts import LayoutName
from flyweight.errors import RequestError
from flyweight.records.run_summary import Summary
from flyweight.reports.layouts.content import (
    LinkedCell,
    LinkedFigure,
    LinkedTable,
    TargetTable,
    reasons,
)
from flyweight.reports.layouts.lightgpt2.targets import LESS_60, ONE_MORE, TWICE
from flyweight.reports.layouts.registry import LAYOUTS, layout_of
from flyweight.reports.pages import run as page

KEYS = {
    *(f"table_{number}" for number in range(1, 7)),
    *(f"figure_{number}" for number in range(1, 4)),
    "targets",
    "factors",
}


def content(summary=None):
    filled = layout_of(summary or light.lightgpt2())
    assert filled is not None
    return filled


def table(key, summary=None):
    part = content(summary)[key]
    assert isinstance(part, LinkedTable)
    return {row.label: row.cells for row in part.rows}


def targets(summary=None):
    part = content(summary)["targets"]
    assert isinstance(part, TargetTable)
    return {target.key: target for target in part.targets}


def figure(key, summary=None):
    part = content(summary)[key]
    assert isinstance(part, LinkedFigure)
    return part


def test_every_layout_of_a_recipe_is_registered():
    assert set(LAYOUTS) == set(typing.get_args(LayoutName))


def test_the_json_has_the_papers_parts_and_nothing_else():
    plain = content().json()
    assert set(plain) == KEYS
    json.dumps(plain, allow_nan=False)


def test_no_layout_no_content():
    assert layout_of(made.quickstart()) is None


def test_every_number_names_its_artifact_and_every_gap_its_reason():
    run = light.lightgpt2()
    known = {stage.id for stage in run.stages} | {model.id for model in run.models}
    known |= {artifact for model in run.models for artifact in model.measured.values()}
    for part in content(run).parts:
        for cell in part.cells():
            assert bool(cell.artifacts) != bool(cell.missing), cell
            assert set(cell.artifacts) <= known
            assert (cell.value is None) == bool(cell.missing)


# --- tables ---


def test_table_1_is_of_the_profiles():
    rows = table("table_1")
    base = rows["Baseline"]
    assert base["generate_ms"].value == 40.0 and base["tokens"].value == 20
    assert base["tokens_per_s"].value == pytest.approx(500.0)
    assert base["peak_bytes"].text == "123 MB"
    assert base["cpu_ms"].value == 36.0
    assert "without a device" in base["device_ms"].missing
    assert rows["Light (NF4)"]["tokens_per_s"].value == pytest.approx(800.0)


def test_table_2_is_of_the_groups():
    cells = table("table_2")["Light (NF4)"]
    assert [cells[name].value for name in ("mm", "attention", "addmm")] == [12.5, 6.25, 0.0]


def test_table_3_has_every_benched_model():
    rows = table("table_3")
    assert {"size-small, fp32, flash", "nf4, bf16, flash", "merged, fp32, eager"} <= set(rows)
    fast = rows["nf4, fp32, flash"]
    assert fast["forward_samples_per_s"].value == pytest.approx(1e3 / 3.0)
    assert fast["generate_ms"].value == pytest.approx(1.5)
    low, high = fast["forward_samples_per_s"].low, fast["forward_samples_per_s"].high
    assert low < fast["forward_samples_per_s"].value < high
    assert rows["nf4, bf16, flash"]["forward_samples_per_s"].missing == "not measured in batch 16"


def test_table_4_has_intervals_and_what_the_paper_prints():
    rows = table("table_4")
    assert set(rows) == {"Teacher", "Baseline", "Distilled student"}
    evaluation = made.evaluation(1.80)
    test, validation = rows["Baseline"]["test"], rows["Baseline"]["validation"]
    assert test.value == evaluation.perplexity.value
    assert (test.low, test.high) == (evaluation.perplexity.low, evaluation.perplexity.high)
    assert validation.value > test.value
    assert validation.printed is not None and validation.printed.text == "6.88"
    assert rows["Teacher"]["peak_bytes"].printed.text == "342.32 MB"


def test_table_5_has_what_training_costs():
    rows = table("table_5")
    assert list(rows) == ["Baseline", "LoRA", "LoRA pruned", "Distilled LoRA pruned"]
    assert rows["Baseline"]["peak_bytes"].value == 1000e6
    assert rows["Baseline"]["steps"].text == "800"
    assert rows["Baseline"]["hours"].value == pytest.approx(38 / 3600)
    assert rows["Baseline"]["forward_ms"].value == 10.0
    assert rows["Distilled LoRA pruned"]["peak_bytes"].printed.value == 4024.2
    assert rows["LoRA"]["forward_ms"].missing == "no bench measures baseline-lora"


def test_table_6_shows_the_kernel_and_one_precision():
    rows = table("table_6")
    plain, flash = rows["Baseline"], rows["+ Flash + NF4"]
    assert plain["forward_ms"].value == pytest.approx(12.0)
    assert flash["forward_ms"].value == pytest.approx(3.0)
    assert (plain["kernel"].value, flash["kernel"].value) == ("eager", "flash")
    assert all("fp32" in cells["forward_ms"].setting for cells in rows.values())
    assert flash["generate_samples_per_s"].printed.value == 127.6


def test_factors_change_one_at_a_time():
    part = content()["factors"]
    assert isinstance(part, LinkedTable)
    rows = {row.label: row.cells for row in part.rows}
    levels = [row.factors for row in part.rows]
    assert {each["weights"] for each in levels} == {"unmerged", "merged", "int8", "nf4"}
    assert levels[0] == {
        "weights": "unmerged",
        "precision": "fp32",
        "attention": "eager",
        "batch": 1,
        "engine": "compiled",
    }
    assert any("int4" in note for note in part.notes)
    fast = rows["nf4, bf16, auto, batch 1"]
    assert fast["by_precision"].value == pytest.approx(0.5)
    assert fast["by_weights"].missing == "merged was not measured in bf16, flash attention, batch 1"
    slow = rows["nf4, fp32, eager, batch 1"]
    assert slow["by_weights"].value == pytest.approx(3 / 5)
    assert rows["nf4, fp32, auto, batch 1"]["by_attention"].value == pytest.approx(1 / 1.2)
    assert len(rows["nf4, fp32, auto, batch 1"]["by_attention"].artifacts) == 2


# --- figures ---


def test_figure_1_has_a_bar_for_every_size():
    part = figure("figure_1")
    assert part.categories == ("size-small", "size-large")
    assert [line.label for line in part.lines] == ["peak memory", "forward latency"]
    assert [cell.value for _, cell in part.lines[0].points] == [160e6, 160e6]
    assert len(part.drawings("x-")) == 2


def test_figure_2_has_both_texts_and_their_bounds():
    part = figure("figure_2")
    first, whole = part.lines
    assert (first.label, whole.label) == ("first 1,000 tokens", "all of validation")
    assert [cell.value for _, cell in whole.points] == pytest.approx([20.2, 22.0])
    assert [cell.value for _, cell in first.points] == pytest.approx([30.1, 30.9])
    assert (whole.points[1][1].low, whole.points[1][1].high) == pytest.approx((21.5, 22.5))
    assert [cell.value for cell in part.marks.values()] == pytest.approx([21.0, 31.0])
    _, idle, undecided = part.notes
    assert idle.startswith("At 0.8 adapters are pruned whole") and "2 of 3" in idle
    assert "which side of the bound: 0.8" in undecided
    assert "<svg" in part.drawings("x-")[0].svg


def test_figure_3_has_the_curves_of_table_5():
    part = figure("figure_3", light.without("baseline-lora"))
    drawn = {line.label: line for line in part.lines}
    assert list(drawn) == ["Baseline", "LoRA", "LoRA pruned", "Distilled LoRA pruned"]
    step, last = drawn["Baseline"].points[-1]
    assert step == 800
    summary = light.lightgpt2().model("baseline")
    assert summary.curve is not None
    assert last.value == pytest.approx(math.exp(summary.curve.validation[-1].nll))
    assert "no stage baseline-lora" in drawn["LoRA"].missing
    assert len(part.drawings("x-")) == 1


# --- targets ---


def test_targets_that_are_reached_and_not():
    judged = targets()
    assert {key: target.verdict for key, target in judged.items()} == {
        "training_memory": "reached",
        "inference_memory": "reached",
        "forward_latency": "reached",
        "forward_throughput": "reached",
        "perplexity": "not reached",
    }
    memory = judged["training_memory"].judged[0]
    assert (memory.before.value, memory.after.value) == (1000e6, 350e6)
    assert (
        memory.change.value == pytest.approx(-0.65) and memory.change.text == "\N{MINUS SIGN}65.0 %"
    )
    alone, pipeline = judged["training_memory"].controls
    assert alone.change.value == pytest.approx(-0.3) and alone.verdict == "not reached"
    assert pipeline.after.value == 2000e6 and pipeline.verdict == "not reached"


def test_a_planted_light_model_that_is_too_slow_misses_its_targets(monkeypatch):
    monkeypatch.setitem(light.FORWARD_MS, "nf4", 4.5)  # 55 % less than the baseline's 10 ms
    judged = targets()
    assert judged["forward_latency"].verdict == "not reached"
    assert judged["forward_latency"].judged[0].change.text == "\N{MINUS SIGN}55.0 %"
    assert judged["forward_throughput"].verdict == "reached"
    monkeypatch.setitem(light.FORWARD_MS, "nf4", 6.0)
    assert targets()["forward_throughput"].verdict == "not reached"


@pytest.mark.parametrize("milliseconds", [3.95, 4.1])
def test_on_either_side_of_the_bound_a_range_that_holds_it_is_undecided(monkeypatch, milliseconds):
    monkeypatch.setitem(light.FORWARD_MS, "nf4", milliseconds)  # 60 % less is 4 ms
    assert targets()["forward_latency"].verdict == "undecided"
    assert targets()["forward_throughput"].verdict == "reached"


def test_speed_is_judged_with_the_same_precision_and_attention_on_both_sides():
    latency = targets()["forward_latency"]
    assert latency.judged[0].what == "both in fp32, flash attention, batch 1"
    papers = latency.controls[0]
    assert papers.what.startswith("as the paper compares, several factors at once")
    assert (papers.before.value, papers.after.value) == pytest.approx((12.0, 1.5))
    alone = latency.controls[-1]
    assert alone.verdict == "not measured" and alone.change.missing == "no bench measures alone-nf4"


def test_perplexity_is_judged_on_both_splits_and_paired_on_test():
    validation, test = targets()["perplexity"].judged
    assert "validation split" in validation.what and "test split" in test.what
    assert validation.change.low is None
    pair_on_validation = made.compare("nf4", "baseline", light.BITS["nf4"] - light.BITS["baseline"])
    paired = targets(light.lightgpt2(validation=(pair_on_validation,)))["perplexity"].judged[0]
    assert paired.change.low < paired.change.value < paired.change.high
    assert paired.verdict == "not reached"
    pair = light.lightgpt2().comparisons[0].nll
    assert pair is not None and test.before.number is not None
    low, high = (test.before.number * math.expm1(-end) for end in (pair.high, pair.low))
    assert (test.change.low, test.change.high) == pytest.approx((low, high))
    assert low < test.change.value < high


def test_other_tokens_or_windows_are_not_compared():
    def changed(**update):
        run = light.lightgpt2()
        stages = [
            each.model_copy(update={"evaluate": each.evaluate.model_copy(update=update)})
            if each.name == "validation-nf4"
            else each
            for each in run.stages
        ]
        return targets(run.model_copy(update={"stages": tuple(stages)}))["perplexity"]

    for update, said in (({"corpus": "another"}, "other tokens"), ({"window": 64}, "windows")):
        validation = changed(**update).judged[0]
        assert validation.verdict == "not measured" and said in validation.change.missing


@pytest.mark.parametrize(
    ("bound", "change", "holds"),
    [
        (LESS_60, -0.6, True),
        (LESS_60, -0.59, False),
        (TWICE, 2.0, True),
        (TWICE, 1.99, False),
        (ONE_MORE, 1.0, True),
        (ONE_MORE, math.inf, False),
        (ONE_MORE, math.nan, False),
    ],
)
def test_bounds(bound, change, holds):
    assert bound.holds(change) is holds


def test_a_peak_of_zero_has_no_shares(monkeypatch):
    monkeypatch.setitem(light.PEAK, "baseline", 0.0)
    comparison = targets()["inference_memory"].judged[0]
    assert comparison.verdict == "not measured" and "is 0" in comparison.change.missing


# --- what is missing ---


@pytest.mark.parametrize("role", ["baseline", "nf4", "merged", "pruned", "teacher", "tuned"])
def test_a_missing_stage_says_why(role):
    filled = content(light.without(role))
    why = f"there is no stage {role}: it is not in the recipe, or was left out"
    assert any(why in reason for part in filled.parts for reason in reasons(part)), role
    json.dumps(filled.json(), allow_nan=False)
    assert set(filled.json()) == KEYS


def test_a_stage_that_the_budget_left_unmade_says_so():
    run = light.without("nf4").model_copy(update={"unmade": ("nf4",)})
    cells = table("table_1", run)["Light (NF4)"]
    assert cells["tokens"].missing == "the budget was spent before stage nf4 was made"
    assert targets(run)["forward_latency"].verdict == "not measured"


def test_a_metric_that_is_not_measured_says_so():
    run = light.lightgpt2()
    stages = tuple(each for each in run.stages if each.stage not in ("evaluate", "bench", "init"))
    bare = run.model_copy(update={"stages": stages})
    assert (
        "a stage evaluate with split: validation"
        in table("table_4", bare)["Baseline"]["validation"].missing
    )
    assert content(bare)["table_3"].empty == "the run has no bench"
    assert content(bare)["figure_1"].lines[0].missing == "the recipe has no stage init"


def test_a_collapsed_model_is_valid_json_and_misses_the_target():
    models = tuple(
        light.compared(name, math.inf if name == "nf4" else bits)
        for name, bits in light.BITS.items()
    )
    filled = content(light.lightgpt2(models=models, comparisons=()))
    text = json.dumps(filled.json(), allow_nan=False)
    assert json.loads(text) == filled.json()


@pytest.mark.parametrize("name", ["lightgpt2", "lightgpt2-small"])
def test_the_shipped_recipes_measure_what_the_layout_shows(name):
    filled = content(light.of_recipe(api.load(name)))
    processor = "the run computed on the processor, without a device"
    for key in ("table_1", "table_2", "table_4", "figure_1", "figure_2", "figure_3"):
        assert set(reasons(filled[key])) <= {processor}, key
    part = filled["targets"]
    assert isinstance(part, TargetTable)
    assert all(target.verdict != "not measured" for target in part.targets)
    assert "factors" in filled.json() and filled["factors"].json()["rows"]


# --- page and recipe ---


def test_the_page_shows_the_numbers_of_the_json():
    run = light.lightgpt2()
    html = page.render([run])
    shown = re.findall(r'<a href="#paper0-[^"]*" title="([^"]*)">([^<]*)</a>', html)
    filled = content(run)
    cells = [
        (cell.title, cell.text)
        for part in filled.parts
        if not isinstance(part, LinkedFigure)
        for cell in part.cells()
        if not cell.missing
    ]
    assert shown == cells
    for part in filled.parts:
        assert f'id="paper0-{part.key}"' in html
        for reason in reasons(part):
            assert f"<li>{reason}</li>" in html
    for artifact in filled.artifacts():
        assert f'<tr id="paper0-{artifact}">' in html
    assert html.count('<span class="sub printed">paper: ') > 60


def test_a_page_over_several_runs_has_each_layout_once():
    html = page.render([light.lightgpt2(), made.quickstart(), light.lightgpt2(name="second")])
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert {"paper0-targets", "paper1-table_6"} <= set(ids) and "paper2-targets" not in ids
    assert set(re.findall(r'href="#([^"]*)"', html)) <= set(ids)
    assert "second: LightGPT2" in html


def test_the_files_of_a_run(tmp_path):
    folder = tmp_path / "lightgpt2"
    folder.mkdir()
    light.lightgpt2().write(folder)
    page.write(folder)
    written = json.loads((folder / "report" / "lightgpt2.json").read_text())
    assert written == json.loads(json.dumps(content().json()))
    assert Summary.read(folder).layout == "lightgpt2"


def test_a_link_of_an_earlier_recipe_is_not_written_into(tmp_path):
    folder, other = tmp_path / "lightgpt2", tmp_path / "pretrain-12345678"
    folder.mkdir()
    other.mkdir()
    (folder / "report").symlink_to(other)
    light.lightgpt2().write(folder)
    page.write(folder)
    assert list(other.iterdir()) == []
    assert (folder / "report" / "lightgpt2.json").is_file()


RECIPE = {
    "name": "toy",
    "stages": {
        "m": {"stage": "init", "model": {"dim": 8, "layers": 1, "vocab_size": 9, "context": 8}}
    },
}


def test_a_layout_is_written_only_where_one_is_asked_for():
    plain = load.recipe(RECIPE)
    assert "layout" not in plain.model_dump(mode="json")["report"]
    asked = load.recipe({**RECIPE, "report": {"layout": "lightgpt2"}})
    assert asked.report == schema.Report(layout="lightgpt2")


def test_an_unknown_layout_and_a_stage_in_its_place_are_refused():
    with pytest.raises(
        RequestError, match=r"report\.layout: 'lightgpt3' is not one of 'lightgpt2'"
    ):
        load.recipe({**RECIPE, "report": {"layout": "lightgpt3"}})
    stages = {"report": RECIPE["stages"]["m"]}
    load.recipe({**RECIPE, "stages": stages})
    with pytest.raises(RequestError, match=r"stages\.report: report\.layout writes a folder"):
        load.recipe({**RECIPE, "stages": stages, "report": {"layout": "lightgpt2"}})


def test_a_cell_has_one_shape():
    full = LinkedCell(1.0, "ms", "1", artifacts=("bench-1", "bench-2"), setting="fp32").json()
    assert full["artifact"] == "bench-1" and full["artifacts"] == ["bench-1", "bench-2"]
    empty = LinkedCell(missing="why").json()
    assert full.keys() == empty.keys() and empty["artifact"] is None
