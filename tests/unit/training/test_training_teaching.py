"""A teacher's record: the whole of it is the teacher, less of it is what the formulas say; and a shuffled teacher."""

import pytest
import torch

from flyweight.config.schema import Distillation, ModelConfig
from flyweight.data.batch import Batch, TeacherRecord
from flyweight.model.decoder import Decoder
from flyweight.training.objectives import DistillationObjective
from flyweight.training.teaching import shuffled

T, V = 5, 13


def decoder(seed, dim=8, **fields):
    raw = {"dim": dim, "layers": 1, "attention": {"heads": 2}, **fields}
    return Decoder(ModelConfig.model_validate(raw).resolved(V, T), seed).double()


TEACHER = decoder(3, dim=16, init={"std": 0.5}).requires_grad_(False)


def read(k=None, temperature=1.0, rows=3, weights=None):
    ids = torch.randint(V, (rows, T + 1), generator=torch.Generator().manual_seed(0))
    batch = Batch.from_tensors(ids[:, :-1], ids[:, 1:].contiguous(), weights)
    if k is None:
        return batch
    best = (TEACHER(batch.inputs) / temperature).log_softmax(-1).topk(k)
    return batch.with_teacher(TeacherRecord(best.indices, best.values.float()))


def loss_and_gradients(config, batch, teacher=None, **fields):
    student = decoder(1, **fields)
    sums = DistillationObjective(config, teacher)(student, batch)
    sums.loss.backward()
    return sums.loss.detach(), [parameter.grad for parameter in student.parameters()]


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_a_record_of_all_tokens_is_the_teacher(divergence, temperature, softcap):
    config = Distillation(divergence=divergence, temperature=temperature, weight=0.7)
    head = {"softcap": softcap}
    loss, gradients = loss_and_gradients(config, read(), TEACHER, head=head)
    told, of_told = loss_and_gradients(config, read(V, temperature), head=head)
    close(told, loss)
    for ours, expected in zip(of_told, gradients, strict=True):
        close(ours, expected)


def close(ours, expected):
    """Losses and records are float32, and the models float64."""
    torch.testing.assert_close(ours.double(), expected.double(), rtol=1e-5, atol=1e-5)


def coarse(log_probs, tokens):
    told = log_probs.gather(-1, tokens)
    rest = (1 - told.exp().sum(-1, keepdim=True)).log()
    return torch.cat((told, rest), -1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_all_others_are_one_more_token(divergence, temperature):
    config = Distillation(divergence=divergence, temperature=temperature, weight=0.7, beta=0.3)
    batch = read(4, temperature)
    loss, gradients = loss_and_gradients(config, batch)

    student = decoder(1)
    logits = student(batch.inputs)
    log_q = coarse((logits / temperature).log_softmax(-1), batch.teacher.tokens)
    log_p = coarse((TEACHER(batch.inputs) / temperature).log_softmax(-1), batch.teacher.tokens)
    log_m = torch.logaddexp(log_p + torch.tensor(0.3).log(), log_q + torch.tensor(0.7).log())

    def kl(a, b):
        return (a.exp() * (a - b)).sum(-1)

    of = {
        "forward_kl": kl(log_p, log_q),
        "reverse_kl": kl(log_q, log_p),
        "jsd": 0.3 * kl(log_p, log_m) + 0.7 * kl(log_q, log_m),
    }[divergence]
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), reduction="sum"
    )
    expected = 0.7 * temperature**2 * of.sum() + 0.3 * nll
    expected.backward()
    close(loss, expected.detach())
    for ours, parameter in zip(gradients, student.parameters(), strict=True):
        close(ours, parameter.grad)


def test_others_can_be_taken_for_impossible():
    config, batch = Distillation(rest="renormalise", weight=1.0), read(4)
    loss, gradients = loss_and_gradients(config, batch)
    student = decoder(1)
    log_q = student(batch.inputs).log_softmax(-1).gather(-1, batch.teacher.tokens)
    p = batch.teacher.log_probs.softmax(-1)
    expected = (p * (p.log() - log_q)).sum()
    expected.backward()
    close(loss, expected.detach())
    for ours, parameter in zip(gradients, student.parameters(), strict=True):
        close(ours, parameter.grad)
    with pytest.raises(ValueError, match="reverse_kl would be infinite; use bucket"):
        Distillation(rest="renormalise", divergence="reverse_kl")


def test_weights_of_targets_count():
    weights = torch.ones(3, T)
    weights[1, 2:] = 0
    config, whole = Distillation(weight=1.0), read(4)
    loss, _ = loss_and_gradients(config, read(4, weights=weights))
    everything, _ = loss_and_gradients(config, whole)
    assert 0 < loss < everything


def test_a_shuffled_teacher_is_as_sure_of_the_target_and_of_nothing_else():
    log_p = TEACHER(read().inputs).log_softmax(-1).flatten(0, 1)
    targets = read().targets.flatten().unsqueeze(1)
    mixed = shuffled(log_p, targets)
    assert torch.equal(mixed.gather(1, targets), log_p.gather(1, targets))
    torch.testing.assert_close(mixed.sort(-1).values, log_p.sort(-1).values)
    moved = (mixed != log_p).sum(1)
    assert (moved > V // 2).all()
    plain = loss_and_gradients(Distillation(weight=1.0), read(), TEACHER)[0]
    other = loss_and_gradients(Distillation(weight=1.0, shuffled=True), read(), TEACHER)[0]
    assert plain != other
