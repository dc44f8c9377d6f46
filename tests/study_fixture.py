"""Made-up cells and studies."""

import datetime
import math

from flyweight.config.study import Finding
from flyweight.records.floors import Floor
from flyweight.records.run_summary import CorpusSummary, Environment, SplitSummary
from flyweight.records.study_summary import CellSummary, RunSummary, StudySummary
from flyweight.studies.claims import evaluate_claim


def cell(
    model,
    values,
    flops=1e12,
    budget="b",
    data="text",
    context=64,
    fields=None,
    validation=None,
    bad=None,
    **more,
):
    """Return a cell whose runs have these test NLLs; `bad` is (seed, standing, why)."""
    runs = []
    for seed, value in enumerate(values):
        standing, why = (bad[1], bad[2]) if bad and bad[0] == seed else ("ok", "")
        runs.append(
            RunSummary(
                seed=seed,
                lr=1e-3,
                id=f"pretrain-{seed:08x}",
                flops=flops,
                seconds=10.0,
                validation=value if validation is None else validation,
                metrics={"nll": value, "perplexity": math.exp(value)},
                standing=standing,
                why=why,
            )
        )
    family = model.partition("-")[0]
    name = f"{model} {fields or ''}, {data}, context {context}, {budget}"
    own = {"config_line": "1 x 16", "parameters": 1000, "lr": 1e-3, **more}
    return CellSummary(
        name=name,
        model=model,
        family=family,
        fields=fields or {},
        data=data,
        context=context,
        budget=budget,
        runs=runs,
        **own,
    )


def finding(below="a", above="b", **more):
    sides = [{"model": side} if isinstance(side, str) else side for side in (below, above)]
    return Finding.model_validate(
        {"claim": "a below b", "below": sides[0], "above": sides[1], **more}
    )


def summary(cells, **more):
    floors = {
        name: Floor(
            nll=value, perplexity=math.exp(value), bits_per_byte=value, seconds=0.1, stored=9
        )
        for name, value in {"unigram": 3.3, "kn5": 1.5}.items()
    }
    sizes = {"test": SplitSummary(tokens=1000, bytes=4000, words=800, documents=1)}
    corpus = CorpusSummary(
        name="tiny",
        fingerprint="f",
        tokenizer="char (65)",
        vocab_size=65,
        context=64,
        splits=sizes,
        floors=floors,
    )
    names = Environment.model_fields
    here = Environment(
        **{key: 1 if key in ("cores", "threads", "memory_bytes") else "x" for key in names}
    )
    findings = (evaluate_claim(finding("a*", "b*"), cells, "nll"),)
    fields = {
        "name": "made-up",
        "about": "What <b>is</b> found.",
        "protocol": "published",
        "protocol_line": "every model at the one learning rate 0.001",
        "seeds": (0, 1, 2),
        "metrics": ("nll", "perplexity"),
        "created": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        "command": "flyweight study made-up",
        "seconds": 12.0,
        "environment": here,
        "corpus": {"text": corpus},
        "cells": tuple(cells),
        "findings": findings,
    }
    return StudySummary(**(fields | more))
