"""What only a GPU can show; skipped elsewhere (`make gpu` runs it)."""

import pytest
import torch

from flyweight.config import schema
from flyweight.config.schema import ModelConfig
from flyweight.core.runtime import Runtime
from flyweight.data.batch import Batch
from flyweight.model.decoder import Decoder
from flyweight.training.objectives import NextTokenObjective

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def decoder(**fields):
    config = {"dim": 64, "layers": 2, "attention": {"heads": 4, "kv_heads": 2}, **fields}
    return Decoder(ModelConfig.model_validate(config).resolved(101, 64))


def test_the_default_precision_is_what_the_device_is_good_at():
    expected = "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    assert Runtime.detect().precision("auto", 64) == expected


def test_logits_agree_with_the_cpu():
    model, tokens = decoder(), torch.randint(101, (3, 17))
    torch.testing.assert_close(
        model.cuda()(tokens.cuda()).cpu(), model.cpu()(tokens), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_under_autocast_agrees_with_float32(dtype):
    model, tokens = decoder().cuda(), torch.randint(101, (4, 33), device="cuda")
    objective = NextTokenObjective(schema.NextToken())
    batch = Batch.from_tensors(tokens[:, :-1], tokens[:, 1:])
    exact = objective(model, batch).loss
    with torch.autocast("cuda", dtype):
        loss = objective(model, batch).loss
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-2)


def test_a_full_vocabulary_step_needs_little_memory_for_its_logits():
    tokens, vocab, dim = 4096, 50_257, 256
    model = Decoder(ModelConfig(dim=dim, layers=0).resolved(vocab, tokens)).cuda()
    inputs = torch.randint(vocab, (1, tokens), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    batch = Batch.from_tensors(inputs, inputs)
    NextTokenObjective(schema.NextToken())(model, batch).loss.backward()
    assert torch.cuda.max_memory_allocated() - before < 0.25 * 3 * 4 * tokens * vocab
