"""Hidden states beside predictions: what the distances are, their gradients, micro-batches, what is refused."""

import pytest
import torch
import torch.nn.functional as F

from flyweight.config.schema import Distillation, HiddenMatching, ModelConfig
from flyweight.data.batch import Batch
from flyweight.model.decoder import Decoder
from flyweight.spec.matching import matching_faults
from flyweight.training.hidden_matching import distance, relations, values, watched
from flyweight.training.objectives import DistillationObjective

T, V = 6, 11


def decoder(seed, dim=8, layers=2, **fields):
    raw = {"dim": dim, "layers": layers, "attention": {"heads": 2}, **fields}
    return Decoder(ModelConfig.model_validate(raw).resolved(V, T), seed).double()


def batch(rows=4, seed=0, **fields):
    ids = torch.randint(V, (rows, T + 1), generator=torch.Generator().manual_seed(seed))
    return Batch.from_tensors(ids[:, :-1], ids[:, 1:].contiguous(), **fields)


def test_watched_streams_are_those_between_blocks():
    model = decoder(0, layers=3)
    tokens = batch().inputs
    with watched(model, [0, 2]) as seen:
        hidden = model.hidden(tokens)
    assert sorted(seen) == [0, 2] and model.watched is None
    torch.testing.assert_close(model.norm(seen[2]), hidden)


def test_values_are_a_share_of_the_teachers_length():
    teacher = torch.randn(2, T, 8)
    assert values(teacher, teacher).abs().max() == 0
    torch.testing.assert_close(values(2 * teacher, teacher), torch.ones(2, T))


def test_relations_are_a_divergence_over_earlier_tokens():
    student, teacher = torch.randn(2, T, 4), torch.randn(2, T, 16)
    found = relations(student, teacher)
    for row in range(2):
        for token in range(T):
            if token == 0:
                assert found[row, token] == 0
                continue
            cosines = [
                F.cosine_similarity(each[row, token : token + 1], each[row, :token])
                for each in (teacher, student)
            ]
            p, q = ((4.0 * each).softmax(-1) for each in cosines)
            torch.testing.assert_close(found[row, token], (p * (p / q).log()).sum())
    turned = torch.linalg.qr(torch.randn(16, 16))[0]
    assert relations(teacher @ turned, teacher).abs().max() < 1e-5, "directions are no matter"


def test_relations_stay_within_documents():
    student, teacher = torch.randn(1, T, 4), torch.randn(1, T, 4)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1]])
    found = relations(student, teacher, documents)
    parts = [relations(student[:, part], teacher[:, part]) for part in (slice(3), slice(3, 6))]
    torch.testing.assert_close(found, torch.cat(parts, 1))


@pytest.mark.parametrize("by", ["values", "relations"])
def test_the_gradient_is_that_of_the_written_out_loss(by):
    hidden = HiddenMatching(places={0: 0, 1: 2}, weight=0.3, by=by)
    teacher = decoder(1, dim=8 if by == "values" else 12, layers=3).requires_grad_(False)
    read = batch(weights=torch.tensor([1.0, 0.0, 2.0, 1.0]).unsqueeze(1).expand(4, T).contiguous())
    gradients = []
    for matched in (True, False):
        student = decoder(0)
        config = Distillation(hidden=hidden if matched else None, weight=0.5)
        sums = DistillationObjective(config, teacher)(student, read)
        loss = sums.loss
        if not matched:
            taught, own = [], []
            for model, kept, wanted in ((teacher, taught, (0, 2)), (student, own, (0, 1))):
                for place in wanted:
                    short = decoder(0, dim=model.config.dim, layers=place + 1)
                    short.embedding, short.blocks = model.embedding, model.blocks[: place + 1]
                    short.norm = None
                    kept.append(short.hidden(read.inputs))
            measure = values if by == "values" else relations
            for s, t in zip(own, taught, strict=True):
                loss = loss + 0.3 * (measure(s, t) * read.weights).sum()
        loss.backward()
        gradients.append([parameter.grad for parameter in student.parameters()])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-9)


def test_micro_batches_add_up():
    hidden = HiddenMatching(places={1: 1}, by="relations")
    teacher, student = decoder(1).requires_grad_(False), decoder(0)
    objective = DistillationObjective(Distillation(hidden=hidden), teacher)
    whole, read = objective(student, batch()).loss, batch()
    parts = [
        objective(student, Batch.from_tensors(read.inputs[rows], read.targets[rows])).loss
        for rows in (slice(1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_pads_count_nothing():
    read = batch(2)
    padded = read.targets.clone()
    padded[1, 3:] = -100
    hidden = HiddenMatching(places={0: 0}, weight=1.0)
    student, teacher = ({0: torch.randn(2, T, 4)} for _ in range(2))
    found = distance(hidden, student, teacher, Batch.from_tensors(read.inputs, padded))
    each = values(student[0], teacher[0])
    torch.testing.assert_close(found, each[0].sum() + each[1, :3].sum())


def test_what_cannot_be_compared():
    small, large = decoder(0).config, decoder(0, dim=12, layers=3).config
    hidden = HiddenMatching(places={5: 3})
    faults = "\n".join(matching_faults(hidden, small, large))
    assert "the student has no place 5; its 2 places" in faults
    assert "the teacher has no place 3; its 3 places" in faults
    assert "values of 8 and 12 numbers a token cannot be compared; use by: relations" in faults

    (fault,) = matching_faults(HiddenMatching(places={0: 0}), small, None)
    assert "the teacher is not a decoder of ours" in fault
    with pytest.raises(ValueError, match="places"):
        HiddenMatching(places={})
