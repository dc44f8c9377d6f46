"""Cross-field checks of a model config: every fault at once, so that a user sees them together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from pydantic import ValidationError

from flyweight.config.blocks import Blocks, layers_named, resolved_attention
from flyweight.config.embedding import Embedding
from flyweight.config.layers import Attention, Mlp, Norm, Position, Skips
from flyweight.config.linear_kinds import LinearKind, linears_faults
from flyweight.config.sharing import Deep, Sharing, Thinking

MOST_VISITS = 100_000
"""The most uses of layers in one forward pass: counting more would take too long."""


EXACT_VOCAB = 1024
"""The largest vocabulary that an exact bigram table is made for."""

MOST_CHANNELS = 2**31 - 1


class Depths(Protocol):
    """The fields of a `Dropout` that rules read."""

    @property
    def depth(self) -> float:
        """The rate of the last use of a layer."""
        ...


class DecoderFields(Protocol):
    """The fields of a `ModelConfig` that rules read; it checks itself with these rules."""

    vocab_size: int | None
    dim: int
    layers: int
    attention: Attention
    position: Position
    mlp: Mlp
    norm: Norm
    skips: Skips
    sharing: Sharing
    thinking: Thinking
    embedding: Embedding
    linears: dict[str, LinearKind]
    blocks: Blocks

    @property
    def dropout(self) -> Depths:
        """The rates of dropout."""
        ...

    def layer(self, index: int) -> DecoderFields:
        """Return the specification of one layer."""
        ...


def model_faults(config: DecoderFields) -> list[str]:
    """Return every contradiction between a model config's fields, in words."""
    faults = [
        *_heads(config),
        *_window(config),
        *_ranks(config),
        *_ends(config),
        *_visits(config),
        *linears_faults(config.linears),
    ]
    return faults or list(_blocks(config)) or list(_values(config))


def packed_kinds(config: Any) -> list[str]:
    """Return the kinds of a model's matrices in which nothing trains, such as int8.

    None for a model that can be trained.
    """
    return list(dict.fromkeys(kind.label for kind in config.linears.values() if not kind.trains))


def fitting_vocabulary(config: DecoderFields, guess: int) -> int:
    """Return the vocabulary nearest to a guess that this model allows."""
    if config.embedding.bigram.kind == "exact":
        guess = min(guess, EXACT_VOCAB)
    return max(guess, config.embedding.rank or 1)


def _heads(config: DecoderFields, where: str = "") -> Iterator[str]:
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


def _window(config: DecoderFields, where: str = "") -> Iterator[str]:
    window, sinks = config.attention.window, config.attention.sinks
    if window is None:
        if sinks:
            yield (
                f"{where}attention.sinks: {sinks} sinks need attention.window; "
                "without a window every token sees the first ones anyway"
            )
        return
    if sinks >= window:
        yield (
            f"{where}attention.sinks: {sinks} is not smaller than attention.window {window}; "
            "lower sinks or raise the window"
        )
    if not config.layers:
        yield (
            f"{where}attention.window: a model without layers has no attention; "
            "leave the window out"
        )


def _ranks(config: DecoderFields) -> Iterator[str]:
    yield from _mlp(config)
    rank, vocab = config.embedding.rank, config.vocab_size
    if rank and rank > min(config.dim, vocab or config.dim):
        side = f"dim {config.dim}" if rank > config.dim else f"vocab_size {vocab}"
        yield (
            f"embedding.rank: {rank} is larger than {side}; a factorised embedding has to be "
            f"narrower"
        )


def _mlp(config: DecoderFields, where: str = "") -> Iterator[str]:
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


def _ends(config: DecoderFields) -> Iterator[str]:
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
    if not config.layers and config.dropout.depth:
        yield (
            "dropout.depth: a model without layers has no branches that could be dropped; leave it "
            "out"
        )


