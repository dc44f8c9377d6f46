import torch

from flyweight.config.schema import ModelConfig
from flyweight.model import linear
from flyweight.model.linear import Linear


def test_linear_layers_share_one_face() -> None:
    weight, bias, x = torch.randn(12, 32), torch.randn(12), torch.randn(3, 32)
    weight.view(12, 8, 4)[..., 2:] = 0  # two of four, which every kind can hold
    for kind, layer_type in linear.KINDS.items():
        fields = {"kind": kind, "nonzero": 12 * 16} if kind == "sparse" else kind
        config = ModelConfig.model_validate({"dim": 8, "layers": 0, "linears": {"*": fields}})
        built = linear.build(config.linears["*"], 32, 12, True)
        assert type(built) is layer_type
        layer = layer_type.from_dense(weight, bias, built.kind)
        off = 0.2 if kind == "int8_dynamic" else 1e-5  # which rounds its inputs
        torch.testing.assert_close(layer(x), x @ layer.dense().T + bias, rtol=1e-5, atol=off)
        assert torch.equal(layer.rows(torch.tensor([[1, 5]])), layer.dense()[[1, 5]][None])
        assert layer.stored_bytes() == sum(tensor.nbytes for tensor in layer.state_dict().values())
        assert (layer.dense() - weight).abs().max() <= (0 if isinstance(layer, Linear) else 1.0)


def test_from_dense_copies() -> None:
    weight = torch.ones(2, 3)
    layer = Linear.from_dense(weight, None)
    weight.zero_()
    assert layer.dense().eq(1).all()
    assert layer.weight.requires_grad and layer.bias is None
