"""What a measurement holds for paired comparison, and the text it was measured on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flyweight.data.corpus import Corpus
from flyweight.data.document import text_label
from flyweight.evaluation.resampling import UNITS, UnitScores
from flyweight.store.artifact import Artifact


def losses(measurement: Artifact) -> str | None:
    """Return in words that the tokens a model or floor was measured on do not give their text back.

    None where they do.
    """
    name = measurement.facts.get("corpus")
    if name is None or not (folder := measurement.path.parent / name / "corpus").is_dir():
        return None
    return Corpus.open(folder, verify=False).meta.losses(measurement.identity["config"]["split"])


def of(evaluation: Artifact) -> UnitScores:
    """Return what an evaluation or score holds for paired comparison, with its text's name."""
    scores = UnitScores.load(evaluation.path / UNITS)
    if evaluation.stage == "score":
        task = str(evaluation.identity["config"]["task"])
        return replace(scores, lossy=bool(evaluation.facts["lossy"]), name=task)
    return replace(scores, lossy=losses(evaluation) is not None, name=corpus_name(evaluation))


def corpus_name(measurement: Artifact) -> str:
    """Return what the corpus that a model was measured on is called: a file by its last part.

    Empty where the corpus' artifact is gone.
    """
    corpus = measurement.facts.get("corpus")
    if corpus is None or not (measurement.path.parent / corpus / "manifest.json").is_file():
        return ""
    name = text_label(Artifact.open(measurement.path.parent / corpus).identity["config"])
    return name if name.startswith("hf:") else Path(name).name or name
