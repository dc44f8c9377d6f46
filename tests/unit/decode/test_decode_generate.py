from typing import Any

import pytest
import torch

from flyweight.config.schema import ModelConfig
from flyweight.decode import generate as generation
from flyweight.decode.generate import generate
from flyweight.decode.sampling import Sampling
from flyweight.errors import RequestError
from flyweight.model.decoder import Decoder

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [8], [3, 1, 4], [2, 7, 1, 8, 2]]
VARIETIES: list[dict[str, Any]] = [
    {},
    {"position": "learned", "norm": "layernorm", "mlp": "gelu"},
    {"embedding": {"bigram": "exact"}, "attention": {"heads": 4, "kv_heads": 2}},
]


def decoder(context: int = 32, **fields: Any) -> Decoder:
    config = {
        "vocab_size": 23,
        "context": context,
        "dim": 16,
        "layers": 2,
        "init": {"std": 0.5},
        **fields,
    }
    model = Decoder(ModelConfig.model_validate(config))
    if model.embedding.bigram is not None:
        torch.nn.init.normal_(
            model.embedding.bigram.dense(), generator=torch.Generator().manual_seed(1)
        )
    return model.double()


@torch.no_grad()
def by_recomputation(model: Decoder, prompt: list[int], count: int) -> list[int]:
    """Greedy decoding without a cache; a window that is full goes on with its last half."""
    context, new = model.config.context or 0, []
    window = prompt[-context:]
    for _ in range(count):
        new.append(int(model.eval()(torch.tensor([window]))[0, -1].argmax()))
        window = [*window, new[-1]]
        window = window if len(window) <= context else window[-max(1, context // 2) :]
    return new


@pytest.mark.parametrize("fields", VARIETIES)
@pytest.mark.parametrize("context", [32, 7, 3, 1])
def test_a_batch_gives_each_row_what_it_gets_alone(fields: dict[str, Any], context: int) -> None:
    model = decoder(context, **fields)
    expected = [by_recomputation(model, prompt, 20) for prompt in PROMPTS]
    assert generate(model, PROMPTS, max_new_tokens=20) == expected
    assert [generate(model, [prompt], max_new_tokens=20)[0] for prompt in PROMPTS] == expected
    assert len({tuple(new) for new in expected}) > 1


@pytest.mark.parametrize("fields", VARIETIES)
def test_a_cache_that_grows_on_the_way_changes_nothing(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder(**fields)
    expected = generate(model, PROMPTS, max_new_tokens=40, temperature=1.0)
    monkeypatch.setattr(generation, "FIRST", 2)
    assert generate(model, PROMPTS, max_new_tokens=40, temperature=1.0) == expected


def test_as_many_tokens_as_one_likes_may_be_asked_for() -> None:
    model = decoder(10**9)
    ends = {"stop": lambda row, new: len(new) == 5}
    assert len(generate(model, [[1]], max_new_tokens=10**30, seed=-(10**30), **ends)[0]) == 5


def test_rows_that_end_early_leave_the_others_alone() -> None:
    model = decoder(8)
    full = generate(model, PROMPTS, max_new_tokens=20)
    ends = [3, 20, 1, 9]
    found = generate(model, PROMPTS, max_new_tokens=20, stop=lambda row, new: len(new) == ends[row])
    assert found == [new[:end] for new, end in zip(full, ends, strict=True)]


def test_a_stop_token_is_left_out() -> None:
    model = decoder()
    full = generate(model, PROMPTS, max_new_tokens=20)
    stop = full[0][4]
    found = generate(model, PROMPTS, max_new_tokens=20, stop_tokens=[stop])
    assert found == [new[: new.index(stop)] if stop in new else new for new in full]
    assert len(found[0]) <= 4


def test_each_kept_token_is_announced_once() -> None:
    heard: list[list[int]] = [[] for _ in PROMPTS]
    full = generate(decoder(), PROMPTS, max_new_tokens=12)
    found = generate(
        decoder(),
        PROMPTS,
        max_new_tokens=12,
        stop_tokens=[full[1][5]],
        on_token=lambda row, token: heard[row].append(token),
    )
    assert heard == found


def test_samples_depend_on_seed_and_prompt_and_not_on_the_batch() -> None:
    model = decoder(8)
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.5}
    together = generate(model, PROMPTS, seed=5, **options)
    assert [generate(model, [prompt], seed=5, **options)[0] for prompt in PROMPTS] == together
    assert generate(model, PROMPTS[::-1], seed=5, **options) == together[::-1]
    assert generate(model, PROMPTS, seed=6, **options) != together
    twice = generate(model, [PROMPTS[0], PROMPTS[0]], seed=5, **options)
    assert twice[0] == together[0] != twice[1]


def test_the_global_generator_and_the_mode_are_left_alone() -> None:
    model = decoder(dropout=0.5).train()
    before = torch.get_rng_state()
    found = generate(model, PROMPTS, max_new_tokens=5, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert found == generate(model.eval(), PROMPTS, max_new_tokens=5, temperature=1.0)


def test_no_new_tokens() -> None:
    assert generate(decoder(), PROMPTS, max_new_tokens=0) == [[], [], [], []]
    assert generate(decoder(), [], max_new_tokens=5) == []


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[1], []], {}, "prompt 1: it has no tokens"),
        ([[1], [23]], {}, r"prompt 1: token ids have to lie in 0 \.\.\. 22"),
        ([[-1]], {}, "prompt 0: token ids"),
        ([[1]], {"max_new_tokens": -1}, "max_new_tokens: -1"),
        (
            [[1]],
            {"temperature": -1.0, "top_k": 0, "top_p": 0.0, "min_p": 2.0},
            r"temperature: .*top_k: .*top_p: .*min_p: ",
        ),
        ([[1]], {"temperature": float("nan")}, "temperature"),
    ],
)
def test_impossible_requests_are_refused(
    prompts: list[list[int]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        generate(decoder(), prompts, **{"max_new_tokens": 1, **options})


def frequencies(sampling: Sampling, probabilities: list[float], count: int = 4000) -> list[float]:
    logits = torch.tensor(probabilities).log().expand(count, -1)
    draws = (torch.arange(count) + 0.5) / count
    chosen = sampling.choose(logits, draws)
    return (torch.bincount(chosen, minlength=len(probabilities)) / count).tolist()


BASE = [0.1, 0.4, 0.05, 0.3, 0.15]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, BASE),
        ({"temperature": 0.5}, [p**2 / sum(q**2 for q in BASE) for p in BASE]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 99}, BASE),
        ({"top_p": 0.6}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.75}, [0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85]),
        ({"top_p": 1e-9}, [0, 1, 0, 0, 0]),
        ({"top_p": 1.0}, BASE),
        ({"min_p": 0.5}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"min_p": 0.0}, BASE),
        (
            {"top_k": 3, "top_p": 0.5},
            [0, 4 / 7, 0, 3 / 7, 0],
        ),  # of the three, the first alone has 0.47
        ({"temperature": 1e-6}, [0, 1, 0, 0, 0]),
    ],
)
def test_filters_leave_the_right_distribution(
    options: dict[str, Any], expected: list[float]
) -> None:
    assert frequencies(Sampling(**{"temperature": 1.0, **options}), BASE) == pytest.approx(
        expected, abs=1e-3
    )


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    assert Sampling().choose(torch.tensor([[0.0, 3.0, 3.0]]), torch.tensor([0.99])).tolist() == [1]


def test_a_draw_at_the_edge_never_takes_what_a_filter_removed() -> None:
    # One is what a device whose sums round upwards can make of a draw just below it.
    almost = torch.tensor([1.0])
    for sampling in (Sampling(1.0, top_p=0.6), Sampling(1.0, min_p=0.5), Sampling(1.0, top_k=2)):
        token = sampling.choose(torch.tensor([BASE]).log(), almost).item()
        assert token in (1, 3)
    impossible = torch.tensor([[0.0, float("-inf")]])
    assert Sampling(temperature=1.0).choose(impossible, almost).item() == 0


def test_a_row_ends_after_the_token_that_stops_it() -> None:
    model = decoder()
    full = generate(model, PROMPTS, max_new_tokens=10)
    stopped = generate(
        model, PROMPTS[:1], max_new_tokens=10, stop=lambda row, new: new[-2:] == full[0][2:4]
    )
    assert stopped[0] == full[0][:4]
