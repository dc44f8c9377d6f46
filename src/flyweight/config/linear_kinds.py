"""Kinds of linear layer: how a matrix is stored, which of its tensors train, what is wrong.

`LinearKind` is the base class and, as a field's type, any registered kind: `linears: {"*": nf4}` or
`{kind: nf4, block: 32}`. A package adds a kind with `flyweight.register_linear`. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union, cast

from pydantic import Discriminator, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from flyweight.config.base import PositiveInt, Strict, choice
from flyweight.config.plugins import load_plugins

SCALE_BYTES = 2
"""A bfloat16 scale for each row of an int8 matrix, and for each group of int4 and int3."""

NF4_GROUP = 256
"""NF4 scales in 8 bits that share an offset and a step, two float32 numbers."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a linear layer: its name in the layer's state, its shape, what it is stored as.

    `itemsize` is the bytes of a number, or None for the model's float type. Only tensors of that
    type can be trained; `trains` says whether this one is.
    """

    name: str
    shape: tuple[int, ...]
    itemsize: int | None = None
    trains: bool = False

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    def nbytes(self, itemsize: int) -> int:
        """Return the bytes it takes where floats take `itemsize`."""
        return self.size * (self.itemsize or itemsize)


@dataclass(frozen=True)
class Product:
    """One matrix product of a linear layer: a matrix (out, in) times each token's vector.

    `trains` says whether the matrix needs a gradient. `reads_input` is false where the product
    reads another product's result instead of the layer's input.
    """

    out: int
    in_: int
    trains: bool
    reads_input: bool = True

    @property
    def size(self) -> int:
        """Multiplications for each token."""
        return self.out * self.in_


REGISTRY: dict[str, type[LinearKind]] = {}
"""Every kind of linear layer by name: ours, and those that packages registered."""


def read_kind(value: object) -> LinearKind:
    """Return the kind that a name, or a mapping of options, stands for.

    Raises pydantic's ValidationError.
    """
    name = value.get("kind") if isinstance(value, dict) else value
    if isinstance(name, str) and name not in REGISTRY:
        load_plugins()
    return _adapter().validate_python(value)


@cache
def _adapter() -> TypeAdapter[LinearKind]:
    # The kinds are known when it runs, not to a type checker.
    kinds: Any = Union[tuple(REGISTRY.values())]  # noqa: UP007
    named: Any = Annotated[Annotated[kinds, Discriminator("kind")], choice()]
    return TypeAdapter(named)


class LinearKind(Strict):
    """A kind of linear layer, as config: what is stored, what trains and what is wrong with it.

    A subclass has a field `kind: Literal["its name"] = "its name"` and its options. A field of type
    `LinearKind` takes any registered kind, by name or with options. So a kind that holds another
    has a field `base: LinearKind`.
    """

    plain: ClassVar[bool] = False
    """Whether a layer is an ordinary float matrix, which other programs know and training needs."""

    lossless: ClassVar[bool] = False
    """Whether the layer's float matrix is what it was made from, to the bit: exports write that."""

    rounds: ClassVar[bool] = False
    """Whether a layer stands for a float matrix whose values are rounded one by one.

    A model can be trained for that; see `flyweight.model.rounding`.
    """

    if TYPE_CHECKING:
        kind: Any  # so that a subclass may give it the type of its one name
    else:
        kind: str

    def tensors(self, out: int, in_: int) -> tuple[StoredTensor, ...]:
        """Return the tensors of a layer (out, in), its bias not among them."""
        raise NotImplementedError(f"{type(self).__name__} has no `tensors`")

    def products(self, out: int, in_: int) -> tuple[Product, ...]:
        """Return the matrix products of a forward pass: by default one, not trained."""
        return (Product(out, in_, trains=False),)

    def parameters(self, out: int, in_: int) -> int:
        """Return how many parameters a layer (out, in) counts as: by default out * in."""
        return out * in_

    def stored_bytes(self, out: int, in_: int, itemsize: int) -> int:
        """Return the bytes of a layer (out, in) where floats take `itemsize`, without its bias."""
        return sum(tensor.nbytes(itemsize) for tensor in self.tensors(out, in_))

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the options together: the field and the reason."""
        yield from ()

    @property
    def label(self) -> str:
        """The name in tables and messages."""
        return self.kind

    @property
    def trains(self) -> bool:
        """Whether any tensor of a layer trains."""
        return any(tensor.trains for tensor in self.tensors(1, 1))

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Validate a subclass by its own fields, and `LinearKind` itself through the registry."""
        if cls.__base__ is not Strict:
            return handler(source)
        return core_schema.no_info_plain_validator_function(read_kind)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe `LinearKind` itself as one of the registered kinds."""
        if cls.__base__ is not Strict:
            return handler(schema)
        names = {name: _described(kind, handler) for name, kind in REGISTRY.items()}
        mapping = {name: described["$ref"] for name, described in names.items()}
        return {
            "discriminator": {"mapping": mapping, "propertyName": "kind"},
            "oneOf": list(names.values()),
        }


class Dense(LinearKind):
    """An ordinary float matrix."""

    plain: ClassVar[bool] = True
    lossless: ClassVar[bool] = True

    kind: Literal["dense"] = "dense"

    def tensors(self, out: int, in_: int) -> tuple[StoredTensor, ...]:
        """Return the matrix."""
        return (StoredTensor("weight", (out, in_), trains=True),)

    def products(self, out: int, in_: int) -> tuple[Product, ...]:
        """Return the product with the matrix, which trains."""
        return (Product(out, in_, trains=True),)


class Int8(LinearKind):
    """Symmetric int8 with one float scale per output row."""

    rounds: ClassVar[bool] = True

    kind: Literal["int8"] = "int8"

    def tensors(self, out: int, in_: int) -> tuple[StoredTensor, ...]:
        """Return the codes and a scale for each row."""
        return _int8_tensors(out, in_)


class Int8Dynamic(LinearKind):
    """Int8 weights times int8 inputs: an input vector has a scale of its own, made as it comes.

    A token's result depends on no other token. Products are sums of integers, and so exact.
    """

    kind: Literal["int8_dynamic"] = "int8_dynamic"

    def tensors(self, out: int, in_: int) -> tuple[StoredTensor, ...]:
        """Return the tensors of int8: the inputs' scales are not stored."""
        return _int8_tensors(out, in_)


