"""The common base of the figures of compression, and what is measured of models made from it.

Every recipe here has the stage of `wikitext2-base.yaml`. So in one runs root it is trained once.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rows import ROOT, Rows

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load

BASE = "base"
SETTING = "WikiText-2, 4 x 128"
LAST_TENTH = f"{SETTING}, last tenth of test"
Stage = dict[str, Any]


def parser(about: str | None) -> argparse.ArgumentParser:
    """Return what every benchmark of the base is told: the runs root and the folder of corpora."""
    found = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--runs", type=Path, default=Path("runs"))
    found.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    return found


def last_tenth(data_dir: Path) -> dict[str, Any]:
    """Return the words by which `fw.compare` reads the last tenth of the test split."""
    return {"data": data_dir / "wikitext-2" / "test.txt", "split": "validation+test"}


def recipe(
    name: str, stages: Mapping[str, Stage], compared: Iterable[str] | None = None
) -> dict[str, Any]:
    """Return the base's recipe with more stages, of which some are evaluated on the test split.

    Without any, nothing is evaluated.
    """
    raw: dict[str, Any] = dict(load.read_yaml(ROOT / "benchmarks" / "wikitext2-base.yaml"))
    report: dict[str, Any] = {"measure": []}
    if compared is not None:
        report = {"compare": [BASE, *compared], "measure": ["evaluate"]}
    return {**raw, "name": name, "stages": {**raw["stages"], **stages}, "report": report}


def tokens(share: float) -> int:
    """Return so large a share of the tokens that the base is trained on."""
    raw: dict[str, Any] = recipe("", {})
    train, context = raw["train"], raw["data"]["context"]
    return round(share * train["steps"] * train["batch"] * context)


def trained(source: str, share: float, train: Mapping[str, Any], **fields: Any) -> Stage:
    """Return the stage that trains a model on a share of the base's tokens, down to a rate of 0."""
    settings = {
        "tokens": tokens(share),
        "batch": 8,
        "schedule": {"warmup": 0.1},
        "validations": 2,
        **train,
    }
    return {"stage": "finetune", "input": source, "method": "full", "train": settings, **fields}


def distilled(source: str, share: float, train: Mapping[str, Any], **fields: Any) -> Stage:
    """Return the stage that trains a model as `trained` does, with the base as its teacher."""
    stage = trained(source, share, train, stage="distill", teacher=BASE, **fields)
    return {key: value for key, value in stage.items() if key != "method"}


def run(
    name: str, stages: Mapping[str, Stage], compared: Iterable[str] | None, session: Session
) -> fw.Run:
    """Make the stages, and evaluate some of them and the base on the whole test split."""
    return fw.run(load.recipe(recipe(name, stages, compared)), session=session)


def references(run: str, names: Iterable[str]) -> dict[str, str]:
    """Return how the base and stages of a run are named as models."""
    return {name: f"{run}:{name}" for name in (BASE, *names)}


def add_comparison(
    rows: Rows, setting: str, models: Mapping[str, str], session: Session, **text: Any
) -> None:
    """Add bits per byte on a text, and the paired differences to the first of the models.

    `models` are references by the names of their rows, `text` the words of `fw.compare`.
    """
    names = {reference: name for name, reference in models.items()}
    against = next(iter(names))
    for row in fw.compare(*names, against=against, session=session, **text):
        name = names[row.name]
        rows.add(name, setting, "bits per byte", 0, row.bits_per_byte, "bits")
        if row.paired is not None:
            rows.add_interval(name, setting, "more bits", row.paired.decisive, "bits per byte")


def add_pair(
    rows: Rows,
    setting: str,
    models: Mapping[str, str],
    better: str,
    worse: str,
    session: Session,
    **text: Any,
) -> None:
    """Add the paired difference of two models' bits per byte on a text."""
    against = models[worse]
    compared = fw.compare(models[better], against, against=against, session=session, **text)
    found = next(row.paired for row in compared if row.paired is not None).decisive
    rows.add_interval(f"{better} - {worse}", setting, "difference", found, "bits per byte")
