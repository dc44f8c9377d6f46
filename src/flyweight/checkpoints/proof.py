"""Prove that an imported model computes what it should.

A short batch goes through transformers' model and through ours. Configs are read by rules; only
the numbers show that a rule is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.checkpoints import foreign_model
from flyweight.checkpoints.attributes import auto_config, first_line, quiet
from flyweight.checkpoints.flyweight_type import OWN
from flyweight.checkpoints.foreign_model import Foreign
from flyweight.checkpoints.read import Checkpoint
from flyweight.config.schema import ModelConfig
from flyweight.errors import FlyweightError, RequestError
from flyweight.model.build import build

BOUND = 1e-4
"""The share of the largest logit by which two logits may differ, in float32."""

LEAK = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""The share of the largest logit by which later tokens may change an earlier logit.

Sums over other lengths run in another order.
"""

ROWS, LENGTH = 2, 128
WHOLE_BYTES = 800_000_000
"""Bytes of weights up to which the whole model is compared.

Of a larger one, only its embedding, first LAYERS layers, norm and head are.
"""

LAYERS = 2


@dataclass(frozen=True)
class Proof:
    """The outcome of a comparison.

    `difference` from transformers' logits and `leak` of later tokens are shares of the largest
    logit. `compared_with` is None where there was nothing to compare with, and `layers` None where
    all of them were compared.
    """

    compared_with: str | None
    layers: int | None
    tokens: int
    difference: float | None
    leak: float

    def json(self) -> dict[str, Any]:
        """Return the proof as plain data."""
        return asdict(self)


def of_ours(source: Checkpoint, config: ModelConfig, state: Mapping[str, Tensor]) -> Proof:
    """Return the proof that a decoder of ours computes what its checkpoint does.

    `config` and `state` are the decoder's. Raises RequestError where it computes something else,
    where later tokens change earlier logits, or where a logit is not a number. A model of our own
    type is not compared, nor is any model where transformers is missing.
    """
    layers = LAYERS if _bytes(state) > WHOLE_BYTES and config.layers > LAYERS else None
    ours = _decoder(config, state, layers)
    tokens = _tokens(config.vocab_size or 1, config.context)
    logits = _logits(source.path, ours, tokens)
    _finite(source.path, logits)
    theirs = None
    if source.model_type != OWN and find_spec("transformers") is not None:
        theirs = transformers_model(source, layers)
    difference = None
    if theirs is not None:
        difference = _share(logits - _logits(source.path, theirs, tokens), logits)
        if not difference <= BOUND:
            raise RequestError(
                f"{source.path}: transformers' {source.model_type} model and ours differ in their "
                f"logits by {difference:.1e} of the largest, {BOUND:g} is allowed: its config says "
                "something that is not read here. It is not imported"
            )
    return Proof(
        _version(theirs is not None),
        layers,
        tokens.numel(),
        difference,
        _leak(source.path, ours, tokens, logits),
    )


def of_foreign(source: Checkpoint) -> Proof:
    """Return the proof that a foreign model works behind its adapter.

    It reads from left to right, gives numbers, and its parts give its logits. Raises RequestError
    as `of_ours` and `external.load` do.
    """
    model, layers = _foreign(source)
    tokens = _tokens(model.config.vocab_size, model.config.context)
    logits = _logits(source.path, model, tokens)
    _finite(source.path, logits)
    difference = _share(logits - _logits(source.path, model.model, tokens), logits)
    if not difference <= BOUND:
        raise RequestError(
            f"{source.path}: this {source.model_type} model behind the adapter differs from itself "
            f"in its logits by {difference:.1e} of the largest, {BOUND:g} is allowed. It is not "
            "imported"
        )
    return Proof(
        _version(True),
        layers,
        tokens.numel(),
        difference,
        _leak(source.path, model, tokens, logits),
    )


