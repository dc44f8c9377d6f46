"""Cross-field checks of a model config and of a stage.

Each returns all faults, so that a user sees them at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flyweight.config.blocks import layers_named, resolved_attention
from flyweight.config.linear_kinds import linears_faults

if TYPE_CHECKING:
    from flyweight.config.decoder import ModelConfig
    from flyweight.config.schema import Recipe

LIMITS = ("steps", "tokens", "flops", "time")
"""Fields of `train` that end it, each by itself; `same_as` stands for one of them."""

TRAINED = ("pretrain", "distill", "select", "mix")
"""Stages that train a model, or choose one of those: they know what it spent and how well it validated."""

MOST_VISITS = 100_000
"""Uses of layers in one forward pass, beyond which nothing is counted in time, let alone computed."""


EXACT_VOCAB = 1024
"""The largest vocabulary that an exact bigram table is made for."""

MOST_CHANNELS = 2**31 - 1


def model_faults(config: ModelConfig) -> list[str]:
    """Return every contradiction between a model config's fields, in words."""
    faults = [*_heads(config), *_ranks(config), *_ends(config), *_visits(config)]
    faults += linears_faults(config.linears)
    return faults or list(_blocks(config))


def packed_kinds(config: Any) -> list[str]:
    """Return the kinds of a model's matrices in which nothing trains, such as int8.

    None for a model that can be trained.
    """
    return list(dict.fromkeys(kind.label for kind in config.linears.values() if not kind.trains))


def fitting_vocabulary(config: ModelConfig, guess: int) -> int:
    """Return the vocabulary nearest to a guess that this model allows: a guess is no reason to refuse it."""
    if config.embedding.bigram.kind == "exact":
        guess = min(guess, EXACT_VOCAB)
    return max(guess, config.embedding.rank or 1)