def _visits(config: DecoderFields) -> Iterator[str]:
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
    uses = layers + (times - 1) * max(0, looped)
    yield from _skips(config, uses)
    passes = 1
    if thinking.kind == "deep":
        passes += thinking.passes
        yield from _thinking(thinking, layers, uses)
    count = passes * uses
    if count > MOST_VISITS:
        yield (
            f"layers, sharing and thinking: they make {count:,} uses of layers; "
            f"{MOST_VISITS:,} are the most"
        )


def _skips(config: DecoderFields, uses: int) -> Iterator[str]:
    """Find connections that pass no layer; `uses` are the places of the stack."""
    if "unet" in config.skips and uses < 3:
        yield (
            f"skips.unet: {uses} uses of layers have none between a first and a second half; use "
            f"at least 3, or leave it out"
        )
    if "embedding" in config.skips and uses < 2:
        yield (
            f"skips.embedding: the first use of a layer reads the embedding anyway, and there are "
            f"{uses}; use at least 2, or leave it out"
        )


def _blocks(config: DecoderFields) -> Iterator[str]:
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


def _block(config: DecoderFields, index: int, where: str) -> Iterator[str]:
    """Find what is wrong with one layer's own attention and MLP."""
    try:
        layer = config.layer(index)
    except ValidationError as error:
        for fault in error.errors():
            kind, *path = (str(part) for part in fault["loc"])
            yield f"{where}.mlp.{'.'.join(path)}: {kind} takes no such value ({fault['msg']})"
        return
    yield from _heads(layer, f"{where}.")
    yield from _window(layer, f"{where}.")
    yield from _mlp(layer, f"{where}.")
    remembered = config.thinking.kind == "deep" and config.thinking.memory == "first"
    if remembered and _kv_shape(layer) != _kv_shape(config):
        yield (
            f"{where}.attention: its keys have another shape, and with thinking.memory: first all "
            f"layers read those of the first; use memory: own"
        )


def _kv_shape(config: DecoderFields) -> tuple[int | None, int | None]:
    attention = resolved_attention(config.attention, config.dim)
    return attention.kv_heads, attention.head_dim


def _values(config: DecoderFields) -> Iterator[str]:
    """Find layers that cannot mix their values with those of the first use of a layer."""
    path = "attention.value_residual"
    named = [override.attention for override in config.blocks.values() if override.attention]
    if not any(attention.value_residual for attention in (config.attention, *named)):
        return
    layers = [config.layer(index) for index in range(config.layers)]
    mixing = [index for index, layer in enumerate(layers) if layer.attention.value_residual]
    if mixing in ([], [0]) and 0 not in _shared(config):
        yield f"{path}: no layer after the first reads its values; leave it out"
        return
    if config.thinking.kind == "deep":
        yield (
            f"{path}: a model that thinks has several passes, each with first values of its own; "
            f"leave value_residual or thinking out"
        )
    if others := [index for index in mixing if _kv_shape(layers[index]) != _kv_shape(layers[0])]:
        yield (
            f"{path}: layer {others[0]} has keys and values of another shape than the first layer, "
            f"and cannot read those; give both the same kv_heads and head_dim, or set "
            f"blocks.{others[0]}.attention.value_residual to false"
        )


def _shared(config: DecoderFields) -> range:
    """Return the layers that sharing uses more than once."""
    if config.sharing.kind == "none":
        return range(0)
    if config.sharing.kind == "span":
        return range(config.sharing.span[0], config.sharing.span[1] + 1)
    return range(config.layers)


def _thinking(thinking: Deep, layers: int, uses: int) -> Iterator[str]:
    """Find passes that would compute the same each time; `uses` are the places of the stack."""
    if not layers:
        yield "thinking: a model without layers has no keys and values to remember"
    restarts = thinking.input == "embedding"
    if restarts and thinking.passes and thinking.memory == "own":
        yield (
            "thinking.input: passes that begin with the embedding and remember their own "
            "keys compute the same each time:"
            " the first place sees what it saw, so its keys are those in its memory, and so "
            "on up the stack; use input:"
            " previous"
        )
    elif restarts and thinking.memory == "first" and uses == 1:
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
