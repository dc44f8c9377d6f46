"""The models of a runs root that can be given as MODEL, each with its measured quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from flyweight.errors import FlyweightError
from flyweight.reports import unit_scores
from flyweight.store import references
from flyweight.store.artifact import Artifact, Store
from flyweight.store.measurements import subject, weights

Content = frozenset[tuple[str, str]]
"""A model's files with their digests."""


class Quality(TypedDict):
    """A model's newest likelihood; all three are None for a model that was never evaluated."""

    bits_per_byte: float | None
    split: str | None
    corpus: str | None


class ListedModel(Quality):
    """A model that can be given as MODEL by its `name`; `bytes` is the size of its files.

    `sparsity` is the share of zeros in its pruned matrices; None of a model without.
    """

    name: str
    id: str
    stage: str
    bytes: int
    sparsity: float | None
    created: str


def listed_models(store: Store) -> list[ListedModel]:
    """Return every finished model, oldest first; `name` is the word to give as MODEL.

    `name` is `recipe:stage` where the results of a recipe have it, else the artifact's id. `bytes`
    is the size of the model's files. `bits_per_byte` is its newest likelihood, on the `split` of
    `corpus`; all three are None for a model that was never evaluated.
    """
    uses = references.read(store)
    artifacts = [entry for entry in uses.entries if isinstance(entry, Artifact)]
    newest = _newest_evaluations(artifacts)
    models: list[ListedModel] = []
    for artifact in artifacts:
        size = _model_bytes(artifact)
        if size is None:
            continue
        names = [user for user in uses.users.get(artifact.id, []) if ":" in user] or [artifact.id]
        quality = _quality(newest.get(_content(artifact)))
        for name in names:
            models.append(
                {
                    "name": name,
                    "id": artifact.id,
                    "stage": artifact.stage,
                    "bytes": size,
                    "sparsity": artifact.facts.get("sparsity"),
                    "created": artifact.manifest["created"],
                    **quality,
                }
            )
    return models


def _newest_evaluations(artifacts: Sequence[Artifact]) -> dict[Content, Artifact]:
    """Return the newest evaluation of every model by the model's content.

    A copy of a model then has the same evaluation. `artifacts` are oldest first.
    """
    models = {artifact.id: artifact for artifact in artifacts}
    newest: dict[Content, Artifact] = {}
    for artifact in artifacts:
        model = subject(artifact.identity) if artifact.stage == "evaluate" else None
        if model in models:
            newest[_content(models[model])] = artifact
    return newest


def _content(model: Artifact) -> Content:
    return frozenset(weights(model).items())


def _model_bytes(artifact: Artifact) -> int | None:
    files = artifact.manifest["files"]
    sizes = [entry["bytes"] for name, entry in files.items() if name.startswith("model/")]
    return sum(sizes) if sizes else None


def _quality(evaluation: Artifact | None) -> Quality:
    nothing: Quality = {"bits_per_byte": None, "split": None, "corpus": None}
    if evaluation is None:
        return nothing
    try:
        value = evaluation.metrics()["bits_per_byte"]["value"]
        corpus = unit_scores.corpus_name(evaluation)
    except (FlyweightError, KeyError):
        return nothing  # a damaged measurement; `flyweight ls` names it
    return {
        "bits_per_byte": value,
        "split": evaluation.identity["config"]["split"],
        "corpus": corpus,
    }
