import pytest
import torch

from flyweight.core import bfloat16
from flyweight.core.bfloat16 import Speedups, speedups
from flyweight.core.runtime import Runtime


@pytest.fixture
def timed(monkeypatch):
    """Replace the clock's part: {width: speedup} is what will be measured.

    Returns the list of measurements made.
    """

    def replace(by_width):
        made = []

        def measured(threads):
            made.append(threads)
            return Speedups(tuple(by_width.items()))

        monkeypatch.setattr(bfloat16, "_measure", measured)
        monkeypatch.setattr(bfloat16, "_announced_threads", set())
        return made

    return replace


def test_a_training_step_is_the_same_in_both_types_but_for_rounding():
    loss = {}

    def watched(half):
        step = bfloat16._training_step(64)
        real = torch.autograd.grad
        try:
            torch.autograd.grad = lambda value, weights: loss.setdefault(
                half, (value.item(), real(value, weights))
            )
            step(half)
        finally:
            torch.autograd.grad = real

    watched(False)
    watched(True)
    assert (
        loss[True][0] == pytest.approx(loss[False][0], rel=0.02) and loss[True][0] != loss[False][0]
    )
    for half, whole in zip(loss[True][1], loss[False][1], strict=True):
        assert half.dtype == whole.dtype == torch.float32
        assert float((half - whole).norm() / whole.norm()) < 0.1


def test_every_width_is_timed(monkeypatch):
    monkeypatch.setattr(bfloat16, "ROUNDS", 1)
    found = bfloat16._measure.__wrapped__(1)
    assert [width for width, _ in found.by_width] == list(bfloat16.WIDTHS)
    assert all(0.01 < speedup < 100 for _, speedup in found.by_width)


@pytest.mark.parametrize(
    ("figures", "words", "chosen"),
    [
        ({64: 0.6, 128: 0.7, 256: 1.05}, "takes fp32", ["fp32"] * 5),
        ({64: 2.0, 128: 2.0, 256: 3.0}, "takes bf16", ["bf16"] * 5),
        (
            {64: 0.6, 128: 1.9, 256: 3.0},
            "takes bf16 for models of width 128 and more, fp32 below",
            ["fp32", "fp32", "bf16", "bf16", "bf16"],
        ),
    ],
)
def test_auto_takes_what_was_measured_to_train_faster(timed, figures, words, chosen):
    timed(figures)
    runtime = Runtime("cpu", 1)
    assert [runtime.precision("auto", width) for width in (8, 64, 128, 200, 4096)] == chosen
    assert runtime.bfloat16().words().endswith(words)
    assert (runtime.precision("fp32", 256), runtime.precision("bf16", 8)) == ("fp32", "bf16")


def test_a_measurement_is_kept_for_later_processes_and_printed_once(timed, tmp_path):
    events = []

    def watch(kind, fields):
        events.append(kind)

    slow = timed({64: 0.6, 128: 0.6, 256: 0.6})
    assert not speedups(1, tmp_path, watch).pays(256)
    assert not speedups(1, tmp_path, watch).pays(256)
    assert (slow, events) == ([1], ["measured"])
    timed({64: 3.0, 128: 3.0, 256: 3.0})  # another process, which would measure something else
    assert not speedups(1, tmp_path, watch).pays(256)
    assert speedups(2, tmp_path, watch).pays(256)  # another thread count is another matter
    assert events == ["measured", "measured"]


@pytest.mark.parametrize(
    "value",
    [{"64": 1.0}, {"64": "x", "128": 1, "256": 1}, {"64": -1, "128": 1, "256": 1}, None, [1.0]],
)
def test_what_is_no_measurement_is_not_read(value):
    with pytest.raises((KeyError, TypeError, ValueError)):
        bfloat16._read(value)
    assert bfloat16._read({"64": 1, "128": 2, "256": 3}).at(128) == 2
