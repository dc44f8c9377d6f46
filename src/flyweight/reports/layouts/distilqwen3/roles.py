"""The stages that DistilQwen3's figures are about: a recipe's stages play them by their names."""

from __future__ import annotations

POSTER = "poster"
"""The poster's student: one layer used many times, an index for each use, a bottleneck."""
INDEPENDENT = "independent"
"""The student of its code: a layer of its own for each use, and no bottleneck."""
STUDENTS = {POSTER: "one layer reused", INDEPENDENT: "independent layers"}
"""Our models, by what they are called on a page."""

TEACHER = "teacher"
SAME_TOKENS = "poster-same-tokens"
SAME_COMPUTE = "poster-same-compute"
WITH_TEXT = "poster-with-text"
"""Controls of the distilled poster: alone on the same tokens or compute, and text beside the KL."""

TASKS = {"dialogue": "completion_perplexity", "squad": "f1", "summarize": "rougeL"}
"""The tasks, with the metric that a figure shows of each."""


def pretrained(student: str) -> str:
    """Return the stage in which a student was trained on text alone."""
    return f"{student}-pretrained"


def quantized(student: str) -> str:
    """Return the stage in which a student was stored in four bits."""
    return f"{student}-nf4"


def tuned(model: str, task: str) -> str:
    """Return the stage in which a model learned a task: `poster-squad`, `poster-squad-nf4`."""
    base = model.removesuffix("-nf4")
    return f"{base}-{task}{model.removeprefix(base)}"


GPT2 = "gpt2"
QWEN_SMALL = "qwen3-06b"
QWEN = "qwen3-8b"
OTHERS = {GPT2: "GPT-2", QWEN_SMALL: "Qwen3-0.6B", QWEN: "Qwen3-8B"}
"""Models of others."""
SHAPES = {GPT2: "gpt2", QWEN_SMALL: "qwen3-0.6b", QWEN: "qwen3-8b"}
"""Their shapes in the catalogue."""

COMPARED = {
    **OTHERS,
    TEACHER: "teacher",
    INDEPENDENT: "ours, independent layers",
    POSTER: "ours, one layer reused",
    quantized(POSTER): "ours, one layer reused, NF4",
}
"""The models of figure 4, in its order."""

BOTTLENECK = "bottleneck"
NONE = "none"
NONE_PARAMETERS = "none-parameters"
NONE_FLOPS = "none-flops"
UNSHARED = "unshared"
ONCE = "once"
TEXT_TOO = "text-too"
TEXT_ALONE = "text-alone"

BOTTLENECKS = {
    BOTTLENECK: "bottleneck",
    NONE: "none, as the poster compares",
    NONE_PARAMETERS: "none, equal parameters",
    NONE_FLOPS: "none, equal executed FLOPs",
}
"""The models of figure 2: with a bottleneck in the MLP, and without, three times."""

VARIANTS = {
    **BOTTLENECKS,
    UNSHARED: "a layer for each use",
    ONCE: "the layer used once",
    TEXT_TOO: "KL with text",
    TEXT_ALONE: "text alone",
}
"""Every model that is trained by several seeds: stages `bottleneck-0`, `bottleneck-1` and so on."""
