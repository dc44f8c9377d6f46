from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.config.schema import ModelConfig
from flyweight.decode.generate import generate
from flyweight.evaluation import checks
from flyweight.model import folder
from flyweight.model.block import Block
from flyweight.model.decoder import Decoder
from flyweight.model.masks import AttentionMask
from flyweight.spec.visits import visits

VOCAB = 19
THOUGHTS: list[dict[str, Any]] = [
    {"passes": 1},
    {"passes": 3, "rate": 0.3},
    {"passes": 2, "learned": True},
    {"passes": 0, "memory": "first"},
    {"passes": 2, "memory": "first", "rate": 0.1},
    {"passes": 2, "memory": "first", "rate": 0.1, "input": "embedding"},
]
each_thought = pytest.mark.parametrize("thinking", THOUGHTS, ids=str)


def decoder(thinking: Any, seed: int = 0, **fields: Any) -> Decoder:
    base = {
        "vocab_size": VOCAB,
        "context": 24,
        "dim": 16,
        "layers": 2,
        "attention": {"heads": 4, "kv_heads": 2},
    }
    config = ModelConfig.model_validate(
        {"init": {"std": 0.4}, "thinking": thinking, **base, **fields}
    )
    return Decoder(config, seed).double().eval()


def tokens(rows: int = 2, length: int = 12) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))


def written_out(model: Decoder, text: Tensor) -> Tensor:
    """Deep thinking by its definition, one place, pass and query at a time, for a model without positions, norms on q and k."""
    config, length = model.config, text.shape[1]
    thinking: Any = config.thinking
    stack = [visit.layer for visit in visits(config) if visit.pass_ == 0]
    embedded = model.embedding.tokens.rows(text)
    memory: list[tuple[Tensor, Tensor] | None] = [None] * len(stack)
    x = embedded
    for pass_ in range(thinking.passes + 1):
        x = embedded if thinking.input == "embedding" else x
        own = []
        for place, layer in enumerate(stack):
            block = model.blocks[layer]
            assert isinstance(block, Block)
            a = block.attention
            read = block.attention_norm(x)
            k, v, q = a.k(read), a.v(read), a.q(read)
            if thinking.memory == "first" and pass_ == 0 and place == 0:
                memory = [(k, v)] * len(stack)
            rows = []
            for i in range(length):
                keys, values = k[:, : i + 1], v[:, : i + 1]
                remembered = memory[place]
                if remembered is not None:
                    keys = torch.cat((remembered[0][:, : i + 1], keys), 1)
                    values = torch.cat((remembered[1][:, : i + 1], values), 1)
                heads = []
                for head in range(4):
                    group, size = slice(head // 2 * 4, head // 2 * 4 + 4), a.head_dim
                    score = (
                        keys[..., group]
                        @ q[:, i, head * size : head * size + size, None]
                        / size**0.5
                    )
                    heads.append((score.softmax(1) * values[..., group]).sum(1))
                rows.append(torch.cat(heads, -1))
            x = x + a.out(torch.stack(rows, 1))
            x = x + block.mlp(block.mlp_norm(x))
            own.append((layer, k, v))
        for place, (layer, k, v) in enumerate(own):
            block, old = model.blocks[layer], memory[place]
            assert isinstance(block, Block) and block.rate is not None
            rate = block.rate.weight.sigmoid() if block.rate.weight is not None else thinking.rate
            memory[place] = (
                (k, v)
                if old is None
                else tuple(rate * new + (1 - rate) * o for new, o in zip((k, v), old, strict=True))
            )
    assert model.norm is not None
    return model.logits(model.norm(x))


@each_thought
@pytest.mark.parametrize("sharing", ["none", "repeat"])
@torch.no_grad()
def test_it_is_what_its_definition_says(thinking: Any, sharing: str) -> None:
    model, text = decoder(thinking, position="none", sharing=sharing), tokens(length=6)
    torch.testing.assert_close(model(text), written_out(model, text), rtol=1e-10, atol=1e-10)


@each_thought
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"layers": 1, "sharing": {"kind": "all", "times": 3}},
        {"norm": {"placement": "post"}, "sharing": "cycle", "init": {"std": 0.1}},
    ],
)
@torch.no_grad()
def test_incremental_decoding_is_recomputation(thinking: Any, fields: Any) -> None:
    model, text = decoder(thinking, **fields), tokens()
    cache = model.new_cache(2, 12)
    steps = torch.cat([model(text[:, at : at + 1], cache) for at in range(12)], 1)
    assert (steps - model(text)).abs().max() <= 1e-12
    prefixes = torch.cat([model(text[:, : at + 1])[:, -1:] for at in range(12)], 1)
    assert (steps - prefixes).abs().max() <= 1e-12


