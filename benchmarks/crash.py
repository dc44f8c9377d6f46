"""Kill a recipe with SIGKILL at random instants and repeat its command until it is done: nothing may be lost or differ.

    python benchmarks/crash.py [--recipe quickstart] [--kills 20] [--seed 0] [path=value ...]

The recipe first runs undisturbed in one runs root, then in another where it is killed `--kills` times, each at a random
instant. At the end every model file, every logged step, every validation and every quality figure of both roots must be equal
to the bit, and no half-written folder may be left. Speeds and times are measurements and may differ.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rows import Rows

from flyweight.core.files import sha256


def start(recipe: str, words: list[str], runs: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start the recipe in a process group of its own."""
    command = [sys.executable, "-m", "flyweight", "run", recipe, *words, "--runs", str(runs), "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open(log, "a"), start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and everything it started, at once."""
    import os

    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def state(runs: Path, name: str) -> dict[str, Any]:
    """Return what must not depend on interruptions: model files, corpora, validations and quality figures, by id."""
    found: dict[str, Any] = {}
    for manifest in sorted(runs.glob("*-????????/manifest.json")):
        folder = manifest.parent
        stage = json.loads(manifest.read_text())["identity"]["stage"]
        for file in sorted([*folder.glob("model/*"), *folder.glob("corpus/*.bin"), *folder.glob("corpus/tokenizer.json")]):
            found[f"{folder.name}/{file.relative_to(folder)}"] = sha256(file)
        if stage in ("evaluate", "sample", "audit"):
            found[f"{folder.name}/metrics.json"] = sha256(folder / "metrics.json")
        if stage in ("pretrain", "distill"):
            events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
            kept = [{k: e[k] for k in ("event", "step", "nll")} for e in events if e["event"] in ("step", "validation")]
            found[f"{folder.name}/events"] = json.dumps(kept)
    summary = json.loads((runs / name / "summary.json").read_text())
    found["summary"] = json.dumps({m["name"]: m["evaluate"] for m in summary["models"]}, sort_keys=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep both runs roots in this folder")
    parser.add_argument("words", nargs="*", metavar="path=value")
    options = parser.parse_args()
    base = options.keep or Path(tempfile.mkdtemp(prefix="flyweight-crash-"))
    calm, harmed, log = base / "calm", base / "harmed", base / "log"
    base.mkdir(exist_ok=True)
    name = Path(options.recipe).stem
    words = ["budget.over=warn", *options.words]

    began = time.monotonic()
    process = start(options.recipe, words, calm, log)
    if process.wait():
        raise SystemExit(f"the undisturbed run failed: {log.read_text()[-2000:]}")
    whole = time.monotonic() - began
    print(f"undisturbed: {whole:.0f} s", file=sys.stderr)

    # Every attempt is killed at an instant of what is left of the run on average, and the last one is left alone.
    chance, rows = random.Random(options.seed), Rows("crash")
    kills = finished_early = 0
    while kills < options.kills:
        process = start(options.recipe, words, harmed, log)
        wait = chance.uniform(0.2, max(2.0, 2.2 * whole / options.kills))
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
            rows.add(name, f"kill {kills}", "after_seconds", kills, wait, "s")
            continue
        if process.returncode:
            raise SystemExit(f"an attempt failed by itself: {log.read_text()[-2000:]}")
        finished_early += 1
        # It finished: take one artifact away so that there is work to interrupt again.
        victim = chance.choice([p for p in harmed.glob("*-????????") if p.name.split("-")[0] in ("pretrain", "distill")])
        shutil.rmtree(victim)
    process = start(options.recipe, words, harmed, log)
    if process.wait():
        raise SystemExit(f"the last attempt failed: {log.read_text()[-2000:]}")
    before, after = state(calm, name), state(harmed, name)
    differing = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    partial = [path.name for path in harmed.glob("*.partial")]
    rows.add(name, "all", "kills", 0, kills, "kills")
    rows.add(name, "all", "compared_files", 0, len(before), "files")
    rows.add(name, "all", "differing_files", 0, len(differing), "files")
    rows.add(name, "all", "left_partial", 0, len(partial), "folders")
    print(rows.write(f"crash-{name}"))
    print(f"{kills} kills, {len(before)} files compared, {len(differing)} differ, {len(partial)} half-written folders left")
    if differing or partial:
        raise SystemExit(f"not the same: {differing[:5]} {partial[:5]}")
    if options.keep is None:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
