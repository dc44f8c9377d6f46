import pytest
import torch

from flyweight.errors import RequestError
from flyweight.model import catalogue, cost
from flyweight.model.build import build

# As published: `num_parameters()` of the Hugging Face models, and the numbers in papers and read-me files.
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
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str) -> None:
    assert cost.parameters(catalogue.load(name)).unique == PUBLISHED[name]


@pytest.mark.parametrize("name", catalogue.names())
def test_every_entry_builds_as_counted(name: str) -> None:
    config = catalogue.load(name)
    with torch.device("meta"):
        model = build(config)
    assert config == config.resolved()
    assert sum(p.numel() for p in model.parameters()) == cost.parameters(config).unique


def test_every_published_entry_is_there() -> None:
    tradeoffs = {f"tradeoffs/{name}" for name in ("linear", "mlp-128", "mlp-256", "mlp-512", "lstm")}
    assert set(PUBLISHED) | tradeoffs | {"parameter-golf-baseline"} <= set(catalogue.names())


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"gpt2-midium: .*did you mean gpt2-medium"):
        catalogue.load("gpt2-midium")
    with pytest.raises(RequestError, match=r"there are distilqwen3-independent, gpt2,"):
        catalogue.load("zzz")