@each_thought
def test_generation_goes_on_as_recomputation_would(thinking: Any) -> None:
    model, prompt = decoder(thinking), [3, 1, 4, 1, 5]
    expected = list(prompt)
    with torch.no_grad():
        for _ in range(8):
            expected.append(int(model(torch.tensor([expected]))[0, -1].argmax()))
    assert generate(model, [prompt, [7]], max_new_tokens=8)[0] == expected[5:]


@each_thought
@torch.no_grad()
def test_training_computes_what_scoring_does(thinking: Any) -> None:
    model, text = decoder(thinking), tokens()
    expected = model(text)
    assert torch.equal(model.train()(text), expected)


def test_recomputed_activations_give_the_same_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    found = []
    for recompute in (None, lambda *reads: checkpoint(*reads, use_reentrant=False)):
        model = decoder({"passes": 2, "learned": True}).train()
        model.recompute = recompute
        F.cross_entropy(model(tokens()).flatten(0, 1), tokens().flatten()).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


@pytest.mark.parametrize("thinking", THOUGHTS[:3], ids=str)
def test_a_memory_that_is_visible_as_a_whole_is_caught_by_the_audit(
    thinking: Any, monkeypatch: Any, tmp_path: Any
) -> None:
    """The "obvious" repair of the published mask, [all || causal], leaks."""
    model = decoder(thinking).float()
    folder.save(model, tmp_path)
    subject = checks.Subject(tmp_path, model)
    with torch.no_grad():
        assert checks.causality(subject).verdict == "pass"
        doubled = AttentionMask.for_two_keys_per_token

        def leaky(self: AttentionMask, length: int, device: torch.device) -> AttentionMask:
            found = doubled(self, length, device)
            if found.mask is None:
                return found
            mask = found.mask.clone()
            mask[..., ::2] = True
            return AttentionMask(causal=False, mask=mask)

        monkeypatch.setattr(AttentionMask, "for_two_keys_per_token", leaky)
        check = checks.causality(subject)
        assert check.verdict == "fail" and check.measured
        assert checks.cache(subject).verdict == "fail"


@torch.no_grad()
def test_no_pass_is_a_plain_model() -> None:
    thinks, plain = decoder({"passes": 0}), decoder("none")
    assert torch.equal(thinks(tokens()), plain(tokens()))


@torch.no_grad()
def test_passes_that_begin_anew_and_remember_themselves_change_nothing(monkeypatch: Any) -> None:
    """Why a config of that kind is refused: the first place sees what it saw, and so on up the stack."""
    monkeypatch.setattr("flyweight.config.decoder.model_faults", lambda config: [])
    plain = decoder("none", sharing="repeat")
    same = decoder({"passes": 3, "input": "embedding"}, sharing="repeat")
    torch.testing.assert_close(same(tokens()), plain(tokens()), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_passes_rate_and_memory_matter() -> None:
    found = [
        decoder(thinking)(tokens())
        for thinking in ("none", *THOUGHTS, {"passes": 3, "rate": 0.9}, {"passes": 2})
    ]
    for index, one in enumerate(found):
        # A rate that is learned begins where the default is.
        others = [
            other
            for place, other in enumerate(found)
            if place != index and {place, index} != {3, len(found) - 1}
        ]
        assert all((one - other).abs().max() > 1e-4 for other in others)


def test_the_rate_is_learned_from_where_it_starts() -> None:
    model = decoder({"passes": 2, "rate": 0.2, "learned": True})
    rates = [p for name, p in model.named_parameters() if name.endswith("rate.weight")]
    assert [rate.sigmoid().item() for rate in rates] == pytest.approx([0.2, 0.2])
    F.cross_entropy(model(tokens()).flatten(0, 1), tokens().roll(-1, 1).flatten()).backward()
    assert all(rate.grad is not None and rate.grad.abs() > 0 for rate in rates)
