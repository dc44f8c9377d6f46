import itertools

import pytest
import torch
import torch.nn.functional as F

from flyweight.config import schema
from flyweight.config.schema import ModelConfig
from flyweight.data.batch import IGNORE, Batch
from flyweight.model.decoder import Decoder
from flyweight.training import objectives
from flyweight.training.objectives import DistillationObjective, NextTokenObjective

VOCAB, BATCH, LENGTH = 123, 5, 7


def decoder(seed=0, dim=20, softcap=None, tied=True, bias=False, rank=None):
    config = {
        "dim": dim,
        "layers": 1,
        "attention": {"heads": 2},
        "head": {"softcap": softcap, "bias": bias},
        "embedding": {"tied": tied, "rank": rank},
    }
    return Decoder(ModelConfig.model_validate(config).resolved(VOCAB, 16), seed=seed)


def batch(masked):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(VOCAB, (BATCH, LENGTH), generator=generator)
    targets = torch.randint(VOCAB, (BATCH, LENGTH), generator=generator)
    if masked:
        targets[1, 2:] = IGNORE
        targets[3] = IGNORE
    return inputs, targets


def sums(objective, model, inputs, targets, **fields):
    """Return the loss and the NLL of a batch."""
    summed = objective(model, Batch.from_tensors(inputs, targets, **fields))
    assert summed.targets == int((targets != IGNORE).sum())
    return summed.loss, summed.nll


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def plain_distillation(config, teacher, model, inputs, targets):
    """The definition, with whole logits."""
    keep = targets.reshape(-1) != IGNORE
    student = model(inputs).flatten(0, 1)[keep]
    with torch.no_grad():
        p = torch.softmax(teacher(inputs).flatten(0, 1)[keep] / config.temperature, -1)
    q = torch.softmax(student / config.temperature, -1)
    m = config.beta * p + (1 - config.beta) * q
    kl = lambda a, b: (a * (a.log() - b.log())).sum()  # noqa: E731
    divergence = {
        "forward_kl": kl(p, q),
        "reverse_kl": kl(q, p),
        "jsd": config.beta * kl(p, m) + (1 - config.beta) * kl(q, m),
    }[config.divergence]
    ce = F.cross_entropy(student, targets.reshape(-1)[keep], reduction="sum")
    return config.weight * config.temperature**2 * divergence + (1 - config.weight) * ce


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("tied", [True, False])
def test_a_biased_or_factorised_head_equals_the_plain_version(monkeypatch, tied, softcap, rank):
    monkeypatch.setattr(objectives, "chunk_rows", lambda vocab: 4)
    model, (inputs, targets) = (
        decoder(softcap=softcap, tied=tied, bias=True, rank=rank).double(),
        batch(True),
    )
    torch.nn.init.normal_(
        model.head_bias if tied else model.head.linear.bias,
        generator=torch.Generator().manual_seed(3),
    )
    plain = F.cross_entropy(
        model(inputs).flatten(0, 1), targets.reshape(-1), ignore_index=IGNORE, reduction="sum"
    )
    plain.backward()
    expected = gradients(model)
    model.zero_grad()
    loss, _ = sums(NextTokenObjective(schema.NextToken()), model, inputs, targets)
    (2 * loss).backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, 2 * expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("softcap", "masked", "chunk", "tied"),
    itertools.product([None, 3.0], [False, True], [1, 4, 10**6], [True, False]),
)
def test_next_token_equals_the_plain_version(monkeypatch, softcap, masked, chunk, tied):
    monkeypatch.setattr(objectives, "chunk_rows", lambda vocab: chunk)
    model, (inputs, targets) = decoder(softcap=softcap, tied=tied).double(), batch(masked)
    plain = F.cross_entropy(
        model(inputs).flatten(0, 1), targets.reshape(-1), ignore_index=IGNORE, reduction="sum"
    )
    plain.backward()
    expected = gradients(model)
    model.zero_grad()
    loss, nll = sums(NextTokenObjective(schema.NextToken()), model, inputs, targets)
    (loss * 1.0).backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    assert nll.item() == pytest.approx(plain.item(), rel=1e-6)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("divergence", "temperature", "softcap", "masked"),
    itertools.product(["forward_kl", "reverse_kl", "jsd"], [1.0, 2.5], [None, 3.0], [False, True]),
)
def test_distillation_equals_its_definition(monkeypatch, divergence, temperature, softcap, masked):
    monkeypatch.setattr(objectives, "chunk_rows", lambda vocab: 4)
    mixture = {"beta": 0.3} if divergence == "jsd" else {}
    config = schema.Distillation(
        divergence=divergence, temperature=temperature, weight=0.7, **mixture
    )
    teacher, model = decoder(seed=5, dim=28).double(), decoder(softcap=softcap).double()
    inputs, targets = batch(masked)
    plain = plain_distillation(config, teacher, model, inputs, targets)
    plain.backward()
    expected = gradients(model)
    model.zero_grad()
    loss, nll = sums(
        DistillationObjective(config, teacher.requires_grad_(False)), model, inputs, targets
    )
    loss.backward()
    ce = F.cross_entropy(
        model(inputs).flatten(0, 1), targets.reshape(-1), ignore_index=IGNORE, reduction="sum"
    )
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    assert nll.item() == pytest.approx(ce.item(), rel=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_distilling_a_model_from_itself_costs_nothing():
    model, (inputs, targets) = decoder(), batch(False)
    config = schema.Distillation(weight=1.0)
    loss, _ = sums(
        DistillationObjective(config, decoder().requires_grad_(False)), model, inputs, targets
    )
    loss.backward()
    assert abs(loss.item()) < 1e-3
    assert max(g.abs().max().item() for g in gradients(model).values()) < 1e-4


def test_masked_targets_count_nowhere():
    model, (inputs, targets) = decoder(), batch(True)
    other = inputs.clone()
    other[3] = (other[3] + 1) % VOCAB  # a row whose targets are all masked
    first, _ = sums(NextTokenObjective(schema.NextToken()), model, inputs, targets)
    second, _ = sums(NextTokenObjective(schema.NextToken()), model, other, targets)
    assert first.item() == second.item()


def test_no_more_logits_than_a_chunk_exist_at_once(monkeypatch):
    rows = 3
    monkeypatch.setattr(objectives, "chunk_rows", lambda vocab: rows)
    seen = []
    original = objectives.capped
    monkeypatch.setattr(
        objectives, "capped", lambda logits, cap: seen.append(logits.shape) or original(logits, cap)
    )
    sums(NextTokenObjective(schema.NextToken()), decoder(), *batch(False))
    assert sum(shape[0] for shape in seen) == BATCH * LENGTH
    assert max(shape[0] for shape in seen) <= rows


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_autocast_agrees_with_float32(dtype):
    model, (inputs, targets) = decoder(), batch(False)
    exact, _ = sums(NextTokenObjective(schema.NextToken()), model, inputs, targets)
    exact.backward()
    expected = gradients(model)
    model.zero_grad()
    with torch.autocast("cpu", dtype):
        loss, _ = sums(NextTokenObjective(schema.NextToken()), model, inputs, targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-2)
    for name, gradient in gradients(model).items():
        assert gradient.dtype == torch.float32
        assert (gradient - expected[name]).norm() <= 0.1 * expected[name].norm() + 1e-4, name


@pytest.mark.parametrize("rows", [7, 50, 1000])
def test_the_heads_gradient_is_added_in_pieces_in_half_precision(monkeypatch, rows):
    monkeypatch.setattr(objectives, "HEAD_ROWS", rows)
    grad_logits, hidden = torch.randn(9, VOCAB).bfloat16(), torch.randn(9, 20).bfloat16()
    total = torch.ones(VOCAB, 20)
    objectives._add_product(total, grad_logits, hidden)
    torch.testing.assert_close(total, 1 + (grad_logits.T @ hidden).float())


@pytest.mark.parametrize("rows", [2, 4, 1000])
@pytest.mark.parametrize("tokens", [VOCAB, VOCAB // 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_heads_gradient_has_the_dtype_of_the_head(monkeypatch, rows, tokens, dtype):
    """It is summed in float32, and rounded once where the head is narrower."""
    monkeypatch.setattr(objectives, "HEAD_ROWS", rows)
    weight = torch.randn(VOCAB, 20, dtype=dtype)
    gradient, total = objectives._HeadGradient(weight), torch.zeros(VOCAB, 20, dtype=torch.float64)
    wide = torch.promote_types(dtype, torch.float32)
    for _ in range(3):
        grad_logits, hidden = torch.randn(9, tokens, dtype=wide), torch.randn(9, 20, dtype=wide)
        gradient.add(grad_logits, hidden)
        total[:tokens] += grad_logits.double().T @ hidden.double()
    summed = gradient.times(torch.tensor(0.3))
    assert summed.dtype == dtype and summed.is_contiguous()
    torch.testing.assert_close(summed, (0.3 * total).to(dtype))


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("student_rows", [VOCAB, VOCAB + 9])
def test_rows_without_a_token_take_no_part_in_distillation(monkeypatch, divergence, student_rows):
    """A padded teacher teaches as the same teacher without its padding does.

    So does a padded student learn.
    """
    monkeypatch.setattr(objectives, "chunk_rows", lambda vocab: 4)
    config = schema.Distillation(divergence=divergence, temperature=2.0, weight=0.7)
    inputs, targets = batch(True)

    def padded(model, rows):
        wide = Decoder(model.config.model_copy(update={"vocab_size": rows}), seed=9)
        state = {
            name: tensor
            for name, tensor in model.state_dict().items()
            if name != "embedding.tokens.weight"
        }
        table = torch.cat(
            (model.embedding.tokens.weight, torch.full((rows - VOCAB, model.config.dim), 3.0))
        )
        wide.load_state_dict({**state, "embedding.tokens.weight": table.detach()})
        return wide

    teacher, student = decoder(seed=5), decoder()
    expected, expected_nll = sums(
        DistillationObjective(config, teacher.requires_grad_(False)), student, inputs, targets
    )
    expected.backward()
    model = padded(student, student_rows)
    loss, nll = sums(
        DistillationObjective(config, padded(teacher, VOCAB + 31).requires_grad_(False), VOCAB),
        model,
        inputs,
        targets,
    )
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert nll.item() == pytest.approx(expected_nll.item(), rel=1e-5)
    gradient = model.embedding.tokens.weight.grad
    torch.testing.assert_close(
        gradient[:VOCAB], student.embedding.tokens.weight.grad, rtol=1e-4, atol=1e-5
    )
    assert (gradient[VOCAB:] == 0).all()
    plain, _ = sums(NextTokenObjective(schema.NextToken()), student, inputs, targets)
    assert sums(NextTokenObjective(schema.NextToken(), VOCAB), model, inputs, targets)[
        0
    ].item() == pytest.approx(plain.item(), rel=1e-5)


OBJECTIVES = {
    "next_token": lambda: NextTokenObjective(schema.NextToken()),
    "distillation": lambda: DistillationObjective(
        schema.Distillation(divergence="jsd", temperature=2.0, weight=0.6),
        decoder(seed=5).requires_grad_(False),
    ),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_weights_multiply_the_loss_of_each_target_and_not_the_nll(objective):
    inputs, targets = batch(True)
    weights = torch.rand(BATCH, LENGTH, generator=torch.Generator().manual_seed(2)) + 0.5
    model = decoder(softcap=3.0)
    sums(OBJECTIVES[objective](), model, inputs, targets, weights=weights)[0].backward()
    weighted = gradients(model)
    model.zero_grad()
    loss, nll = 0.0, 0.0
    for row, column in itertools.product(range(BATCH), range(LENGTH)):
        if targets[row, column] == IGNORE:
            continue
        alone = torch.full_like(targets, IGNORE)
        alone[row, column] = targets[row, column]
        one_loss, one_nll = sums(OBJECTIVES[objective](), model, inputs, alone)
        (one_loss * weights[row, column]).backward()
        loss += one_loss.item() * weights[row, column].item()
        nll += one_nll.item()
    summed = OBJECTIVES[objective]()(model, Batch.from_tensors(inputs, targets, weights=weights))
    assert summed.loss.item() == pytest.approx(loss, rel=1e-5)
    assert summed.nll.item() == pytest.approx(nll, rel=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(weighted[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("masked", [False, True])
def test_a_weight_of_zero_is_a_target_that_counts_nowhere(objective, masked):
    inputs, targets = batch(masked)
    weights = torch.ones(BATCH, LENGTH)
    weights[0, 3:] = 0
    ignored = torch.where(weights == 0, IGNORE, targets)
    model = decoder()
    by_weight = OBJECTIVES[objective]()(model, Batch.from_tensors(inputs, targets, weights))
    by_weight.loss.backward()
    expected = gradients(model)
    model.zero_grad()
    by_target = OBJECTIVES[objective]()(model, Batch.from_tensors(inputs, ignored))
    by_target.loss.backward()
    assert by_weight.targets == by_target.targets == int((ignored != IGNORE).sum())
    assert (by_weight.loss.item(), by_weight.nll.item()) == (
        by_target.loss.item(),
        by_target.nll.item(),
    )
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, expected[name]), name


DOCUMENTS = (3, 1, 7, 2)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("distils", [False, True])
def test_documents_in_one_window_have_the_loss_and_gradient_of_padding(distils, window):
    length = sum(DOCUMENTS)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(VOCAB, (1, length), generator=generator)
    targets = torch.randint(VOCAB, (1, length), generator=generator)
    ids = torch.repeat_interleave(torch.arange(len(DOCUMENTS)), torch.tensor(DOCUMENTS))[None]
    rows, places = torch.zeros(2, len(DOCUMENTS), max(DOCUMENTS), dtype=torch.long), []
    rows[1] = IGNORE
    for row, part in enumerate(torch.arange(length).split(DOCUMENTS)):
        rows[0, row, : len(part)] = inputs[0, part]
        rows[1, row, : len(part)] = targets[0, part]
        places.append(part)
    attention = {"heads": 2, "window": window}
    config = {
        "dim": 20,
        "layers": 2,
        "attention": attention,
        "position": "learned",
        "init": {"std": 0.3},
    }
    model = Decoder(ModelConfig.model_validate(config).resolved(VOCAB, 16), seed=0)
    objective = NextTokenObjective(schema.NextToken())
    if distils:
        teacher = decoder(seed=3, dim=24).requires_grad_(False)
        objective = DistillationObjective(schema.Distillation(temperature=2.0, weight=0.7), teacher)
    packed, packed_nll = sums(objective, model, inputs, targets, documents=ids)
    packed.backward()
    found = gradients(model)
    model.zero_grad()
    padded, padded_nll = sums(objective, model, rows[0], rows[1])
    padded.backward()
    assert packed.item() == pytest.approx(padded.item(), rel=1e-5)
    assert packed_nll.item() == pytest.approx(padded_nll.item(), rel=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)
    joined, _ = sums(objective, model, inputs, targets)
    assert abs(joined.item() - packed.item()) > 1e-3 * abs(packed.item())
