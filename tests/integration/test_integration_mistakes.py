"""The ten mistakes of docs/lightgpt2.md, made at toy size, and the page's tables."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "bench_mistakes.py"
PUBLISHED, RIGHT = "as published", "as it should be"


def made(folder, data, *mistakes):
    """The values of the mistakes' rows by metric and column, lowest first."""
    subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--data-dir", data, "--only", *map(str, mistakes)],
        check=True,
        env={**os.environ, "RESULTS": str(folder)},
        capture_output=True,
    )
    found = {}
    with open(folder / "mistakes.csv", newline="") as file:
        for row in csv.DictReader(file):
            column = 0 if row["contestant"] == PUBLISHED else 1
            found.setdefault(row["metric"], ([], []))[column].append(float(row["value"]))
    return {metric: tuple(sorted(column) for column in both) for metric, both in found.items()}


@pytest.fixture(scope="module")
def quality(tmp_path_factory, real_data):
    return made(tmp_path_factory.mktemp("quality"), real_data, 1, 2, 3, 4, 6, 8, 10)


def one(found, metric):
    ((published,), (right,)) = found[metric]
    return published, right


def test_counted_padding_deflates_more_with_every_batch_and_the_score_stays(quality):
    sizes = [one(quality, f"perplexity of one model, scored {n} at once") for n in (4, 16, 64)]
    for deflated, score in sizes:
        assert deflated < 0.5 * score
        assert score == pytest.approx(sizes[0][1], rel=1e-5)
    first = one(quality, "perplexity of one model, scored 1 at once")
    assert first[0] > 2 * sizes[0][0]  # a sample alone has no padding


def test_a_scaled_perplexity_is_below_1_for_random_weights(quality):
    assert one(quality, "perplexity of random weights")[0] < 1


def test_distillation_by_the_published_loss_is_worse(quality):
    published, right = one(quality, "perplexity of the student on test text")
    assert published > 1.1 * right


def test_zeros_without_a_mask_grow_back_in_two_steps(quality):
    assert one(quality, "zeros at step 0") == pytest.approx((80, 80), abs=0.1)
    assert one(quality, "zeros at step 2") == pytest.approx((0, 80), abs=0.1)
    flat, real = one(quality, "range of perplexity over a sweep of 10 to 90 % zeros")
    assert flat == 0 < real


def test_the_switch_of_flash_attention_changes_nothing(quality):
    assert one(quality, "calls of flash attention, switched off") == (2, 0)
    assert one(quality, "calls of flash attention, switched on") == (2, 2)


def test_unmerged_adapters_cost_products(quality):
    unmerged, merged = one(quality, "matrix products of a forward pass")
    assert unmerged - merged == 4  # A and B in each of two layers
    assert quality["largest difference of logits from the merged"][0][0] < 1e-2


def test_the_split_that_chooses_promises_more_than_test_text_gives(quality):
    told, real = quality["gain of the chosen over the mean candidate"]
    assert min(told) > 0
    assert sum(told) > sum(real)


@pytest.mark.slow
def test_costs_are_made_too(tmp_path, real_data):
    found = made(tmp_path, real_data, 5, 7, 9)
    leaked, clean = one(found, "peak of training LoRA")
    assert leaked > clean
    assert one(found, "new tokens of 20 that were asked for")[1] == 20


def test_the_page_has_the_rows_of_the_last_run(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import bench_mistakes

    page = bench_mistakes.PAGE.read_text()
    with open(ROOT / "results" / "mistakes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for mistake in bench_mistakes.MISTAKES:
        lines = bench_mistakes.table_of(
            [row for row in rows if bench_mistakes.number_of(row) == mistake]
        )
        assert len(lines) > 2
        assert f"<!-- mistake {mistake} -->\n\n" + "\n".join(lines) + "\n\n<!-- end -->" in page
