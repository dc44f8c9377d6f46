"""A machine whose rates are known, so that plans do not measure this one."""

from pathlib import Path

from flyweight.core.runtime import Runtime
from flyweight.planning.rate import Kept, Rates
from flyweight.planning.time import Machine

RATES = Rates(training={64: 2e10, 256: 4e10}, packing=1.2e6, created="2026-01-01T00:00:00Z")


def machine(rates=RATES):
    """Return one core of a processor with these rates."""
    kept = Kept(rates, Path("rates.json"), "cpu", fresh=False)
    return Machine(Runtime("cpu", 1), lambda precision: kept)


CPU = machine()
