"""The stages that LightGPT2's tables are about: a recipe's stages play them by their names."""

from __future__ import annotations

BASELINE = "baseline"
TEACHER = "teacher"
STUDENT = "student"
BASELINE_LORA = "baseline-lora"
BASELINE_LORA_PRUNED = "baseline-lora-pruned"
LORA = "lora"
PRUNED = "pruned"
TUNED = "tuned"
MERGED = "merged"
LIGHT = "nf4"
ALONE = "alone-nf4"
"""The control: a model of about the light one's bytes, trained alone for all the compute."""

BASELINE_LIGHT = "baseline-nf4"
"""A control that a recipe may have: the baseline, quantized and nothing else."""
LONGER = "longer"
"""A control that a recipe may have: the baseline, given all the compute of the pipeline."""

TRAINED = {
    BASELINE: "Baseline",
    BASELINE_LORA: "LoRA",
    BASELINE_LORA_PRUNED: "LoRA pruned",
    TUNED: "Distilled LoRA pruned",
}
"""The training methods of Table V and Figure 3, by stage."""

PIPELINE = (TEACHER, STUDENT, LORA, TUNED)
"""Every training that the light model needs."""

WEIGHTS = {"unmerged": TUNED, "merged": MERGED, "int8": "int8", "int4": "int4", "nf4": LIGHT}
"""How the light model's weights are stored, by the factor's level."""

BATCH = 16
"""Samples at once where the paper counts samples a second."""

ANSWER_TOKENS = 5
"""New tokens of the paper's short answers."""
