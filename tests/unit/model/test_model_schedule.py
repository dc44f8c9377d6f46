from flyweight.config.schema import ModelConfig
from flyweight.model.schedule import Visit, visits


def test_every_layer_is_visited_once_in_order() -> None:
    config = ModelConfig(vocab_size=10, context=8, dim=16, layers=3)
    assert visits(config) == (Visit(0), Visit(1), Visit(2))
    assert visits(config)[1].pass_ == 0