def _int8_tensors(out: int, in_: int) -> tuple[StoredTensor, ...]:
    return (
        StoredTensor("codes", (out, in_), itemsize=1),
        StoredTensor("scales", (out,), itemsize=SCALE_BYTES),
    )


class Grouped(LinearKind):
    """Base of kinds in few bits, with one scale for each `group` of columns in a row.

    A code stands for an integer times its group's scale, a bfloat16 number that may be negative. A
    last, shorter group ends a row whose length is not a multiple of `group`. A zero point does not
    pay: its 0.5 bits a weight buy more as codes (docs/compression.md).
    """

    rounds: ClassVar[bool] = True

    group: PositiveInt = 32

    bits: ClassVar[int]

    def row_bytes(self, in_: int) -> int:
        """Return the bytes of a row's codes: whole bytes of int4, whole words of int3."""
        raise NotImplementedError(f"{type(self).__name__} has no `row_bytes`")

    def tensors(self, out: int, in_: int) -> tuple[StoredTensor, ...]:
        """Return the codes, as bits side by side, and a scale for each group."""
        return (
            StoredTensor("codes", (out, self.row_bytes(in_)), itemsize=1),
            StoredTensor("scales", (out, -(-in_ // self.group)), itemsize=SCALE_BYTES),
        )


class Int4(Grouped):
    """Integers from -8 to 7, two a byte: 4.5 bits a weight at a group of 32."""

    bits: ClassVar[int] = 4

    kind: Literal["int4"] = "int4"

    def row_bytes(self, in_: int) -> int:
        """Return the bytes of a row's codes, two a byte."""
        return -(-in_ // 2)


class Int3(Grouped):
    """Integers from -4 to 3, eight in three bytes: 3.5 bits a weight at a group of 32."""

    bits: ClassVar[int] = 3

    kind: Literal["int3"] = "int3"

    def row_bytes(self, in_: int) -> int:
        """Return the bytes of a row's codes, eight in three bytes."""
        return 3 * -(-in_ // 8)


class NF4(LinearKind):
    """4-bit NormalFloat in blocks.

    `double` stores the blocks' scales in 8 bits as well (QLoRA, Dettmers et al. 2023).
    """

    rounds: ClassVar[bool] = True

    kind: Literal["nf4"] = "nf4"
    block: PositiveInt = 64
    double: bool = True

    def tensors(self, out: int, in_: int) -> tuple[StoredTensor, ...]:
        """Return the codes, two a byte, a scale for each block, and the ranges of 8-bit scales."""
        blocks = -(-in_ // self.block)
        codes = StoredTensor("codes", (out, -(-in_ // 2)), itemsize=1)
        if not self.double:
            return codes, StoredTensor("scales", (out, blocks), itemsize=4)
        groups = -(-out * blocks // NF4_GROUP)
        return (
            codes,
            StoredTensor("scales", (out, blocks), itemsize=1),
            StoredTensor("scale_ranges", (2, groups, 1), itemsize=4),
        )

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield an odd block."""
        if self.block % 2:
            yield "block", f"{self.block} is odd; 4-bit values are packed in pairs"


def register_kind(kind: type[LinearKind]) -> str:
    """Let configs use a kind of linear layer, and return its name.

    Raises ValueError where its field `kind` does not have one name as its default, or another class
    has that name already.
    """
    field = kind.model_fields["kind"]
    name = field.default
    if field.annotation != Literal[name]:
        raise ValueError(
            f'{kind.__name__}: declare the name of the kind, kind: Literal["name"] = "name"'
        )
    registered = REGISTRY.setdefault(name, kind)
    if registered is not kind:
        raise ValueError(
            f"{kind.__name__}: {registered.__name__} is already called {name}; rename one"
        )
    _adapter.cache_clear()
    return name


def _described(kind: type[LinearKind], handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    """Return a reference to a kind's JSON Schema.

    The schema itself is written once, because a kind may hold itself.
    """
    name = f"{kind.__module__}.{kind.__qualname__}"
    reference = core_schema.definition_reference_schema(name)
    if name in _DESCRIBING:
        return handler(reference)
    described = cast(CoreSchema, {**kind.__pydantic_core_schema__, "ref": name})
    _DESCRIBING.add(name)
    try:
        return handler(core_schema.definitions_schema(reference, [described]))
    finally:
        _DESCRIBING.discard(name)


_DESCRIBING: set[str] = set()


def registering_modules() -> tuple[str, ...]:
    """Return the modules of other packages' kinds, for another process to import."""
    modules = {kind.__module__ for kind in REGISTRY.values()}
    own = {module for module in modules if module.startswith(f"{__package__}.")}
    return tuple(sorted(modules - own - {"__main__"}))


def held(tensors: tuple[StoredTensor, ...], name: str, trains: bool) -> tuple[StoredTensor, ...]:
    """Return the tensors of a layer inside another one's state, as its module `name`.

    Not `trains` freezes them all.
    """
    return tuple(
        replace(tensor, name=f"{name}.{tensor.name}", trains=trains and tensor.trains)
        for tensor in tensors
    )


def frozen(products: tuple[Product, ...]) -> tuple[Product, ...]:
    """Return the products of a layer whose matrices do not train."""
    return tuple(replace(product, trains=False) for product in products)


def kind_faults(where: str, kind: LinearKind) -> Iterator[str]:
    """Yield every fault of a kind, and of the kinds that it holds, each with its path."""
    for field, fault in kind.faults():
        yield f"{where}.{field}: {fault}"
    for name in type(kind).model_fields:
        value = getattr(kind, name)
        if isinstance(value, LinearKind):
            yield from kind_faults(f"{where}.{name}", value)


def linears_faults(linears: dict[str, LinearKind]) -> Iterator[str]:
    """Yield every fault of the kinds that a model's patterns name."""
    for pattern, kind in linears.items():
        yield from kind_faults(f"linears.{pattern}", kind)


for _kind in (Dense, Int8, Int8Dynamic, NF4, Int4, Int3):
    register_kind(_kind)
