"""Mistakes in memory and speed: 5 to 9. Each makes it, and does it right."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any

import padded
import torch
from mistakes_lab import Lab, Table, adapters, forward, mean, operators, seconds, turns, words
from padded import BATCH, PAD, gpt2
from peft import LoraConfig, get_peft_model
from rows import ROOT, worker
from torch import Tensor

from flyweight.compression.quantize import quantize
from flyweight.config import linear_kinds, schema
from flyweight.evaluation.bench_worker import MemoryProbe
from flyweight.model.build import build

SCRIPT = str(ROOT / "benchmarks" / "bench_mistakes.py")


def memory(lab: Lab, table: Table) -> None:
    """5. Training memory of one architecture, with and without copies that nobody freed."""

    def peak(method: str, leaked: int) -> float:
        job = {"what": "memory", "method": method, "leaked": leaked}
        return worker(SCRIPT, {**job, "dim": lab.size.memory_dim})["peak"]

    full, clean, again = peak("full", 0), peak("lora", 0), peak("lora", 0)
    leaking = peak("lora", 2)
    table.add("peak of training LoRA", "MB", leaking / 1e6, clean / 1e6)
    table.add("saved by LoRA against LoRA", "%", _saved(again, leaking), _saved(again, clean))
    table.add("peak of training all weights", "MB", None, full / 1e6)
    table.add("saved by LoRA against all weights", "%", None, _saved(clean, full))


def _saved(less: float, more: float) -> float:
    return 100 * (1 - less / more)


def measured(what: str, **fields: Any) -> dict[str, float]:
    """Return what a fresh process measures."""
    if what == "memory":
        return {"peak": peak_of_training(**fields)}
    run = forward(gpt2(2000, **fields).eval(), torch.ones(1, padded.LONGEST, dtype=torch.long))
    first, *later = (seconds(run) for _ in range(10))
    return {"first": first, "later": statistics.median(later)}


def peak_of_training(method: str, leaked: int, dim: int) -> float:
    """Return the peak bytes of a training's two steps, beside what earlier ones left behind."""
    probe = MemoryProbe(torch.device("cpu"))
    probe.start()
    kept = [_two_steps("full", dim) for _ in range(leaked)]
    kept.append(_two_steps(method, dim))
    return float(probe.peak())


