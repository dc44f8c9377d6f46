"""A model's adapters: where they are, what tensors they have, which tensors a method trains.

No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from flyweight.config.adapters import Adapter, Bottleneck, Ia3, Lora, Prefix, TrainedPart
from flyweight.config.linear_kinds import StoredTensor
from flyweight.config.schema import Architecture, ModelConfig
from flyweight.config.sparse_kinds import mask_bytes
from flyweight.errors import RequestError
from flyweight.spec.linears import Shape, attention_shapes, linear_names, matches, mlp_shapes
from flyweight.spec.visits import visits_of

JOINT = {"attention.qkv": ("q", "k", "v"), "mlp.gate_up": ("gate", "up")}
"""Names that stand for several matrices with the same input: a LoRA there has one A for all."""


@dataclass(frozen=True)
class Site:
    """One place of a model where an adapter is.

    `name` is the module that has the adapter's tensors, `layers` are the matrices it is around: one
    or, at a joint name, several. A bottleneck or a prefix has none. `copies` is the number of
    adapters in one where each visit has its own, else None.
    """

    adapter: Adapter
    block: int
    name: str
    layers: tuple[Shape, ...] = ()
    copies: int | None = None
    width: int = 0
    """Channels that a bottleneck reads, or numbers in one token's keys for a prefix."""

    @property
    def reads(self) -> int:
        """Channels that the matrices read."""
        return self.layers[0].in_

    @property
    def writes(self) -> int:
        """Channels that the matrices put out, all together."""
        return sum(shape.out for shape in self.layers)

    @property
    def joint(self) -> bool:
        """Whether it is around several matrices at once."""
        return len(self.layers) > 1

    @property
    def scales_input(self) -> bool:
        """Whether an IA3 has its factors on what the matrix reads: it does in front of `down`."""
        return self.name.endswith(("mlp.down", "mlp.down.reduce"))

    def tensors(self) -> tuple[StoredTensor, ...]:
        """Return the adapter's tensors by their full names; all train but a pruned one's masks."""
        trained = tuple(
            StoredTensor(f"{self.name}.{name}", self._copied(shape), trains=True)
            for name, shape in self._shapes()
        )
        return (*trained, *self._masks())

    def _masks(self) -> tuple[StoredTensor, ...]:
        """Return the bits of a pruned LoRA's matrices."""
        if not (isinstance(self.adapter, Lora) and self.adapter.masked):
            return ()
        shapes = {
            "lora.a_mask": (self.adapter.r, mask_bytes(self.reads)),
            "lora.b_mask": (self.writes, mask_bytes(self.adapter.r)),
        }
        return tuple(
            StoredTensor(f"{self.name}.{name}", self._copied(shape), itemsize=1)
            for name, shape in shapes.items()
        )

    def _copied(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.copies is None else (self.copies, *shape)

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        adapter = self.adapter
        match adapter:
            case Lora():
                yield "lora.a", (adapter.r, self.reads)
                yield "lora.b", (self.writes, adapter.r)
                if adapter.dora:
                    yield "lora.magnitude", (self.writes,)
            case Ia3():
                yield "ia3.scale", (self.reads if self.scales_input else self.writes,)
            case Bottleneck():
                yield "down", (adapter.dim, self.width)
                yield "down_bias", (adapter.dim,)
                yield "up", (self.width, adapter.dim)
                yield "up_bias", (self.width,)
            case Prefix():
                yield "prefix.keys", (adapter.length, self.width)
                yield "prefix.values", (adapter.length, self.width)


VECTORS = ("lora.magnitude", "ia3.scale", "down_bias", "up_bias")
"""Ends of the names of tensors on which weight decay does not act."""


def decays(name: str) -> bool:
    """Return whether weight decay acts on an adapter's tensor."""
    return not name.endswith(VECTORS)


def sites(config: ModelConfig) -> tuple[Site, ...]:
    """Return every place of an adapter in a model, in the order they are applied."""
    if not config.adapters:
        return ()
    config = _with_widths(config)
    return tuple(
        site
        for adapter in config.adapters
        for block in range(config.layers)
        for site in _sites(config, adapter, block)
    )


def _with_widths(config: ModelConfig) -> ModelConfig:
    """Return a config with the widths of its layers, whatever vocabulary it will have."""
    return config.resolved(config.vocab_size or 1, config.context or 1)


def _sites(config: ModelConfig, adapter: Adapter, block: int) -> Iterator[Site]:
    layer = config.layer(block)
    copies = len(visits_of(config, block)) if adapter.per == "visit" else None
    if copies == 1:
        copies = None
    if isinstance(adapter, Bottleneck):
        for branch in adapter.after:
            name = f"blocks.{block}.{branch}_bottleneck"
            yield Site(adapter, block, name, copies=copies, width=config.dim)
        return
    if isinstance(adapter, Prefix):
        attention = layer.attention
        width = (attention.kv_heads or 0) * (attention.head_dim or 0)
        yield Site(adapter, block, f"blocks.{block}.attention", copies=copies, width=width)
        return
    shapes = block_shapes(layer, block)
    for name, joined in _joints(shapes, block).items():
        if any(_names_joint(name, pattern) for pattern in adapter.targets):
            if isinstance(adapter, Lora):
                yield Site(adapter, block, name, joined, copies)
            else:
                for shape in joined:
                    yield Site(adapter, block, _member(name, shape), (shape,), copies)
    for name, shape in shapes.items():
        if any(_names(name, pattern) for pattern in adapter.targets):
            yield Site(adapter, block, name, (shape,), copies)


def block_shapes(layer: ModelConfig, block: int) -> dict[str, Shape]:
    """Return the linear layers of a block by their full names."""
    attention = {
        f"blocks.{block}.attention.{shape.name}": shape for shape in attention_shapes(layer)
    }
    return attention | {f"blocks.{block}.mlp.{shape.name}": shape for shape in mlp_shapes(layer)}


def _joints(shapes: dict[str, Shape], block: int) -> dict[str, tuple[Shape, ...]]:
    """Return the joint names that a block has, each with its matrices."""
    joints = dict[str, tuple[Shape, ...]]()
    for name, members in JOINT.items():
        branch = name.split(".")[0]
        found = [shapes.get(f"blocks.{block}.{branch}.{member}") for member in members]
        if all(found):
            joints[f"blocks.{block}.{name}"] = tuple(shape for shape in found if shape)
    return joints


def _member(joint: str, shape: Shape) -> str:
    return f"{joint.rpartition('.')[0]}.{shape.name}"


def _names(name: str, pattern: str) -> bool:
    """Return whether a pattern names a layer; `blocks.*.` may be left out."""
    return matches(name, pattern) or matches(name, f"blocks.*.{pattern}")


def _names_joint(name: str, pattern: str) -> bool:
    """Return whether a pattern names a joint: it has to end with the joint's own name."""
    if pattern.rpartition(".")[2] != name.rpartition(".")[2]:
        return False
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"blocks.*.{pattern}")


