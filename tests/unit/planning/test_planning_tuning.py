"""The method that is chosen where none is named."""

from flyweight.config.baselines import LstmConfig
from flyweight.config.decoder import ModelConfig
from flyweight.planning.tuning import choose_method

SMALL = ModelConfig(vocab_size=256, context=256, dim=64, layers=2)


def test_memory_that_full_fine_tuning_does_not_fit_chooses_lora_with_both_figures():
    roomy = choose_method(SMALL, 256, free=10**12)
    assert roomy.method == "full"
    tight = choose_method(SMALL, 256, free=50_000_000)
    assert tight.method == "lora"
    assert "takes about" in tight.reason and "50 MB are free" in tight.reason
    assert choose_method(SMALL, 256).method == "full", "nobody asked how much is free"
    longer = choose_method(SMALL.model_copy(update={"context": 4096}), 4096, free=250_000_000)
    assert longer.method == "lora", "rows take memory too"
    baseline = LstmConfig(vocab_size=256, context=64, dim=64)
    assert choose_method(baseline, 64, free=1).method == "full", "it takes no adapters"
