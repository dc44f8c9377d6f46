import itertools

import pytest
import torch

from flyweight.config import catalogue
from flyweight.errors import RequestError
from flyweight.model.build import build
from flyweight.spec import flops

# As published: `num_parameters()` of the Hugging Face models, and the numbers in papers and read-me
# files.
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "llama-3.2-1b": 1_235_814_400,
    "smollm2-135m": 134_515_008,
    "nanogpt-char": 10_646_784 + 256 * 384,  # nanoGPT leaves its positions out of the count
    "distilqwen3-independent": 1_372_872_192,
    "distilqwen3-shared": 504_505_536,
    "compact-ladder/1": 133_969_489,
    "compact-ladder/2": 148_143_697,
    "compact-ladder/3": 148_143_697,
    "compact-ladder/4": 153_979_985,
    "compact-ladder/5": 128_248_401,
    "compact-ladder/6": 135_391_249,
    "compact-ladder/7": 135_391_249,
    "compact-ladder/8": 135_391_309,
    "compact-ladder/9": 135_391_309,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str) -> None:
    assert flops.parameters(catalogue.load(name)).unique == PUBLISHED[name]


@pytest.mark.parametrize("name", catalogue.names())
def test_every_entry_builds_as_counted(name: str) -> None:
    config = catalogue.load(name)
    with torch.device("meta"):
        model = build(config)
    assert config == config.resolved()
    assert sum(p.numel() for p in model.parameters()) == flops.parameters(config).unique


def test_block_parameters_executed_by_the_published_ladder() -> None:
    """56.7 M on rung 1, 212.8 M on 7 and 8, four times that on 9, but for what its first three passes need not compute."""
    executed = {}
    for rung in (1, 7, 8, 9):
        found = flops.parameters(catalogue.load(f"compact-ladder/{rung}"))
        ends = found.by_part["embedding"] + found.by_part["head"]
        executed[rung] = (found.total - ends) / 1e6
    assert executed[1] == pytest.approx(56.7, abs=0.05)
    assert executed[7] == pytest.approx(212.8, abs=0.05) == executed[8]
    assert 0.98 * 851 < executed[9] < 851


def test_the_repaired_ladder_changes_one_thing_a_rung() -> None:
    fields = [catalogue.load(f"compact-ladder/{rung}r").model_dump() for rung in range(1, 10)]
    changed = [{key for key in a if a[key] != b[key]} for a, b in itertools.pairwise(fields)]
    assert changed.pop(2) == {"dim", "layers", "attention"}  # deep and thin: heads follow the width
    assert changed == [
        {"mlp"},
        {"mlp"},
        {"embedding"},
        {"attention"},
        {"sharing"},
        {"residual"},
        {"thinking"},
    ]


def test_every_published_entry_is_there() -> None:
    tradeoffs = {
        f"tradeoffs/{name}" for name in ("linear", "mlp-128", "mlp-256", "mlp-512", "lstm")
    }
    assert set(PUBLISHED) | tradeoffs | {"parameter-golf-baseline"} <= set(catalogue.names())


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"gpt2-midium: .*did you mean gpt2-medium"):
        catalogue.load("gpt2-midium")
    with pytest.raises(RequestError, match=r"there are compact-ladder/1, compact-ladder/1r,"):
        catalogue.load("zzz")


def test_models_of_the_hub_have_the_catalogue_s_shape():
    assert catalogue.published("hf:Qwen/Qwen3-8B@main") == catalogue.load("qwen3-8b")
    assert catalogue.published("Qwen/Qwen3-8B") is None
    assert catalogue.published("hf:somebody/else") is None
    assert set(catalogue.PUBLISHED.values()) <= set(catalogue.names())
