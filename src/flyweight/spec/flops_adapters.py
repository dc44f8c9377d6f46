"""What a decoder's adapters are made of, for `flyweight.spec.flops` to count; no torch.

What is computed of weights alone, once for a batch, counts as nothing: the norms of DoRA.
"""

from __future__ import annotations

from collections.abc import Iterator

from flyweight.config.adapters import Bottleneck, Ia3, Lora, Prefix
from flyweight.config.linear_kinds import Dense, LinearKind
from flyweight.config.schema import ModelConfig
from flyweight.config.sparse_kinds import Masked
from flyweight.spec.adapters import Site, decays, sites
from flyweight.spec.parts import Matrix, Vector
from flyweight.spec.visits import Visit, uses, visits, visits_of

PART = "adapters"


def matrices(config: ModelConfig, looped: bool = True) -> Iterator[Matrix]:
    """Yield every matrix of a resolved config's adapters."""
    for site in sites(config):
        for copy in range(site.copies or 1):
            yield from _matrices(config, site, None if site.copies is None else copy, looped)


def _matrices(config: ModelConfig, site: Site, copy: int | None, looped: bool) -> Iterator[Matrix]:
    whole, written = _times(config, site, copy, looped)
    adapter = site.adapter
    if isinstance(adapter, Lora):
        reads = any(shape.name in ("k", "v") for shape in site.layers)
        kind = Masked() if adapter.masked else Dense()
        yield _matrix(adapter.r, site.reads, whole + written * reads, kind=kind)
        for shape in site.layers:
            times = whole + written * (shape.name in ("k", "v"))
            yield _matrix(shape.out, adapter.r, times, kind=kind)
    if isinstance(adapter, Bottleneck):
        yield _matrix(adapter.dim, site.width, whole, bias=True)
        yield _matrix(site.width, adapter.dim, whole, bias=True)


def _times(config: ModelConfig, site: Site, copy: int | None, looped: bool) -> tuple[int, int]:
    """Return how often a forward pass uses an adapter whole, and for keys and values alone."""
    if copy is None:
        whole, written = uses(config, looped)
        return whole[site.block], written[site.block]
    visit = visits_of(config, site.block)[copy]
    if not _runs(config, visit, looped):
        return 0, 0
    return (1, 0) if visit.keys_per_token else (0, 1)


def _runs(config: ModelConfig, visit: Visit, looped: bool) -> bool:
    return looped or any(
        (other.layer, other.repeat_index, other.pass_)
        == (visit.layer, visit.repeat_index, visit.pass_)
        for other in visits(config, looped)
    )


def _matrix(
    out: int, in_: int, products: int, bias: bool = False, kind: LinearKind | None = None
) -> Matrix:
    return Matrix(
        part=PART,
        out=out,
        in_=in_,
        kind=kind or Dense(),
        bias=bias,
        products=products,
        visits=products,
    )


def vectors(config: ModelConfig) -> Iterator[Vector]:
    """Yield what is neither a matrix nor its bias: factors, lengths of rows, and prefixes."""
    for site in sites(config):
        if isinstance(site.adapter, Bottleneck):
            continue
        visits = 1 if site.copies else len(visits_of(config, site.block))
        for tensor in site.tensors():
            if isinstance(site.adapter, Ia3 | Prefix) or tensor.name.endswith("lora.magnitude"):
                yield Vector(part=PART, size=tensor.size, visits=visits, decays=decays(tensor.name))


def prefix_flops(config: ModelConfig, length: int, looped: bool = True) -> int:
    """Return the FLOPs of one of the two products with prefixes' keys or values in a pass."""
    total = 0
    for site in sites(config):
        if not isinstance(site.adapter, Prefix):
            continue
        attention = config.layer(site.block).attention
        wide = (attention.heads or 0) * (attention.head_dim or 0)
        for copy in range(site.copies or 1):
            whole, _ = _times(config, site, None if site.copies is None else copy, looped)
            total += whole * 2 * wide * length * site.adapter.length
    return total
