import pytest
import torch

from flyweight.data.batch import IGNORE, Batch, TeacherRecord, rank_rows, real_targets
from flyweight.errors import FlyweightError, RequestError

INPUTS = torch.arange(6).reshape(2, 3)


def test_a_target_is_real_unless_it_is_ignored_or_weighs_nothing():
    targets = torch.tensor([[1, IGNORE, 3], [4, 5, 0]])
    weights = torch.tensor([[1.0, 1.0, 0.0], [0.5, -1.0, 2.0]])
    assert real_targets(targets, None).tolist() == [[True, False, True], [True] * 3]
    assert real_targets(targets, weights).tolist() == [[True, False, False], [True] * 3]
    assert Batch.from_tensors(INPUTS, targets).real_targets == 5
    assert Batch.from_tensors(INPUTS, targets, weights).real_targets == 4
    assert not Batch.from_tensors(INPUTS, targets).all_real
    assert Batch.from_tensors(INPUTS, INPUTS).all_real


@pytest.mark.parametrize("field", ["targets", "weights", "documents"])
def test_other_shapes_are_refused(field):
    fields = {"inputs": INPUTS, "targets": INPUTS, field: torch.zeros(2, 4)}
    with pytest.raises(FlyweightError, match=rf"{field} have the shape \(2, 4\)"):
        Batch.from_tensors(**fields)


def test_a_batch_moves_to_a_device_as_a_whole():
    record = TeacherRecord(torch.zeros(2, 3, 4, dtype=torch.int64), torch.zeros(2, 3, 4))
    batch = Batch.from_tensors(INPUTS, INPUTS, torch.ones(2, 3), INPUTS, record).to("meta")
    tensors = (batch.inputs, batch.targets, batch.weights, batch.documents)
    tensors += (batch.teacher.tokens, batch.teacher.log_probs)
    assert all(tensor.is_meta for tensor in tensors)
    assert batch.real_targets == 6


def test_ranks_share_all_rows_in_order():
    rows = list(range(12))
    assert [rows[rank_rows(12, rank, 3)] for rank in range(3)] == [
        rows[:4],
        rows[4:8],
        rows[8:],
    ]
    with pytest.raises(RequestError, match="12 rows cannot be shared by 5"):
        rank_rows(12, 0, 5)
