"""Everything that a user can write, as frozen and validated models; an unknown key is an error.

A choice (`mlp`, `norm`, `position`, ...) is a name or a name with options: `mlp: swiglu` or `mlp: {kind: swiglu, hidden: 683}`.
Every constant that changes an output is a field here. `None` means "derived"; `ModelConfig.resolved` writes the numbers out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PositiveInt, model_validator

from flyweight.config.rules import model_faults
from flyweight.config.units import Count, Seconds, Size


class Strict(BaseModel):
    """Base of all configs: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def _choice(default: str | None = None) -> BeforeValidator:
    """Let a bare name stand for `{kind: name}`, and options without a kind for those of the default kind."""

    def read(value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, dict) and default and "kind" not in value:
            return {"kind": default, **value}
        return value

    return BeforeValidator(read)


Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


# --- model ---


class Learned(Strict):
    """A learned vector per position, added to the token embedding (GPT-2)."""

    kind: Literal["learned"] = "learned"


class RopeScaling(Strict):
    """How rotary frequencies are stretched beyond the context they were trained for.

    `linear` divides every frequency by `factor`; `ntk` raises the base instead; `llama3` interpolates between both by
    wavelength, as Llama 3.1 does.
    """

    kind: Literal["linear", "ntk", "llama3"]
    factor: Annotated[float, Field(ge=1)]
    low_frequency_factor: Rate = 1.0
    high_frequency_factor: Rate = 4.0
    original_context: PositiveInt = 8192


class Rope(Strict):
    """Rotary positions (Su et al. 2021) on the first `fraction` of every head's channels."""

    kind: Literal["rope"] = "rope"
    base: Annotated[float, Field(gt=1)] = 10_000.0
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    scaling: RopeScaling | None = None


Position = Annotated[Annotated[Learned | Rope, Discriminator("kind")], _choice("rope")]


class LayerNorm(Strict):
    """Mean and variance normalisation with a learned scale and, unless `bias` is off, shift."""

    kind: Literal["layernorm"] = "layernorm"
    eps: Rate = 1e-5
    bias: bool = True


class RMSNorm(Strict):
    """Root-mean-square normalisation with a learned scale (Zhang and Sennrich 2019)."""

    kind: Literal["rmsnorm"] = "rmsnorm"
    eps: Rate = 1e-6


Norm = Annotated[Annotated[LayerNorm | RMSNorm, Discriminator("kind")], _choice("rmsnorm")]


class Gelu(Strict):
    """Up, GELU, down; `approximate: tanh` is GPT-2's."""

    kind: Literal["gelu"] = "gelu"
    approximate: Literal["none", "tanh"] = "none"
    hidden: PositiveInt | None = None
    bias: bool = False


class Relu2(Strict):
    """Up, squared ReLU, down (Primer, So et al. 2021)."""

    kind: Literal["relu2"] = "relu2"
    hidden: PositiveInt | None = None
    bias: bool = False


class SwiGLU(Strict):
    """silu(gate) * up, down (Shazeer 2020); `hidden` defaults to 8/3 of dim, rounded up to a multiple of 32."""

    kind: Literal["swiglu"] = "swiglu"
    hidden: PositiveInt | None = None
    bias: bool = False


Mlp = Annotated[Annotated[Gelu | Relu2 | SwiGLU, Discriminator("kind")], _choice("swiglu")]


class Attention(Strict):
    """Grouped-query attention. `gain` learns one factor on the queries of each head; `out_bias` follows `bias`."""

    heads: PositiveInt | None = None
    kv_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    bias: bool = False
    out_bias: bool | None = None
    qk_norm: bool = False
    qk_norm_eps: Rate = 1e-6
    gain: bool = False


class NoBigram(Strict):
    """No bigram table."""

    kind: Literal["none"] = "none"


class ExactBigram(Strict):
    """A vector for every (previous, current) pair of tokens: (vocab_size + 1) * vocab_size rows, starting at zero."""

    kind: Literal["exact"] = "exact"


class HashedBigram(Strict):
    """A vector for every bucket of a hash of (previous, current), starting at zero."""

    kind: Literal["hashed"] = "hashed"
    buckets: PositiveInt = 16_384