def _foreign(source: Checkpoint) -> tuple[Foreign, int | None]:
    """Return the model, and how many layers it has where not all of them.

    A large model gets its first LAYERS layers, where it runs without the others.
    """
    if sum((source.path / name).stat().st_size for name in source.weights) > WHOLE_BYTES:
        try:
            return foreign_model.load(source.path, layers=LAYERS), LAYERS
        except FlyweightError:
            pass  # its layers are not all of one kind
    return foreign_model.load(source.path), None


def _leak(path: Path, model: nn.Module, tokens: Tensor, logits: Tensor) -> float:
    """Return by how much the logits of the first half change with the tokens of the second.

    Raises RequestError where that is more than rounding.
    """
    half = tokens.shape[1] // 2
    if not half:
        return 0.0
    other = tokens.clone()
    other[:, half:] = other[:, half:].roll(1, 1).roll(1, 0).add(1).remainder(int(tokens.max()) + 1)
    changed = _logits(path, model, other)[:, :half]
    leak = _share(changed - logits[:, :half], logits)
    if not leak <= LEAK.get(next(model.parameters()).dtype, LEAK[torch.float32]):
        raise RequestError(
            f"{path}: later tokens change its logits of earlier ones (by {leak:.1e} of the "
            "largest): it reads in both directions, and a likelihood or a generated text of it "
            "would mean nothing"
        )
    return leak


def _finite(path: Path, logits: Tensor) -> None:
    if not torch.isfinite(logits).all():
        raise RequestError(
            f"{path}: its logits of a short text are not all numbers; copy the model again, or it "
            "was saved broken"
        )


def _tokens(vocab_size: int, context: int | None) -> Tensor:
    """Return token ids (ROWS, T), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (ROWS, min(LENGTH, context or LENGTH)), generator=generator)


def _decoder(config: ModelConfig, state: Mapping[str, Tensor], layers: int | None) -> nn.Module:
    """Return our decoder in float32, with its first `layers` layers (None: all)."""
    first = config if layers is None else config.model_copy(update={"layers": layers})
    with torch.device("meta"):
        model = build(first)
    names = model.state_dict().keys()
    weights = {name: tensor for name, tensor in state.items() if name in names}
    floats = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }
    model.load_state_dict(floats, assign=True)
    # Packed layers have no tensor of the float type that they unpack into.
    return model.to(torch.float32).eval()


def transformers_model(source: Checkpoint, layers: int | None = None) -> nn.Module:
    """Return transformers' model in float32, with its first `layers` layers (None: all).

    Raises FlyweightError, with transformers' first line, where it cannot be loaded.
    """
    import transformers

    try:
        config = auto_config(source.path)
        foreign_model.choose_own_code(config)
        if layers is not None:
            foreign_model.cut(config, layers)
        with quiet():
            model = transformers.AutoModelForCausalLM.from_pretrained(
                source.path,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except Exception as error:  # configs of other people's models fail in every way
        raise FlyweightError(
            f"{source.path}: transformers could not load it to compare with: {first_line(error)}"
        ) from error
    return model.eval()


def _logits(path: Path, model: nn.Module, tokens: Tensor) -> Tensor:
    """Return a model's logits.

    Raises RequestError where it cannot run: some configs are wrong in ways that only show here.
    """
    try:
        with torch.no_grad():
            output = model(tokens)
        return (output if isinstance(output, Tensor) else output.logits).float()
    except Exception as error:  # configs of other people's models fail in every way
        raise RequestError(
            f"{path}: it cannot read {tokens.shape[1]} tokens: {first_line(error)}"
        ) from error


def _share(difference: Tensor, logits: Tensor) -> float:
    """Return the largest difference as a share of the largest logit."""
    largest = float(logits.abs().max()) or math.ulp(0.0)  # all logits may be zero
    return float(difference.abs().max()) / largest


def _bytes(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * 4 for tensor in state.values())


def _version(compared: bool) -> str | None:
    return f"transformers {metadata.version('transformers')}" if compared else None