def site_layers(site: Site) -> tuple[str, ...]:
    """Return the full names of the matrices that an adapter is around."""
    if site.joint:
        return tuple(_member(site.name, shape) for shape in site.layers)
    return (site.name,) if site.layers else ()


def adapter_tensors(config: Architecture) -> tuple[StoredTensor, ...]:
    """Return every tensor of a model's adapters, by its full name."""
    if not isinstance(config, ModelConfig):
        return ()
    return tuple(tensor for site in sites(config) for tensor in site.tensors())


def adapter_bytes(config: Architecture, itemsize: int = 4) -> int:
    """Return the bytes of all adapters where floats take `itemsize`."""
    return sum(tensor.nbytes(itemsize) for tensor in adapter_tensors(config))


def trained_tensors(config: Architecture, part: TrainedPart) -> Callable[[str], bool]:
    """Return what tells by a tensor's name whether training this part of the model moves it.

    Packed tensors have no gradient and stay as they are, whatever the part.
    """
    if part == "full":
        return lambda name: True
    if part == "adapters":
        names = {tensor.name for tensor in adapter_tensors(config)}
        return names.__contains__
    modules = ["norm", "head", "head_bias"]
    if not _has_head(config):
        modules += ["embedding.tokens", "embedding.expand"]
    return lambda name: any(name == module or name.startswith(f"{module}.") for module in modules)


