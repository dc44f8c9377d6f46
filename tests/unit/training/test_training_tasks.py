"""Training on examples: rows that are packed, padded or accumulated make the same update."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flyweight.config import schema
from flyweight.config.schema import ModelConfig
from flyweight.config.tasks import TaskData
from flyweight.data.tasks.batches import ExampleBatches
from flyweight.data.tasks.folder import ExampleFolder, ExampleSplit, read_splits, write_examples
from flyweight.data.tokenizer_training import train
from flyweight.model.decoder import Decoder
from flyweight.training.objectives import NextTokenObjective

CONTEXT = 32
PLAIN = NextTokenObjective(schema.NextToken())
MODELS: dict[str, dict[str, Any]] = {
    "rope": {},
    "learned": {"position": "learned"},
    "window": {"attention": {"heads": 2, "window": 8, "sinks": 2}},
}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> ExampleSplit:
    rows = [{"prompt": f"{'ab' * (at % 9)} {at}:", "completion": f" {at * at}"} for at in range(64)]
    return encoded(tmp_path_factory.mktemp("examples"), rows)


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> ExampleSplit:
    rows = [
        {
            "messages": [
                {"role": role, "content": f"{role[:1]}{turn}" * (1 + at % 3)}
                for turn in range(1 + at % 3)
                for role in ("user", "assistant")
            ]
        }
        for at in range(64)
    ]
    return encoded(tmp_path_factory.mktemp("conversations"), rows, 96)


def encoded(folder: Path, rows: list[Any], context: int = CONTEXT) -> ExampleSplit:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = TaskData(task=str(path), context=context)
    tokenizer = train(schema.ByteTokenizer(), lambda: iter("x"), lambda: iter(""), 1, True)
    write_examples(data, read_splits(data), tokenizer, folder / "out")
    return ExampleFolder.open(folder / "out").split("train")


def model(fields: dict[str, Any]) -> Decoder:
    torch.manual_seed(0)
    config = {"dim": 16, "layers": 2, "attention": {"heads": 2}, **fields}
    return Decoder(ModelConfig.model_validate(config).resolved(257, CONTEXT)).double()


def gradients(net: Decoder, batches: list[Any]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the mean loss over all targets of some batches, and its gradients."""
    targets = sum(batch.real_targets for batch in batches)
    total = 0.0
    for batch in batches:
        summed = PLAIN(net, batch)
        (summed.loss / targets).backward()
        total += float(summed.loss.detach()) / targets
    grads = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    return total, grads


@pytest.mark.parametrize("loss", ["completion", "all"])
@pytest.mark.parametrize("kind", MODELS)
def test_packed_rows_have_the_loss_of_padded_ones(split: ExampleSplit, kind: str, loss: Any):
    net = model(MODELS[kind])
    results: list[tuple[float, dict[str, torch.Tensor]]] = []
    for packing in ("isolated", "padding"):
        source = ExampleBatches(split, CONTEXT, 1, 0, packing, loss)  # pyright: ignore
        whole = [source.batch(step) for step in range(source.rows)]  # all examples, once
        assert sum(batch.real_targets for batch in whole) > len(split)
        results.append(gradients(net, whole))
    (packed, packed_grads), (padded, padded_grads) = results
    assert packed == pytest.approx(padded, rel=1e-6)
    for name, grad in packed_grads.items():
        torch.testing.assert_close(grad, padded_grads[name], rtol=1e-5, atol=1e-6, msg=name)


def test_packed_conversations_learn_every_answer_as_padded_ones_do(conversations: ExampleSplit):
    assert conversations.answers is not None and len(conversations.answers) > 30
    config = {"dim": 16, "layers": 2, "attention": {"heads": 2}}
    torch.manual_seed(0)
    net = Decoder(ModelConfig.model_validate(config).resolved(257, 96)).double()
    results: list[tuple[float, dict[str, torch.Tensor]]] = []
    for packing in ("isolated", "padding"):
        source = ExampleBatches(conversations, 96, 1, 0, packing)  # pyright: ignore
        results.append(gradients(net, [source.batch(step) for step in range(source.rows)]))
    (packed, packed_grads), (padded, padded_grads) = results
    assert packed == pytest.approx(padded, rel=1e-6)
    for name, grad in packed_grads.items():
        torch.testing.assert_close(grad, padded_grads[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("packing", ["isolated", "padding"])
def test_accumulation_makes_the_same_update(split: ExampleSplit, packing: Any):
    net = model({})
    source = ExampleBatches(split, CONTEXT, 4, 0, packing)
    results = [
        gradients(net, [source.batch(0, slice(at, at + 4 // n)) for at in range(0, 4, 4 // n)])
        for n in (1, 2, 4)
    ]
    for value, grads in results[1:]:
        assert value == pytest.approx(results[0][0], rel=1e-6)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, results[0][1][name], rtol=1e-5, atol=1e-6, msg=name)
