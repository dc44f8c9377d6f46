"""How long `flyweight --help` and `import flyweight` take: whole processes, median of many.

python benchmarks/bench_startup.py [--repeats 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rows import Rows, spread


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    commands = {
        "flyweight --help": [str(Path(sys.executable).with_name("flyweight")), "--help"],
        "import flyweight": [sys.executable, "-c", "import flyweight"],
        "python alone": [sys.executable, "-c", "pass"],
    }
    rows, summary = Rows("startup"), []
    for name, command in commands.items():
        subprocess.run(command, check=True, capture_output=True)
        times = []
        for repeat in range(options.repeats):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.perf_counter() - began)
            rows.add("flyweight", name, "seconds", repeat, times[-1], "s")
        summary.append(f"{name}: {spread(times)} s, median {statistics.median(times):.3f}")
    print(rows.write(), *summary, sep="\n")


if __name__ == "__main__":
    main()
