import subprocess
import sys

import pytest
import torch
import transformers

from flyweight.checkpoints import convert, read
from flyweight.checkpoints.auto import FlyweightForCausalLM
from flyweight.checkpoints.auto_config import FlyweightConfig
from flyweight.config.schema import ModelConfig
from flyweight.model.decoder import Decoder

VOCAB = 61
MODELS = {
    "window": {"attention": {"heads": 2, "window": 4, "sinks": 1}},
    "plain": {},
    "learned": {"position": "learned", "mlp": "gelu", "norm": "layernorm"},
    "repeat": {"sharing": {"kind": "repeat", "times": 2}, "attention": {"heads": 4, "kv_heads": 2}},
    "blocks": {
        "layers": 3,
        "blocks": {"1-2": {"mlp": "relu", "attention": {"heads": 2, "kv_heads": 1, "head_dim": 8}}},
    },
    "ngrams": {"embedding": {"bigram": {"kind": "hashed", "buckets": 50, "order": 4}}},
    "cycle-bigram": {
        "sharing": {"kind": "cycle", "times": 3},
        "embedding": {"bigram": {"kind": "hashed", "buckets": 50}},
    },
    "untied-softcap": {
        "embedding": {"tied": False},
        "head": {"softcap": 8},
        "attention": {"heads": 4, "qk_norm": True},
    },
    "int8": {"linears": {"*": "int8"}},
    "nf4": {"linears": {"blocks": "nf4"}},
    "ladder": {
        "position": "sinusoidal",
        "norm": {"kind": "layernorm", "placement": "post", "final": False},
        "mlp": {"kind": "double_silu", "rank": 8},
        "residual": "alpha",
        "head": {"bias": True},
        "embedding": {"rank": 12},
        "attention": {"heads": 4, "kv_heads": 2},
    },
    "span": {
        "sharing": {"kind": "span", "span": [1, 1], "times": 3, "index": True},
        "position": "none",
    },
    "thinking": {
        "thinking": {"passes": 2, "learned": True},
        "sharing": "repeat",
        "attention": {"heads": 4, "kv_heads": 2},
    },
    "published": {"thinking": {"passes": 1, "memory": "first", "input": "embedding"}},
}
each = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every model with its folder; everything in it is random."""
    found = {}
    for name, fields in MODELS.items():
        config = {
            "vocab_size": VOCAB,
            "context": 48,
            "dim": 32,
            "layers": 2,
            "init": {"std": 0.3},
            **fields,
        }
        decoder = Decoder(ModelConfig.model_validate(config).resolved(), seed=1).eval()
        if decoder.embedding.bigram is not None:
            torch.nn.init.normal_(
                decoder.embedding.bigram.weight, generator=torch.Generator().manual_seed(2)
            )
        place = tmp_path_factory.mktemp(name)
        convert.write(*convert.checkpoint_files(decoder.config, decoder.state_dict(), None), place)
        found[name] = decoder, place
    return found


def loaded(place):
    return transformers.AutoModelForCausalLM.from_pretrained(place, dtype="auto").eval()


@each
def test_it_loads_to_the_bit_and_saves_to_the_bit(name, made, tmp_path):
    decoder, place = made[name]
    model = loaded(place)
    assert isinstance(model, FlyweightForCausalLM)
    tokens = torch.randint(VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, decoder(tokens))
    model.save_pretrained(tmp_path)
    config, state = convert.decoder(read.read(tmp_path))
    assert config == decoder.config
    wanted = decoder.state_dict()
    assert state.keys() == wanted.keys()
    assert all(
        torch.equal(state[key], wanted[key]) and state[key].dtype == wanted[key].dtype
        for key in wanted
    )
    assert model.config.num_hidden_layers == sum(
        visit.keys_per_token > 0 for visit in decoder.visits
    )


@each
def test_its_own_cache_and_left_padding_give_the_decoders_logits(name, made):
    decoder, place = made[name]
    model = loaded(place)
    tokens = torch.randint(VOCAB, (2, 15), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, :4] = 0
    with torch.no_grad():
        expected = decoder(tokens, mask=mask.bool())
        first = model(tokens[:, :9], attention_mask=mask[:, :9], use_cache=True)
        second = model(
            tokens[:, 9:],
            attention_mask=mask,
            past_key_values=first.past_key_values,
            previous_ids=tokens[:, :9],
        )
    found = torch.cat((first.logits, second.logits), 1)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-4)


@each
@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"cache_implementation": "static"}])
def test_generate_with_a_batch_is_what_each_row_alone_gives(name, how, made):
    decoder, place = made[name]
    model = loaded(place)
    rows = [[3, 4, 5, 6, 7], [8, 9]]
    width = max(map(len, rows))
    tokens = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    options = {
        "max_new_tokens": 10,
        "min_new_tokens": 10,
        "pad_token_id": 0,
        "do_sample": False,
        **how,
    }
    together = model.generate(tokens, attention_mask=mask, **options)
    for row, out in zip(rows, together, strict=True):
        alone = model.generate(
            torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long), **options
        )
        assert out[width:].tolist() == alone[0, len(row) :].tolist()
        if not how:
            sequence = list(row)
            for _ in range(10):
                with torch.no_grad():
                    sequence.append(int(decoder(torch.tensor([sequence]))[0, -1].argmax()))
            assert out[width:].tolist() == sequence[len(row) :]


def test_sampling_follows_the_distribution(made):
    _, place = made["plain"]
    model = loaded(place)
    prompt = torch.tensor([[3, 4, 5]])
    torch.manual_seed(0)
    drawn = model.generate(
        prompt.repeat(4000, 1), max_new_tokens=1, do_sample=True, top_k=0, pad_token_id=0
    )[:, -1]
    with torch.no_grad():
        expected = model(prompt).logits[0, -1].softmax(-1)
    found = torch.bincount(drawn, minlength=VOCAB) / 4000
    assert (found - expected).abs().sum() < 0.15


def test_the_loss_is_shifted_and_masked(made):
    decoder, place = made["plain"]
    model = loaded(place)
    tokens = torch.randint(VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))
    labels = tokens.clone()
    labels[:, :5] = -100
    with torch.no_grad():
        loss = model(tokens, labels=labels).loss
        log = decoder(tokens)[:, 4:-1].log_softmax(-1)
    expected = -log.gather(-1, tokens[:, 5:, None]).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["plain", "cycle-bigram"])
def test_recomputation_gives_the_same_gradients(name, made):
    _, place = made[name]
    tokens = torch.randint(VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))
    found = []
    for recompute in (False, True):
        model = loaded(place).train()
        if recompute:
            model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        model(tokens, labels=tokens).loss.backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_it_cannot_do_is_refused(made):
    _, place = made["plain"]
    model = loaded(place)
    tokens = torch.arange(6)[None]
    with pytest.raises(ValueError, match="packing"):
        model(tokens, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]))
    with pytest.raises(ValueError, match="inputs_embeds"):
        model(inputs_embeds=torch.zeros(1, 3, 32))
    bigram = loaded(made["cycle-bigram"][1])
    with torch.no_grad(), pytest.raises(ValueError, match="previous_ids"):
        past = bigram(tokens, use_cache=True).past_key_values
        bigram(tokens[:, :1], past_key_values=past)
    with pytest.raises(ValueError, match="does not describe a model"):
        FlyweightForCausalLM(FlyweightConfig())


PROGRAM = """
import sys
{first}
assert {quick} or "torch" not in sys.modules, "importing flyweight imports torch"
from transformers import AutoConfig, AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({place!r})
print(type(model).__name__, AutoConfig.from_pretrained({place!r}).model_type)
"""


@pytest.mark.parametrize(
    ("first", "quick"),
    [
        ("import flyweight", False),
        ("import flyweight, transformers", False),
        (
            "import transformers; from transformers import AutoModelForCausalLM; import flyweight",
            True,
        ),
        ("import flyweight; flyweight.register(); flyweight.register()", True),
    ],
)
def test_the_auto_classes_know_it_however_things_are_imported(first, quick, made):
    program = PROGRAM.format(first=first, quick=quick, place=str(made["repeat"][1]))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["FlyweightForCausalLM", "flyweight"]
