"""Rates of this machine: measured once, kept, read again."""

import pytest

from flyweight.core import machine
from flyweight.core.runtime import Runtime
from flyweight.errors import RequestError
from flyweight.planning import rate
from flyweight.planning.rate import measured
from flyweight.store.artifact import Store

CPU = Runtime("cpu", 1)


def test_real_rates_are_positive_and_their_key_names_the_machine():
    rates = measured(CPU, "fp32")
    assert all(1e7 < value < 1e15 for value in rates.training.values())
    assert 1e3 < rates.packing < 1e9 and rates.slowness >= 1
    assert rate.key(CPU, "fp32").endswith(", 1 thread, fp32")


def test_rates_are_measured_once(tmp_path, monkeypatch):
    heard = []
    first = rate.kept(Store(tmp_path), CPU, "fp32", lambda kind, fields: heard.append(kind))
    again = rate.kept(Store(tmp_path), CPU, "fp32", lambda kind, fields: heard.append(kind))
    assert (first.fresh, again.fresh, heard) == (True, False, ["measuring"])
    assert first.rates == again.rates
    assert "measured now" in first.line() and "measured 2026-01-01" in again.line()
    assert rate.kept(Store(tmp_path), Runtime("cpu", 2), "fp32").fresh


def test_what_a_killed_process_had_written_of_rates_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(rate, "measured", lambda *_: rate.Rates(training={64: 1e10}, packing=1e6))
    half = tmp_path / f".{rate.FILE}.3532.partial"
    half.write_text("{")
    rate.kept(Store(tmp_path), CPU, "fp32")
    assert not half.exists() and (tmp_path / rate.FILE).is_file()


@pytest.mark.parametrize("busy", [False, True])
def test_rates_of_a_busy_machine_say_so_for_as_long_as_they_are_kept(tmp_path, monkeypatch, busy):
    monkeypatch.setattr(machine, "load", lambda: 9.0 * busy)
    monkeypatch.setattr(rate, "measured", measured)
    monkeypatch.setattr(rate, "_training", lambda *_: 1e10)
    monkeypatch.setattr(rate, "_packing", lambda: 1e6)
    lines = [rate.kept(Store(tmp_path), CPU, "fp32").line() for _ in range(2)]
    assert [", while other work ran" in line for line in lines] == [busy, busy]


def test_a_rate_between_and_beyond_two_widths():
    rates = rate.Rates(training={64: 1e10, 256: 4e10}, packing=1e6)
    assert rates.at(64) == pytest.approx(1e10)
    assert rates.at(128) == pytest.approx(2e10)
    assert rates.at(10_000) == rates.at(100_000) == pytest.approx(1e10 * 4**rate.FARTHEST)
    assert rate.Rates(training={64: 1e10}, packing=1e6).at(512) == 1e10


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / rate.FILE).write_text('{"x": {"training": {}}}')
    with pytest.raises(RequestError, match=r"rates\.json .*delete it"):
        rate.kept(Store(tmp_path), CPU, "fp32")


def test_rates_are_not_read_or_written_through_a_link(tmp_path, elsewhere):
    (tmp_path / rate.FILE).symlink_to(elsewhere / "rates.json")
    with pytest.raises(RequestError, match=r"rates\.json is a symbolic link"):
        rate.kept(Store(tmp_path), CPU, "fp32")
