"""What a record of the likeliest tokens costs a student, against the running teacher.

    python benchmarks/bench_told.py [--runs DIR] [--data-dir DIR]

The base of `wikitext2-base.yaml` teaches a model of 2 layers of 64, from the running teacher and from
records of its `k` likeliest tokens, with the others as one more token (`bucket`) or as impossible (`renormalise`).
Beside them stand the same model without a teacher and with a shuffled one. (That a record of the whole vocabulary is the running
teacher is tested; here it would take 20 GB.) `more bits` is the paired difference to the running teacher on the test split.     results/told.csv
"""

from __future__ import annotations

from typing import Any

import wikitext2
from rows import Rows

from flyweight.api import Session

ONLINE, PLAIN, SHUFFLED = "online", "plain", "shuffled"
KEPT = (1, 8, 64)
"""How many tokens records have, out of a vocabulary of 2,048."""

TRAIN: dict[str, Any] = {"steps": 250, "batch": 16, "optimizer": "muon", "validations": 2}
STUDENT: dict[str, Any] = {"dim": 64, "layers": 2, "attention": {"heads": 2}}


def stages() -> dict[str, wikitext2.Stage]:
    """Return a student for each record, the students without one, and the records."""
    student = {"stage": "distill", "teacher": wikitext2.BASE, "model": STUDENT, "train": TRAIN}
    rows = TRAIN["steps"] * TRAIN["batch"]
    record = {"stage": "teach", "teacher": wikitext2.BASE, "rows": rows}
    found: dict[str, wikitext2.Stage] = {
        ONLINE: student,
        PLAIN: {"stage": "pretrain", "model": STUDENT, "train": TRAIN},
        SHUFFLED: {**student, "objective": {"shuffled": True}},
    }
    for k in KEPT:
        found[f"record-{k}"] = {**record, "k": k}
        for rest in ("bucket", "renormalise"):
            objective = {"rest": rest}
            found[f"{rest}-{k}"] = {**student, "told": f"record-{k}", "objective": objective}
    return found


def main() -> None:
    """Train the students, compare them, and write the rows."""
    options = wikitext2.parser(__doc__).parse_args()
    session = Session(runs=options.runs, data_dir=options.data_dir, threads=1)
    made = stages()
    run = wikitext2.run("bench-told", made, None, session)
    rows = Rows("told")
    for name, stage in made.items():
        if stage["stage"] == "teach":
            facts, setting = run[name].facts, wikitext2.SETTING
            rows.add(name, setting, "kept mass", 0, facts["kept_mass"], "of 1")
            rows.add(name, setting, "record", 0, facts["bytes"], "bytes")
            rows.add(name, setting, "seconds", 0, facts["seconds"], "s")
    students = [name for name, stage in made.items() if stage["stage"] != "teach"]
    references = {name: f"bench-told:{name}" for name in students}
    wikitext2.add_comparison(rows, "2 x 64 taught by 4 x 128", references, session)
    print(rows.write())


if __name__ == "__main__":
    main()
