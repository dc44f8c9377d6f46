"""A teacher's record: the whole of it is the teacher, less of it is what the formulas say; and a shuffled teacher."""

import pytest
import torch

from flyweight.config.schema import Distillation, ModelConfig
from flyweight.data.batch import Batch, TeacherRecord
from flyweight.model.decoder import Decoder
from flyweight.training.objectives import DistillationObjective
from flyweight.training.teaching import (
    RecordedTeaching,
    grouped,
    shuffled,
    shuffled_tokens,
)

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


MIXTURES = {"forward_kl": {}, "reverse_kl": {}, "jsd": {"beta": 0.3}}


def coarse(log_probs, tokens):
    told = log_probs.gather(-1, tokens)
    rest = (1 - told.exp().sum(-1, keepdim=True)).log()
    return torch.cat((told, rest), -1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("divergence", MIXTURES)
def test_all_others_are_one_more_token(divergence, temperature):
    config = Distillation(
        temperature=temperature, weight=0.7, divergence=divergence, **MIXTURES[divergence]
    )
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


def told_by_groups(groups, k, temperature=1.0, told=None):
    """Return a batch with the teacher's distribution over groups, and what it is over all of them."""
    batch, count = read(), int(groups.max()) + (0 if (groups == groups.max()).sum() > 1 else 1)
    log_probs = (TEACHER(batch.inputs) / temperature).log_softmax(-1).flatten(0, 1)
    of_groups = grouped(log_probs, groups, count)[:, :count].log_softmax(-1)
    best = of_groups.topk(k)
    values = best.values.float()
    if told is not None:
        values = torch.where(told.flatten()[:, None], values, -torch.inf)
    shape = (*batch.inputs.shape, k)
    record = TeacherRecord(best.indices.view(shape), values.view(shape), groups, count)
    return batch.with_teacher(record), of_groups.view(*batch.inputs.shape, count)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("weight", [1.0, 0.7])
def test_groups_of_one_token_are_ordinary_distillation(divergence, temperature, weight):
    config = Distillation(divergence=divergence, temperature=temperature, weight=weight)
    loss, gradients = loss_and_gradients(config, read(), TEACHER)
    batch, _ = told_by_groups(torch.randperm(V), V, temperature)
    told, of_told = loss_and_gradients(config, batch)
    close(told, loss)
    for ours, expected in zip(of_told, gradients, strict=True):
        close(ours, expected)


GROUPS = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 1, 0, 5, 5, 3])
"""Four groups; two tokens of the vocabulary, 10 and 11, are in none."""


@pytest.mark.parametrize("k", [5, 3])
@pytest.mark.parametrize("divergence", MIXTURES)
def test_what_groups_tell_and_what_they_leave_open(divergence, k):
    config = Distillation(
        temperature=2.0, weight=0.7, divergence=divergence, **MIXTURES[divergence]
    )
    told = torch.rand(3, T, generator=torch.Generator().manual_seed(1)) > 0.3
    batch, log_p = told_by_groups(GROUPS, k, 2.0, told)
    loss, gradients = loss_and_gradients(config, batch)

    student, count = decoder(1), 5
    logits = student(batch.inputs)

    def of_groups(log_probs):
        parts = [log_probs[..., group == GROUPS].logsumexp(-1) for group in range(count)]
        return torch.stack(parts, -1).log_softmax(-1)

    def coarse_groups(log_probs):
        return log_probs if k == count else coarse(log_probs, batch.teacher.tokens)

    log_q, log_p = coarse_groups(of_groups((logits / 2).log_softmax(-1))), coarse_groups(log_p)
    log_m = torch.logaddexp(log_p + torch.tensor(0.3).log(), log_q + torch.tensor(0.7).log())

    def kl(a, b):
        return (a.exp() * (a - b)).sum(-1)

    of = {
        "forward_kl": kl(log_p, log_q),
        "reverse_kl": kl(log_q, log_p),
        "jsd": 0.3 * kl(log_p, log_m) + 0.7 * kl(log_q, log_m),
    }[divergence]
    nll = torch.nn.functional.cross_entropy(logits.mT, batch.targets, reduction="none")
    group = GROUPS[batch.targets]
    nll_group = -of_groups(logits.log_softmax(-1)).gather(-1, group.clamp_max(4)[..., None])[..., 0]
    known = torch.where(told & (group < count), 1.0, 0.0)
    expected = (known * (0.7 * 4 * of - 0.7 * nll_group) + nll).sum()
    expected.backward()
    close(loss, expected.detach())
    assert 0 < known.mean() < 1
    for ours, parameter in zip(gradients, student.parameters(), strict=True):
        close(ours, parameter.grad)


def test_a_position_that_nothing_is_told_of_is_cross_entropy():
    batch, _ = told_by_groups(GROUPS, 3, told=torch.zeros(3, T, dtype=torch.bool))
    for rest in ("bucket", "renormalise"):
        config = Distillation(weight=0.8, rest=rest, temperature=2.0)
        loss, gradients = loss_and_gradients(config, batch)
        alone, expected = loss_and_gradients(Distillation(weight=0.0), read(), TEACHER)
        close(loss, alone)
        for ours, others in zip(gradients, expected, strict=True):
            close(ours, others)


def test_the_best_student_of_groups_is_the_texts_distribution():
    """Teacher where it tells, text elsewhere: with both right, the loss is least at the truth."""
    truth = torch.tensor([0.4, 0.1, 0.2, 0.3]).log()
    groups, told = torch.tensor([0, 0, 1, 1]), torch.tensor([0.5, 0.5]).log()
    logits = torch.zeros(1, 4, requires_grad=True)
    targets = torch.tensor([0] * 4 + [1] + [2] * 2 + [3] * 3)
    optimizer = torch.optim.SGD([logits], lr=0.5)
    batch = Batch.from_tensors(targets[None], targets[None])
    record = TeacherRecord(
        torch.tensor([0, 1]).expand(1, 10, 2), told.expand(1, 10, 2).clone(), groups, 2
    )
    teaching = RecordedTeaching(Distillation(weight=1.0), batch.with_teacher(record))
    everything = slice(0, 10)
    for _ in range(300):
        log_q = logits.expand(10, 4).log_softmax(-1)
        _, of_told = teaching.of(everything)(everything, log_q.detach(), targets[:, None])
        _, untold = teaching.untold(everything)(everything, log_q.detach(), targets[:, None])
        logits.grad = (of_told + untold).mean(0, keepdim=True)
        optimizer.step()
    torch.testing.assert_close(logits.detach().log_softmax(-1)[0], truth, rtol=0, atol=1e-3)


def test_a_shuffled_record_is_the_shuffled_teacher():
    config = Distillation(weight=0.6, shuffled=True)
    loss, gradients = loss_and_gradients(config, read(), TEACHER)
    told, of_told = loss_and_gradients(config, read(V))
    close(told, loss)
    for ours, expected in zip(of_told, gradients, strict=True):
        close(ours, expected)
    targets = read(4).targets.reshape(-1, 1)
    tokens = read(4).teacher.tokens.flatten(0, 1)
    moved = shuffled_tokens(tokens, targets, V)
    assert torch.equal(moved == targets, tokens == targets)
    assert all(len(set(row)) == 4 for row in moved.tolist())
