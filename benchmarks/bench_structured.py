"""What fewer heads and channels cost and save: 30 % of a model's block parameters removed, then recovered.

    python benchmarks/bench_structured.py [--runs DIR] [--data-dir DIR] [--quick]

The base of `wikitext2-base.yaml` keeps 3 of its 4 heads and 232 of its 352 channels, by two scores.
Both are trained on 10 % of the base's tokens further, on the text alone (`recovered`) or half on
the whole base's answers (`distilled`), and validation chooses between the scores. `base-on` is the
whole base trained on as long. `alone-tokens` has the same size and was trained from random weights
for as many tokens as base and recovery together. `more bits` is the difference to the base, paired
on the last tenth of the test split. Seconds are the processor's, of a forward pass of 8 x 256
tokens, whole and small in turns. `--quick` leaves out `distilled` and the controls, which take
longer than all the rest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import wikitext2
from rows import Rows

import flyweight as fw
from flyweight.api import Session
from flyweight.checkpoints import load_any
from flyweight.config.decoder import ModelConfig
from flyweight.model.decoder import Decoder
from flyweight.spec import flops

SHARE = 0.1
"""The share of the base's tokens that a recovery reads."""

HEADS, HIDDEN = 3, 232
SCORES = ("taylor", "magnitude")
TRAIN: dict[str, Any] = {"optimizer": {"kind": "muon", "lr": 0.01, "rest": {"lr": 1.5e-3}}}
"""How every model is trained further: from half the base's rate down to 0."""

ROWS, LENGTH, REPEATS = 8, 256, 7
COMPARED = ("taylor", "magnitude", "recovered")
LONG = ("distilled", "base-on", "alone-tokens")


def stages(quick: bool) -> dict[str, wikitext2.Stage]:
    """Return the smaller models, the recovery and, unless it is to be quick, what it is compared with."""
    found: dict[str, wikitext2.Stage] = {}
    for score in SCORES:
        found[score] = {
            "stage": "prune",
            "input": wikitext2.BASE,
            "method": "structured",
            "heads": HEADS,
            "hidden": HIDDEN,
            "score": score,
        }
    _add_best(found, "recovered", wikitext2.trained)
    if quick:
        return found
    _add_best(found, "distilled", wikitext2.distilled)
    found["base-on"] = wikitext2.trained(wikitext2.BASE, SHARE, TRAIN)
    small = {"attention": {"heads": HEADS, "head_dim": 32}, "mlp": {"hidden": HIDDEN}}
    length = {"steps": None, "tokens": wikitext2.tokens(1 + SHARE)}
    found["alone-tokens"] = {"stage": "pretrain", "model": small, "train": length}
    return found


def _add_best(
    found: dict[str, wikitext2.Stage],
    name: str,
    training: Callable[[str, float, dict[str, Any]], wikitext2.Stage],
) -> None:
    """Add a training of each smaller model on a share of the base's tokens, and the best of them."""
    among = [f"{name}-{score}" for score in SCORES]
    for stage, score in zip(among, SCORES, strict=True):
        found[stage] = training(score, SHARE, TRAIN)
    found[name] = {"stage": "select", "among": among}


def add_speed(rows: Rows, whole: Decoder, small: Decoder) -> None:
    """Time a forward pass of both in turns, with all logits and without, beside their FLOPs."""
    tokens = torch.randint(whole.config.vocab_size, (ROWS, LENGTH))  # (B, T)
    ways: dict[str, Callable[[Decoder], object]] = {
        "with logits": lambda model: model(tokens),
        "without logits": lambda model: model.hidden(tokens),
    }
    for way, forward in ways.items():
        seconds: dict[Decoder, list[float]] = {whole: [], small: []}
        for repeat in range(REPEATS + 2):
            for model, taken in seconds.items():
                began = time.process_time()
                forward(model)
                if repeat >= 2:  # the first ones warm up
                    taken.append(time.process_time() - began)
        counted = {model: _flops(model.config, way == "with logits") for model in seconds}
        faster = statistics.median(seconds[whole]) / statistics.median(seconds[small])
        fewer = counted[whole] / counted[small]
        for name, model in (("whole", whole), ("small", small)):
            for repeat, taken in enumerate(seconds[model]):
                rows.add(name, way, "processor_seconds", repeat, taken, "s")
            rows.add(name, way, "FLOPs", 0, counted[model], "FLOPs")
        rows.add("whole / small", way, "seconds", 0, faster, "x")
        rows.add("whole / small", way, "FLOPs", 0, fewer, "x")
        rows.add("whole / small", way, "share of the FLOP ratio", 0, faster / fewer, "x")


def _flops(config: ModelConfig, logits: bool) -> int:
    """Return the FLOPs of the forward pass that is timed."""
    head = 0 if logits else 2 * LENGTH * config.dim * config.vocab_size
    return ROWS * (flops.forward_flops(config, LENGTH) - head)


def _loaded(result: fw.Run, name: str) -> Decoder:
    model = load_any.decoder(result[name].path / "model", "cpu", name).eval()
    assert isinstance(model, Decoder)
    return model


def main() -> None:
    """Prune, recover, compare, time, and write the rows."""
    parser = wikitext2.parser(__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    compared = COMPARED if options.quick else (*COMPARED, *LONG)
    session = Session(runs=options.runs, data_dir=options.data_dir, threads=1)
    result = wikitext2.run("bench-structured", stages(options.quick), None, session)
    rows = Rows("structured")
    facts = result["taylor"].facts
    whole, small = (_loaded(result, name) for name in (wikitext2.BASE, "taylor"))
    for name, model in (("whole", whole), ("small", small)):
        parts = flops.parameters(model.config).by_part
        rows.add(name, "blocks", "parameters", 0, parts["attention"] + parts["mlp"], "parameters")
    rows.add("whole", "model", "parameters", 0, facts["parameters_before"], "parameters")
    rows.add("small", "model", "parameters", 0, facts["parameters"], "parameters")
    for name, artifact in result.items():
        if nll := artifact.facts.get("best_nll"):
            rows.add(name, wikitext2.SETTING, "validation", 0, nll, "nats per token")
    models = wikitext2.references("bench-structured", compared)
    text, setting = wikitext2.last_tenth(options.data_dir), wikitext2.LAST_TENTH
    wikitext2.add_comparison(rows, setting, models, session, **text)
    for other in compared[len(COMPARED) :]:
        wikitext2.add_pair(rows, setting, models, "recovered", other, session, **text)
    torch.set_num_threads(1)
    with torch.inference_mode():
        add_speed(rows, whole, small)
    print(rows.write())


if __name__ == "__main__":
    main()
