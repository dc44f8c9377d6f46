"""The proof that an imported model computes what it should: a short batch through transformers' model and through ours.

Configs are read by rules, and a rule that is missing is not noticed by those that are there.
Numbers are.
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

from flyweight.checkpoints import external
from flyweight.checkpoints.attributes import auto_config, first_line, quiet
from flyweight.checkpoints.checkpoint import Checkpoint
from flyweight.checkpoints.external import Foreign
from flyweight.checkpoints.flyweight_type import OWN
from flyweight.config.schema import ModelConfig
from flyweight.errors import FlyweightError, RequestError
from flyweight.model.build import build

BOUND = 1e-4
"""By how much of the largest logit two logits may differ, in float32."""

LEAK = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""By how much of the largest logit a later token may change an earlier one: other lengths are summed in another order."""

ROWS, LENGTH = 2, 128
WHOLE_BYTES = 800_000_000
"""Weights up to which the whole model is compared.

Of a larger one its first LAYERS layers, embedding, norm and head.
"""

LAYERS = 2


@dataclass(frozen=True)
class Proof:
    """What was found: `difference` from transformers' logits and `leak` of later tokens, as shares of the largest logit.

    `compared_with` is None where there was nothing to compare with, and `layers` None where all of
    them were compared.
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

    `config` and `state` are the decoder's.

    Raises RequestError where it does not, where later tokens change what stands before them, or
    where a logit is no number. A model of our own type, or one on a machine without transformers,
    has nothing to be compared with.
    """
    layers = LAYERS if _bytes(state) > WHOLE_BYTES and config.layers > LAYERS else None
    ours = _decoder(config, state, layers)
    tokens = _tokens(config.vocab_size or 1, config.context)
    found = _logits(source.path, ours, tokens)
    _finite(source.path, found)
    theirs = (
        None
        if source.model_type == OWN or find_spec("transformers") is None
        else _transformers(source, layers)
    )
    difference = None
    if theirs is not None:
        difference = _share(found - _logits(source.path, theirs, tokens), found)
        if not difference <= BOUND:
            raise RequestError(
                f"{source.path}: transformers' {source.model_type} model and ours differ in "
                f"their logits by {difference:.1e} of"
                f" the largest, {BOUND:g} is allowed: its config says something that is not read "
                f"here. It is not imported"
            )
    return Proof(
        _version(theirs is not None),
        layers,
        tokens.numel(),
        difference,
        _leak(source.path, ours, tokens, found),
    )


def of_foreign(source: Checkpoint) -> Proof:
    """Return the proof that a foreign model reads from left to right and gives numbers, and that its parts give its logits.

    Raises RequestError as `of_ours` does, and as `foreign.load`.
    """
    model, layers = _foreign(source)
    tokens = _tokens(model.config.vocab_size, model.config.context)
    found = _logits(source.path, model, tokens)
    _finite(source.path, found)
    difference = _share(found - _logits(source.path, model.model, tokens), found)
    if not difference <= BOUND:
        raise RequestError(
            f"{source.path}: this {source.model_type} model behind the adapter differs from "
            f"itself in its logits by"
            f" {difference:.1e} of the largest, {BOUND:g} is allowed. It is not imported"
        )
    return Proof(
        _version(True), layers, tokens.numel(), difference, _leak(source.path, model, tokens, found)
    )


def _foreign(source: Checkpoint) -> tuple[Foreign, int | None]:
    """Return the model with its first LAYERS layers, where it is large and can do without the others, and how many it has."""
    if sum((source.path / name).stat().st_size for name in source.weights) > WHOLE_BYTES:
        try:
            return external.load(source.path, layers=LAYERS), LAYERS
        except FlyweightError:
            pass  # its layers are not all of one kind
    return external.load(source.path), None


def _leak(path: Path, model: nn.Module, tokens: Tensor, found: Tensor) -> float:
    """Return by how much the logits of the first half change with the tokens of the second.

    Refuse what a reader would not.
    """
    half = tokens.shape[1] // 2
    if not half:
        return 0.0
    other = tokens.clone()
    other[:, half:] = other[:, half:].roll(1, 1).roll(1, 0).add(1).remainder(int(tokens.max()) + 1)
    changed = _logits(path, model, other)[:, :half]
    leak = _share(changed - found[:, :half], found)
    if not leak <= LEAK.get(next(model.parameters()).dtype, LEAK[torch.float32]):
        raise RequestError(
            f"{path}: later tokens change its logits of earlier ones (by {leak:.1e} of the "
            f"largest): it reads in both"
            " directions, and a likelihood or a generated text of it would mean nothing"
        )
    return leak


def _finite(path: Path, logits: Tensor) -> None:
    if not torch.isfinite(logits).all():
        raise RequestError(
            f"{path}: its logits of a short text are not all numbers; copy the model again, or "
            f"it was saved broken"
        )


def _tokens(vocab_size: int, context: int | None) -> Tensor:
    """Return token ids (ROWS, T), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (ROWS, min(LENGTH, context or LENGTH)), generator=generator)


def _decoder(config: ModelConfig, state: Mapping[str, Tensor], layers: int | None) -> nn.Module:
    """Return our decoder in float32, of its first `layers` layers where that is not None."""
    first = config if layers is None else config.model_copy(update={"layers": layers})
    with torch.device("meta"):
        model = build(first)
    wanted = model.state_dict().keys()
    kept = {name: tensor for name, tensor in state.items() if name in wanted}
    floats = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in kept.items()
    }
    model.load_state_dict(floats, assign=True)
    return model.to(
        torch.float32
    ).eval()  # packed layers keep no tensor that tells them which float to unpack into


def _transformers(source: Checkpoint, layers: int | None) -> nn.Module:
    """Return transformers' model in float32, of its first `layers` layers where that is not None."""
    import transformers

    try:
        config = auto_config(source.path)
        external.choose_own_code(config)
        if layers is not None:
            external.cut(config, layers)
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

    Raises RequestError where it cannot be run, as of configs that nothing else contradicts.
    """
    try:
        with torch.no_grad():
            return _of(model(tokens)).float()
    except Exception as error:  # configs of other people's models fail in every way
        raise RequestError(
            f"{path}: it cannot read {tokens.shape[1]} tokens: {first_line(error)}"
        ) from error


def _of(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.logits


def _share(difference: Tensor, logits: Tensor) -> float:
    """Return the largest difference as a share of the largest logit, also where all logits are zero."""
    return float(difference.abs().max()) / (float(logits.abs().max()) or math.ulp(0.0))


def _bytes(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * 4 for tensor in state.values())


def _version(compared: bool) -> str | None:
    return f"transformers {metadata.version('transformers')}" if compared else None