def _two_steps(method: str, dim: int) -> object:
    """Train for two steps; return what a notebook would still hold then: model and optimizer."""
    model: Any = gpt2(2000, dim=dim, layers=6)
    if method == "lora":
        lora = LoraConfig(r=8, lora_alpha=32, target_modules=["c_attn"], fan_in_fan_out=True)
        model = get_peft_model(model, lora)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    tokens = torch.randint(1, 2000, (4, padded.LONGEST), generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    return model, optimizer


def flash(lab: Lab, table: Table) -> None:
    """6. A switch of flash attention that the model does not read."""
    tokens = words(lab, 8)
    off = gpt2(lab.text.vocabulary, lab.size.wide).eval()
    on = copy.deepcopy(off)
    on.config.use_flash_attention = True
    eager, sdpa = copy.deepcopy(off), copy.deepcopy(off)
    eager.set_attn_implementation("eager")
    sdpa.set_attn_implementation("sdpa")
    runs = [forward(model, tokens) for model in (off, on, eager, sdpa)]
    seen = [operators(run, "flash_attention") for run in runs]
    table.add("calls of flash attention, switched off", "", seen[0], seen[2])
    table.add("calls of flash attention, switched on", "", seen[1], seen[3])
    for repeat, (without, with_it, written, fused) in enumerate(turns(runs, lab.size.repeats)):
        table.add("speed-up by the switch", "x", without / with_it, written / fused, repeat)


def precision(lab: Lab, table: Table) -> None:
    """7. fp32 against bf16 with NF4, without a control in bf16 alone."""
    sizes = {"vocab_size": 2000, "context": padded.LONGEST, "dim": lab.size.wide, "layers": 4}
    config = schema.ModelConfig.model_validate({**sizes, "attention": {"heads": 4}})
    dense = build(config).eval()
    nf4 = quantize(dense, linear_kinds.read_kind("nf4"), linear_kinds.Int8()).eval()
    half = [copy.deepcopy(model).bfloat16() for model in (dense, nf4)]
    tokens = torch.arange(1, padded.LONGEST + 1)[None].repeat(4, 1)
    runs = [forward(model, tokens) for model in (dense, nf4, *half)]
    for repeat, (fp32, fp32_nf4, bf16, bf16_nf4) in enumerate(turns(runs, lab.size.repeats)):
        table.add(
            "speed-up that NF4 is credited with", "x", fp32 / bf16_nf4, bf16 / bf16_nf4, repeat
        )
        table.add("speed-up of bf16 alone", "x", None, fp32 / bf16, repeat)
        table.add("speed-up of NF4 alone, in fp32", "x", None, fp32 / fp32_nf4, repeat)


def merging(lab: Lab, table: Table) -> None:
    """8. LoRA is not merged for inference."""
    unmerged = lab.adapted(gpt2(lab.text.vocabulary, lab.size.wide)).eval()
    for layer in adapters(unmerged):
        torch.nn.init.normal_(layer.weight, std=0.02)
    merged = copy.deepcopy(unmerged).merge_and_unload().eval()
    tokens = words(lab, 1)[:, :16]
    runs = [forward(model, tokens) for model in (unmerged, merged, merged)]
    products = [operators(run, "aten::addmm", "aten::mm", "aten::bmm") for run in runs[:2]]
    table.add("matrix products of a forward pass", "", *products)
    for repeat, (apart, once, twice) in enumerate(turns(runs, lab.size.repeats, passes=8)):
        table.add(
            "time of a forward pass by that of the merged", "x", apart / once, twice / once, repeat
        )
    gap = (runs[0]() - runs[1]()).abs().max() / runs[1]().abs().max()
    table.add("largest difference of logits from the merged", "%", 100 * gap.item(), None)


def latency(lab: Lab, table: Table) -> None:
    """9. Latency by batch size, without warm-up; generation that stops early; 20 against 10 tokens."""
    model = gpt2(lab.text.vocabulary, lab.size.wide).eval()
    short = words(lab, BATCH)[:, :16]
    runs = [forward(model, tokens) for tokens in (short[:1], short, short[:1])]
    for repeat, (one, all_, again) in enumerate(turns(runs, lab.size.repeats, passes=8)):
        table.add("time of a text by its time alone", "x", all_ / BATCH / one, again / one, repeat)
    fresh = worker(SCRIPT, {"what": "first pass", "dim": lab.size.wide})
    share = fresh["first"] / fresh["later"]
    table.add("time of the first pass by that of later ones", "x", share, None)
    table.add("new tokens of 20 that were asked for", "", *_new_tokens(lab))
    model.generation_config.eos_token_id = None
    prompt = words(lab, 1)[:, :16]
    runs = [_generation(model, prompt, new) for new in (20, 10, 20)]
    for repeat, (twenty, ten, again) in enumerate(turns(runs, lab.size.repeats)):
        table.add(
            "time of a generation by the same model's", "x", twenty / ten, twenty / again, repeat
        )


def _new_tokens(lab: Lab) -> tuple[float, float]:
    """Return how many of 20 new tokens are made: of a batch that is padded on the right, and alone.

    The padding is the end token as well, and a model that learned it ends there at once.
    """
    rows = [row for row in lab.text.test if 8 <= len(row) <= padded.LONGEST - 20][:BATCH]
    tokens, real = padded.padded(rows)
    made = _generation(lab.published, tokens, 20, attention_mask=real.long())()
    published = (made[:, tokens.shape[1] :] != PAD).sum(-1).double().mean().item()
    alone = copy.deepcopy(lab.published)
    alone.generation_config.eos_token_id = None
    lengths = [
        _generation(alone, torch.tensor([row]), 20, suppress_tokens=[PAD])().shape[1] - len(row)
        for row in rows
    ]
    return published, mean(lengths)


def _generation(model: Any, tokens: Tensor, new: int, **options: object) -> Callable[[], Tensor]:
    return lambda: model.generate(
        tokens, max_new_tokens=new, do_sample=False, pad_token_id=PAD, **options
    )
