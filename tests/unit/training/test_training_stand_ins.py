import torch

from flyweight.config.schema import ModelConfig, Train
from flyweight.training.planned_training import PlannedTraining
from flyweight.training.stand_ins import RandomTokens, Validation, new_model, new_objective

MODEL = ModelConfig(dim=64, layers=2).resolved(500, 64)
PLANNED = PlannedTraining(model=MODEL, train=Train(batch=4, accumulate=2), context=32)


def test_tokens_are_of_the_vocabulary_and_the_same_each_time():
    source = RandomTokens(PLANNED)
    batch = source.batch(3)
    assert batch.inputs.shape == batch.targets.shape == (4, 32)
    assert batch.real_targets == 4 * 32 and batch.all_real
    assert batch.inputs.max() < 500 and batch.documents is None
    assert torch.equal(batch.inputs, source.batch(3).inputs)
    assert source.batch(0, slice(2, 4)).inputs.shape == (2, 32)
    isolated = RandomTokens(PLANNED.model_copy(update={"isolated": True}))
    assert isolated.batch(0).documents is not None


def test_only_what_trains_has_gradients():
    lora = {"kind": "lora", "targets": ["attention.qkv"], "r": 4}
    config = ModelConfig(dim=64, layers=2, adapters=[lora]).resolved(500, 64)
    planned = PLANNED.model_copy(update={"model": config, "trains": "adapters"})
    model = new_model(planned)
    moved = [name for name, tensor in model.named_parameters() if tensor.requires_grad]
    assert moved and all(".lora." in name for name in moved)
    new_objective(planned, None)(model, RandomTokens(planned).batch(0)).loss.backward()


def test_a_validation_reads_a_batch_at_most():
    nll = Validation(new_model(PLANNED), PLANNED, "cpu")(10**6, PLANNED.train.batch)
    assert 5 < nll < 8