Bigram = Annotated[Annotated[NoBigram | ExactBigram | HashedBigram, Discriminator("kind")], _choice()]


class Embedding(Strict):
    """Token embedding: shared with the head (`tied`) or not, with an optional bigram table added to it."""

    tied: bool = True
    bigram: Bigram = NoBigram()


class Head(Strict):
    """Output head; `softcap` c squashes logits to c * tanh(logits / c)."""

    softcap: Rate | None = None


class Dropout(Strict):
    """Dropout on the embedding, on attention probabilities and on both residual branches; a number sets all three."""

    embedding: Probability = 0.0
    attention: Probability = 0.0
    residual: Probability = 0.0


def _all_dropouts(value: Any) -> Any:
    return dict.fromkeys(Dropout.model_fields, value) if isinstance(value, (int, float)) else value


class Init(Strict):
    """Normal initialisation with `std`; output projections are zero (`zero_out`) or divided by sqrt(2 * layers)."""

    std: Rate = 0.02
    zero_out: bool = False


class Dense(Strict):
    """An ordinary float matrix."""

    kind: Literal["dense"] = "dense"


class Int8(Strict):
    """Symmetric int8 with one float scale per output row."""

    kind: Literal["int8"] = "int8"


class NF4(Strict):
    """4-bit NormalFloat in blocks; `double` stores the blocks' scales in 8 bits as well (QLoRA, Dettmers et al. 2023)."""

    kind: Literal["nf4"] = "nf4"
    block: PositiveInt = 64
    double: bool = True


LinearKind = Annotated[Annotated[Dense | Int8 | NF4, Discriminator("kind")], _choice()]