def _has_head(config: Architecture) -> bool:
    return "head.linear" in linear_names(config)


# --- what is wrong ---


def adapter_faults(config: Architecture) -> list[str]:
    """Return what is wrong with a config's adapters, in words.

    Patterns name nothing or only tables, two adapters of a kind are around one layer, or a DoRA is
    not the innermost one.
    """
    if not isinstance(config, ModelConfig) or not config.adapters:
        return []
    if not config.layers:
        return ["adapters: a model without layers has none to adapt"]
    widths = _with_widths(config)
    faults = [
        fault
        for place, adapter in enumerate(config.adapters)
        if isinstance(adapter, Lora | Ia3)
        for fault in _target_faults(widths, adapter, f"adapters.{place}")
    ]
    return faults or list(dict.fromkeys(_twice(widths)))


def check_adapters(config: Architecture) -> None:
    """Raise RequestError for adapters that a model like this cannot have."""
    if faults := adapter_faults(config):
        raise RequestError("\n".join(f"model.{fault}" for fault in faults))


def _target_faults(config: ModelConfig, adapter: Lora | Ia3, where: str) -> Iterator[str]:
    names = list[str]()
    joints = list[str]()
    for block in range(config.layers):
        shapes = block_shapes(config.layer(block), block)
        names += shapes
        joints += _joints(shapes, block)
    tables = [name for name in linear_names(config) if not name.startswith("blocks.")]
    for pattern in adapter.targets:
        found = any(_names(name, pattern) for name in names)
        found = found or any(_names_joint(name, pattern) for name in joints)
        if found:
            continue
        table = next((name for name in tables if matches(name, pattern)), None)
        if table is not None:
            yield (
                f"{where}.targets: {table} is a table of tokens, whose rows are looked up, and "
                f"adapters are around the matrices of blocks; train the table by method full, or "
                f"by frozen where it is the head"
            )
            continue
        known = [name.split(".", 2)[2] for name in (*names, *joints)]
        listed = ", ".join(sorted(set(known)))
        yield (
            f"{where}.targets: no layer is called {pattern!r}; names are {listed} "
            f"(`*` stands for anything)"
        )


def _twice(config: ModelConfig) -> Iterator[str]:
    """Find adapters of one kind around the same layer, and DoRA around other adapters."""
    first: dict[tuple[str, str], int] = {}
    for place, adapter in enumerate(config.adapters):
        for block in range(config.layers):
            for site in _sites(config, adapter, block):
                for name in site_layers(site) or (site.name,):
                    short = name.split(".", 2)[2]
                    if (name, adapter.kind) in first:
                        yield _again(place, first[name, adapter.kind], adapter.kind, short)
                    first.setdefault((name, adapter.kind), place)
                    dora = isinstance(adapter, Lora) and adapter.dora
                    if dora and (name, "ia3") in first:
                        yield (
                            f"adapters.{place}: dora learns the lengths of {short}'s own rows, so "
                            f"no other adapter stands between; put it first"
                        )


def _again(place: int, first: int, kind: str, name: str) -> str:
    if place == first:
        return f"adapters.{place}: {name} is named twice, alone and jointly; name it once"
    start = f"adapters.{place}: {name} has a {kind} already, adapters.{first}; "
    if kind in ("prefix", "bottleneck"):
        return f"{start}go on with that one (the same method), or choose another kind"
    return f"{start}merge the first one, or choose other targets"
