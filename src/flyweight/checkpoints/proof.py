"""Prove that an imported model computes what it should.

A short batch goes through transformers' model and through ours. Configs are read by rules; only
the numbers show that a rule is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
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
from flyweight.checkpoints.weights import read_rows
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

Of a larger one, only its first LAYERS layers and VOCABULARY tokens are, with embedding, norm and
head.
"""

LAYERS = 2
VOCABULARY = 4096


@dataclass(frozen=True)
class Proof:
    """The outcome of a comparison.

    `difference` from transformers' logits and `leak` of later tokens are shares of the largest
    logit. `compared_with` is None where there was nothing to compare with. `layers` is how many of
    the layers were compared and `vocabulary` how many of the tokens, None where it was all of them.
    """

    compared_with: str | None
    layers: int | None
    tokens: int
    difference: float | None
    leak: float
    vocabulary: int | None = None

    def json(self) -> dict[str, Any]:
        """Return the proof as plain data."""
        return asdict(self)


def of_ours(source: Checkpoint, config: ModelConfig, state: Mapping[str, Tensor]) -> Proof:
    """Return the proof that a decoder of ours computes what its checkpoint does.

    `config` and `state` are the decoder's. Raises RequestError where it computes something else,
    where later tokens change earlier logits, or where a logit is not a number. A model of our own
    type is not compared, nor is any model where transformers is missing.
    """
    if _bytes(state) > WHOLE_BYTES:
        return of_part(source, config, lambda name, rows: state[name][:rows])
    ours = _decoder(config, state)
    return _proved(source, ours, partial(transformers_model, source))


def of_part(source: Checkpoint, config: ModelConfig, rows: Callable[[str, int], Tensor]) -> Proof:
    """Return what `of_ours` does for the first LAYERS layers and VOCABULARY tokens of a decoder.

    `rows` returns the first rows of a tensor of its state. Nothing else is read, of either model.
    """
    layers = LAYERS if config.layers > LAYERS else None
    vocabulary = VOCABULARY if _cuttable(config) else None
    first = config
    if layers is not None:
        first = first.model_copy(update={"layers": layers})
    if vocabulary is not None:
        first = first.model_copy(update={"vocab_size": vocabulary})
    with torch.device("meta"):
        wanted = build(first).state_dict()
    state = {
        name: rows(name, tensor.shape[0] if tensor.dim() else 0) for name, tensor in wanted.items()
    }
    ours = _decoder(first, state)
    theirs = partial(_transformers_part, source, layers, vocabulary)
    proved = _proved(source, ours, theirs)
    return replace(proved, layers=layers, vocabulary=vocabulary)


def _cuttable(config: ModelConfig) -> bool:
    """Return whether a decoder has more than VOCABULARY tokens, and the first can go without."""
    embedding = config.embedding
    alone = embedding.bigram.kind == "none" and config.mixture is None and not config.linears
    return alone and (config.vocab_size or 0) > VOCABULARY


def _proved(source: Checkpoint, ours: nn.Module, load: Callable[[], nn.Module]) -> Proof:
    """Return the proof of a decoder beside transformers' model, which `load` returns."""
    config: ModelConfig = ours.config  # pyright: ignore[reportAssignmentType]
    tokens = _tokens(config.vocab_size or 1, config.context)
    logits = _logits(source.path, ours, tokens)
    _finite(source.path, logits)
    theirs = None
    if source.model_type != OWN and find_spec("transformers") is not None:
        theirs = load()
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
        None,
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


def _decoder(config: ModelConfig, state: Mapping[str, Tensor]) -> nn.Module:
    """Return our decoder in float32."""
    with torch.device("meta"):
        model = build(config)
    floats = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    model.load_state_dict(floats, assign=True)
    # Packed layers have no tensor of the float type that they unpack into.
    return model.to(torch.float32).eval()


def transformers_model(source: Checkpoint) -> nn.Module:
    """Return transformers' model in float32.

    Raises FlyweightError, with transformers' first line, where it cannot be loaded.
    """
    import transformers

    try:
        config = auto_config(source.path)
        foreign_model.choose_own_code(config)
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
        raise _unloadable(source, error) from error
    return model.eval()


def _transformers_part(source: Checkpoint, layers: int | None, vocabulary: int | None) -> nn.Module:
    """Return transformers' model in float32 with its first layers and tokens (None: all).

    Only their tensors are read. Raises FlyweightError as `transformers_model`.
    """
    import transformers
    from transformers.initialization import no_init_weights

    try:
        config = auto_config(source.path)
        foreign_model.choose_own_code(config)
        if layers is not None:
            foreign_model.cut(config, layers)
        if vocabulary is not None:
            config.vocab_size = vocabulary
            config.pad_token_id = None  # it may be one of the others
        with quiet(), no_init_weights():
            model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            _fill(model, source)
    except Exception as error:  # configs of other people's models fail in every way
        raise _unloadable(source, error) from error
    return model.eval()


def _fill(model: Any, source: Checkpoint) -> None:
    """Give a model its tensors of a checkpoint, or the first rows of them where it has fewer.

    Raises ValueError where it wants one that is not there.
    """
    wanted: dict[str, Tensor] = model.state_dict()
    found = dict[str, Tensor]()
    for header in source.headers():
        name = header.name
        if name not in wanted:  # checkpoints of the bare model leave the prefix out
            name = f"{model.base_model_prefix}.{name}"
        if name in wanted:
            rows = wanted[name].shape[0] if wanted[name].dim() else None
            found[name] = read_rows(source.path, header, 0, rows).float()
    missing = model.load_state_dict(found, strict=False, assign=True).missing_keys
    model.tie_weights()
    there = {tensor.data_ptr() for tensor in found.values()}
    missing = [name for name in missing if model.state_dict()[name].data_ptr() not in there]
    if missing:
        raise ValueError(f"{', '.join(missing[:20])} missing")


def _unloadable(source: Checkpoint, error: Exception) -> FlyweightError:
    return FlyweightError(
        f"{source.path}: transformers could not load it to compare with: {first_line(error)}"
    )


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