class ModelConfig(Strict):
    """One decoder, completely: enough to build it, count it and cost it without allocating anything.

    `linears` maps glob patterns over module names (`blocks.*.mlp.*`, `embedding`, `head`) to kinds of linear layer; the first
    pattern that matches wins, everything else is dense.
    """

    vocab_size: PositiveInt | None = None
    context: PositiveInt | None = None
    dim: PositiveInt
    layers: Annotated[int, Field(ge=0)]
    attention: Attention = Attention()
    position: Position = Rope()
    mlp: Mlp = SwiGLU()
    norm: Norm = RMSNorm()
    embedding: Embedding = Embedding()
    head: Head = Head()
    dropout: Annotated[Dropout, BeforeValidator(_all_dropouts)] = Dropout()
    init: Init = Init()
    linears: dict[str, LinearKind] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if faults := model_faults(self):
            raise ValueError("; ".join(faults))
        return self

    def resolved(self, vocab_size: int | None = None, context: int | None = None) -> ModelConfig:
        """Return the config with every derived number written out; raise ValueError where one cannot be known."""
        vocab, length = self.vocab_size or vocab_size, self.context or context
        if vocab is None or length is None:
            raise ValueError("vocab_size and context: a model needs both; name them, or a corpus that they follow from")
        head_dim = self.attention.head_dim
        heads = self.attention.heads or max(1, self.dim // (head_dim or (64 if self.dim >= 512 else 32)))
        bias = self.attention.bias
        attention = {
            "heads": heads,
            "kv_heads": self.attention.kv_heads or heads,
            "head_dim": head_dim or self.dim // heads,
            "out_bias": bias if self.attention.out_bias is None else self.attention.out_bias,
        }
        wide = -(-8 * self.dim // 96) * 32 if isinstance(self.mlp, SwiGLU) else 4 * self.dim
        update = {
            "vocab_size": vocab,
            "context": length,
            "attention": {**self.attention.model_dump(), **attention},
            "mlp": {**self.mlp.model_dump(), "hidden": self.mlp.hidden or wide},
        }
        return ModelConfig.model_validate({**self.model_dump(), **update})


# --- data ---


class ByteTokenizer(Strict):
    """One token per byte of UTF-8: 256 tokens."""

    kind: Literal["byte"] = "byte"


class CharTokenizer(Strict):
    """One token per character of the training text; unseen characters become `<unk>`."""

    kind: Literal["char"] = "char"


class WordTokenizer(Strict):
    """The training text's own words, split at white space; rare and unseen words become `<unk>`, line ends `<eos>`."""

    kind: Literal["word"] = "word"
    min_count: PositiveInt = 1
    vocab: Annotated[Count, Field(gt=2)] | None = None


class BpeTokenizer(Strict):
    """Byte-level byte-pair encoding with `vocab` entries, trained on at most `sample` of the training text, taken evenly."""

    kind: Literal["bpe"] = "bpe"
    vocab: Annotated[Count, Field(ge=257)] = 4096
    sample: Annotated[Size, Field(gt=0)] = 100_000_000


class FileTokenizer(Strict):
    """An existing `tokenizer.json`."""

    kind: Literal["file"] = "file"
    path: str


Tokenizer = Annotated[
    Annotated[
        ByteTokenizer | CharTokenizer | WordTokenizer | BpeTokenizer | FileTokenizer,
        Discriminator("kind"),
    ],
    _choice(),
]


class Data(Strict):
    """Text and how it becomes windows of tokens.

    `corpus` is a registered name, a text file, folder or glob, or `hf:owner/name[:config]`. `validation` and `test` are the
    fractions held out where the corpus has no standard split.
    """

    corpus: str
    tokenizer: Tokenizer | None = None
    context: PositiveInt = 256
    validation: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    test: Annotated[float, Field(gt=0, lt=0.5)] = 0.05


# --- training ---


class AdamW(Strict):
    """AdamW (Loshchilov and Hutter 2019), fused where torch can; decay acts on matrices only."""

    kind: Literal["adamw"] = "adamw"
    lr: Rate = 3e-3
    beta1: Probability = 0.9
    beta2: Probability = 0.95
    eps: Rate = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


class Muon(Strict):
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for everything else."""

    kind: Literal["muon"] = "muon"
    lr: Rate = 0.02
    momentum: Probability = 0.95
    iterations: PositiveInt = 5
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    rest: AdamW = AdamW()


Optimizer = Annotated[Annotated[AdamW | Muon, Discriminator("kind")], _choice("adamw")]


class Schedule(Strict):
    """Learning-rate factor by the fraction of the limit that is done: linear warm-up, flat, then a tail down to `final`."""

    warmup: Fraction = 0.02
    tail: Literal["cosine", "linear", "none"] = "cosine"
    tail_from: Fraction | None = None
    final: Fraction = 0.0


class SameAs(Strict):
    """A limit taken from another stage: as many tokens, FLOPs or seconds as it spent (`total_*`: with its teachers)."""

    stage: str
    of: Literal["tokens", "flops", "seconds", "total_flops", "total_seconds"]


class Train(Strict):
    """How long, how fast and how exactly to train. Whichever limit comes first ends the run; the schedule follows it."""

    steps: Annotated[Count, Field(gt=0)] | None = None
    tokens: Annotated[Count, Field(gt=0)] | None = None
    flops: Annotated[Count, Field(gt=0)] | None = None
    time: Annotated[Seconds, Field(gt=0)] | None = None
    same_as: SameAs | None = None
    batch: PositiveInt = 16
    accumulate: PositiveInt = 1
    optimizer: Optimizer = AdamW()
    schedule: Schedule = Schedule()
    clip: Annotated[float, Field(ge=0)] = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    validations: Annotated[int, Field(ge=0)] = 8
    validation_tokens: Annotated[Count, Field(gt=0)] = 65_536
    keep: Literal["best", "last"] = "best"
    checkpoint: Annotated[Seconds, Field(gt=0)] = 15.0
    trackers: tuple[Literal["wandb", "trackio", "tensorboard"], ...] = ()


class NextToken(Strict):
    """Cross-entropy of the next token."""

    kind: Literal["next_token"] = "next_token"


class Distillation(Strict):
    """weight * T^2 * divergence(teacher, student at temperature T) + (1 - weight) * cross-entropy.

    `jsd` is the generalised Jensen-Shannon divergence with mixture weight `beta` on the teacher (Agarwal et al. 2024).
    """

    kind: Literal["distillation"] = "distillation"
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    temperature: Rate = 1.0
    weight: Fraction = 0.5
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5


# --- stages ---


class Pretrain(Strict):
    """Train a decoder on a corpus; `input` starts from another stage's weights."""

    stage: Literal["pretrain"]
    model: ModelConfig | None = None
    input: str | None = None
    data: Data
    train: Train = Train()


class Distill(Strict):
    """Train a decoder to match a teacher's next-token distribution."""

    stage: Literal["distill"]
    teacher: str
    model: ModelConfig
    data: Data
    train: Train = Train()
    objective: Distillation = Distillation()


class Select(Strict):
    """The best of several trained models by validation likelihood: validation chooses, so that test can report."""

    stage: Literal["select"]
    among: Annotated[tuple[str, ...], Field(min_length=2)]


class Initialise(Strict):
    """A model with random weights."""

    stage: Literal["init"]
    model: ModelConfig


class Quantize(Strict):
    """Store a model's matrices in fewer bits; the embedding (and a tied head) have their own kind, by default int8."""

    stage: Literal["quantize"]
    input: str
    kind: LinearKind
    embedding: LinearKind = Int8()


class Evaluate(Strict):
    """Likelihood on one split with a fixed window and stride; `data: null` takes the corpus the model was trained on.

    `validation+test` is both as one text, where they adjoin: the last tenth of Tiny Shakespeare, which nanoGPT scores.
    """

    stage: Literal["evaluate"]
    input: str
    data: Data | None = None
    split: Literal["train", "validation", "test", "validation+test"] = "test"
    window: PositiveInt | None = None
    stride: PositiveInt | None = None
    batch: PositiveInt = 16


class Bench(Strict):
    """Speed and memory in a fresh process: warm-up, then `repeats` timed runs; a fixed number of new tokens."""

    stage: Literal["bench"]
    input: str
    batch: PositiveInt = 1
    prompt: PositiveInt = 64
    new_tokens: PositiveInt = 64
    repeats: PositiveInt = 5


class Floors(Strict):
    """What any model has to beat: n-gram models of the corpus' own training split."""

    stage: Literal["floors"]
    data: Data
    split: Literal["train", "validation", "test"] = "test"


class Sample(Strict):
    """Continuations of prompts, the same way for every model."""

    stage: Literal["sample"]
    input: str
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    new_tokens: PositiveInt = 64
    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95


class Audit(Strict):
    """The checks without which a number is worth nothing."""

    stage: Literal["audit"]
    input: str
    data: Data | None = None


StageConfig = Annotated[
    Pretrain | Distill | Select | Initialise | Quantize | Evaluate | Floors | Bench | Sample | Audit,
    Discriminator("stage"),
]


# --- recipe ---


class Budget(Strict):
    """Limits: planned before a run, enforced during it, reported after it.

    `parameters`, `bytes` (of the smallest model that the recipe compares), `memory` (peak, over the interpreter's own) and
    `flops` (all training) and `time` (the whole run). `over: stop` ends a run that overruns, `over: warn` only says so.
    """

    parameters: Annotated[Count, Field(gt=0)] | None = None
    bytes: Annotated[Size, Field(gt=0)] | None = None
    memory: Annotated[Size, Field(gt=0)] | None = None
    flops: Annotated[Count, Field(gt=0)] | None = None
    time: Annotated[Seconds, Field(gt=0)] | None = None
    over: Literal["stop", "warn"] = "stop"


class Report(Strict):
    """Which stages stand beside each other, how they are measured, and the prompts whose continuations are shown."""

    compare: tuple[str, ...] = ()
    measure: tuple[Literal["evaluate", "bench", "audit"], ...] = ("evaluate", "bench", "audit")
    prompts: tuple[str, ...] = ()
    sample_tokens: PositiveInt = 64


class Recipe(Strict):
    """A DAG of stages under one budget. Top-level `data`, `train` and `model` are defaults of every stage that has them."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    budget: Budget = Budget()
    stages: Annotated[dict[str, StageConfig], Field(min_length=1)]
    report: Report = Report()
