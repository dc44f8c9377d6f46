from flyweight.config.schema import Distillation, ModelConfig, Train
from flyweight.training.planned_training import PlannedTraining

MODEL = ModelConfig(dim=64, layers=2).resolved(500, 64)


def planned(**train):
    return PlannedTraining(
        model=MODEL,
        train=Train.model_validate({"steps": 4, **train}),
        context=64,
        teacher=MODEL,
        objective=Distillation(temperature=2.0),
    )


def test_it_comes_back_from_plain_data():
    asked = planned(time="10min", memory={"recompute": "blocks"})
    assert PlannedTraining.read(asked.model_dump(mode="json")) == asked


def test_the_key_leaves_out_what_takes_no_memory():
    assert planned(steps=4).key == planned(steps=5, optimizer={"kind": "adamw"}).key
    assert planned().key != planned(accumulate=2).key
    assert planned().key != planned(validations=0).key


def test_two_pieces_stand_for_many():
    few = planned(batch=16, accumulate=8).with_few_pieces().train
    assert (few.batch, few.accumulate) == (4, 2)
    assert planned(batch=16).with_few_pieces().train.batch == 16