def _heads(config: ModelConfig, where: str = "") -> Iterator[str]:
    attention, dim = config.attention, config.dim
    heads = attention.heads
    if heads and attention.head_dim is None and dim % heads:
        yield (
            f"{where}attention.heads: {heads} does not divide dim {dim}; choose a divisor or set "
            f"attention.head_dim"
        )
    if heads and attention.kv_heads and heads % attention.kv_heads:
        yield (
            f"{where}attention.kv_heads: {attention.kv_heads} does not divide attention.heads "
            f"{heads}"
        )
    if attention.kv_heads and not heads:
        yield f"{where}attention.kv_heads: needs attention.heads beside it"
    head_dim = attention.head_dim or (dim // heads if heads else None)
    if config.position.kind == "rope" and head_dim is not None:
        rotary = int(head_dim * config.position.fraction)
        if rotary < 2 or rotary % 2:
            path = f"{where}attention.head_dim" if where else "position.fraction"
            yield (
                f"{path}: {config.position.fraction} of head_dim {head_dim} is "
                f"{rotary} channels;"
                " rope turns pairs, so it needs an even number of at least 2"
            )


def _ranks(config: ModelConfig) -> Iterator[str]:
    yield from _mlp(config)
    rank, vocab = config.embedding.rank, config.vocab_size
    if rank and rank > min(config.dim, vocab or config.dim):
        side = f"dim {config.dim}" if rank > config.dim else f"vocab_size {vocab}"
        yield (
            f"embedding.rank: {rank} is larger than {side}; a factorised embedding has to be "
            f"narrower"
        )


def _mlp(config: ModelConfig, where: str = "") -> Iterator[str]:
    width = config.mlp.width(config.dim)
    if width > MOST_CHANNELS:
        yield (
            f"dim: {config.dim} makes an MLP of {width} channels; {MOST_CHANNELS} are the "
            f"most: lower dim or name mlp.hidden"
        )
    narrow = min(config.dim, width)
    if config.mlp.rank and config.mlp.rank > narrow:
        yield (
            f"{where}mlp.rank: {config.mlp.rank} is larger than the narrower side of its matrices, "
            f"{narrow}; a bottleneck has to be"
            " narrower than what goes through it"
        )


def _ends(config: ModelConfig) -> Iterator[str]:
    if config.embedding.bigram.kind == "exact" and (config.vocab_size or 0) > EXACT_VOCAB:
        yield (
            f"embedding.bigram: an exact table for vocab_size {config.vocab_size} has "
            f"{config.vocab_size}^2 rows;"
            " use {kind: hashed, buckets: ...}"
        )
    if not config.layers and not config.norm.final:
        yield (
            "norm.final: without layers and without a final norm nothing lies between "
            "embedding and head; leave it on"
        )


def _visits(config: ModelConfig) -> Iterator[str]:
    sharing, thinking, layers = config.sharing, config.thinking, config.layers
    times, looped = 1, layers
    if sharing.kind == "none":
        pass
    elif sharing.kind == "span":
        (first, last), times = sharing.span, sharing.times
        looped = last - first + 1
        if first > last:
            yield f"sharing.span: it ends with layer {last} before it begins with layer {first}"
        if last >= layers:
            yield (
                f"sharing.span: layer {last} is outside the model's {layers} layers, which are "
                f"counted from 0"
            )
    else:
        times = sharing.times
    if sharing.kind == "all" and layers != 1:
        yield (
            f"sharing.all: it uses one layer {times} times, so the model has layers: 1 and not "
            f"{layers}"
        )
    if sharing.kind != "none" and sharing.index and not layers:
        yield "sharing.index: there are no layers whose uses could be told apart"
    passes = 1
    if thinking.kind == "deep":
        passes += thinking.passes
        if not layers:
            yield "thinking: a model without layers has no keys and values to remember"
        if thinking.input == "embedding" and thinking.passes and thinking.memory == "own":
            yield (
                "thinking.input: passes that begin with the embedding and remember their own "
                "keys compute the same each time:"
                " the first place sees what it saw, so its keys are those in its memory, and so "
                "on up the stack; use input:"
                " previous"
            )
        elif (
            thinking.memory == "first"
            and layers + (times - 1) * looped == 1
            and thinking.input == "embedding"
        ):
            yield (
                "thinking: the only layer reads the embedding in every pass, so that its memory "
                "holds what it sees anyway; use"
                " more layers, share this one, or use input: previous"
            )
        if thinking.learned and not thinking.updates:
            yield (
                f"thinking.learned: with passes {thinking.passes} and memory {thinking.memory} "
                f"no memory is ever updated, so"
                " a rate would have no effect; give more passes or leave it out"
            )
    count = passes * (layers + (times - 1) * max(0, looped))
    if count > MOST_VISITS:
        yield (
            f"layers, sharing and thinking: they make {count:,} uses of layers; "
            f"{MOST_VISITS:,} are the most"
        )


def _blocks(config: ModelConfig) -> Iterator[str]:
    """Find what is wrong with layers that differ, each fault with the key that names them."""
    owner: dict[int, str] = {}
    for key, override in config.blocks.items():
        where = f"blocks.{key}"
        try:
            layers = layers_named(key)
        except ValueError as error:
            yield f"{where}: {error}"
            continue
        if layers[-1] >= config.layers:
            yield (
                f"{where}: layer {layers[-1]} is outside the model's {config.layers} layers, which "
                f"are counted from 0"
            )
            continue
        if twice := [layer for layer in layers if layer in owner]:
            yield f"{where}: layer {twice[0]} is named by {owner[twice[0]]}, too; name it once"
        owner |= dict.fromkeys(layers, key)
        if looped := [layer for layer in layers if layer in _shared(config)]:
            yield (
                f"{where}: layer {looped[0]} is shared (sharing: {config.sharing.kind}), and a "
                f"shared layer stands for places that are alike; name layers outside the loop"
            )
        if not override.given():
            yield f"{where}: names no field; say what differs, or leave it out"
        yield from _block(config, layers[0], where)


def _block(config: ModelConfig, index: int, where: str) -> Iterator[str]:
    """Find what is wrong with one layer's own attention and MLP."""
    try:
        layer = config.layer(index)
    except ValidationError as error:
        for fault in error.errors():
            kind, *path = (str(part) for part in fault["loc"])
            yield f"{where}.mlp.{'.'.join(path)}: {kind} takes no such value ({fault['msg']})"
        return
    yield from _heads(layer, f"{where}.")
    yield from _mlp(layer, f"{where}.")
    remembered = config.thinking.kind == "deep" and config.thinking.memory == "first"
    if remembered and _kv_shape(layer) != _kv_shape(config):
        yield (
            f"{where}.attention: its keys have another shape, and with thinking.memory: first all "
            f"layers read those of the first; use memory: own"
        )


def _kv_shape(config: ModelConfig) -> tuple[int | None, int | None]:
    attention = resolved_attention(config.attention, config.dim)
    return attention.kv_heads, attention.head_dim


def _shared(config: ModelConfig) -> range:
    """Return the layers that sharing uses more than once."""
    if config.sharing.kind == "none":
        return range(0)
    if config.sharing.kind == "span":
        return range(config.sharing.span[0], config.sharing.span[1] + 1)
    return range(config.layers)


def stage_faults(name: str, stage: Any, recipe: Recipe) -> list[str]:
    """Return what a stage asks of another, or of its model, that it cannot have: a limit, a choice by validation, training."""
    where = f"stages.{name}"
    return [
        *_tie(f"{where}.train", getattr(stage, "train", None), recipe),
        *_choice(where, stage, recipe),
        *_packed(where, stage, recipe),
    ]


def _packed(where: str, stage: Any, recipe: Recipe) -> Iterator[str]:
    """Find training of packed matrices, which have no gradient: the norms alone would be trained, and nobody told."""
    if stage.stage not in ("pretrain", "distill"):
        return
    if stage.model is not None and (kinds := packed_kinds(stage.model)):
        yield (
            f"{where}.model.linears: matrices stored as {' and '.join(kinds)} cannot be trained; "
            f"train the model dense, and add"
            " a quantize stage after it"
        )
    source: Any = recipe.stages.get(getattr(stage, "input", None) or "")
    if source is None:
        return
    if source.stage == "quantize":
        yield (
            f"{where}.input: {stage.input} stores its matrices in fewer bits, and these cannot "
            f"be trained; start from"
            f" {source.input} and quantize the result"
        )
    elif source.stage == "init" and (kinds := packed_kinds(source.model)):
        yield (
            f"{where}.input: {stage.input} has matrices stored as {' and '.join(kinds)}, which "
            f"cannot be trained"
        )


def _tie(where: str, train: Any, recipe: Recipe) -> Iterator[str]:
    if train is None or train.same_as is None:
        return
    if given := [limit for limit in LIMITS if getattr(train, limit) is not None]:
        yield (
            f"{where}: same_as gives as much as {train.same_as.stage} spends, and "
            f"{' and '.join(given)} beside it could cut"
            " that short; leave one of them out, or set it to null"
        )
    name, quantity = train.same_as.stage, train.same_as.of
    source = recipe.stages.get(name)
    if source is None or source.stage in TRAINED:
        return
    if source.stage != "quantize":
        yield (
            f"{where}.same_as: {name} is a stage of kind {source.stage} and trains nothing; "
            f"name one that trains"
        )
    elif not quantity.startswith("total_"):
        yield (
            f"{where}.same_as: {name} is a stage of kind quantize and spends no {quantity} of "
            f"its own; name the stage whose"
            f" model it stores, {source.input}"
        )


def _choice(where: str, stage: Any, recipe: Recipe) -> Iterator[str]:
    for position, name in enumerate(getattr(stage, "among", ())):
        source: Any = recipe.stages.get(name)
        why = (
            ""
            if source is None or source.stage in TRAINED
            else f"is a stage of kind {source.stage}"
        )
        if (
            source is not None
            and source.stage in ("pretrain", "distill")
            and not source.train.validations
        ):
            why = "trains with validations: 0"
        if why:
            yield (
                f"{where}.among.{position}: {name} {why}, so it has no validation result to be "
                f"chosen by"
            )
