"""Connections past layers: from the first half of the stack to the second, and from the embedding.

places   0  1  2  3  4  5     unet       5 reads 0, 4 reads 1 (3 reads 2 anyway)
                              embedding  1 to 5 read it

Both are in the records of modded-nanogpt (Jordan et al. 2024), with these first scalars.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flyweight.config.schema import ModelConfig
from flyweight.spec.visits import Visit, stack_size, unet_sources


class Skips(nn.Module):
    """Learned scalars of connections past layers, one or two for each place that reads some.

    A place whose mirror is in the first half reads stream + unet * what its mirror put out. Every
    place but the first of a pass then reads stream * that + embedding * the model's embedding.
    """

    unet: nn.Parameter | None
    stream: nn.Parameter | None
    embedding: nn.Parameter | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.sources = unet_sources(config) if "unet" in config.skips else {}
        self.rows = {place: row for row, place in enumerate(self.sources)}
        scalars = nn.Parameter(torch.empty(len(self.sources))) if self.sources else None
        self.register_parameter("unet", scalars)
        later = stack_size(config) - 1 if "embedding" in config.skips else 0
        for name in ("stream", "embedding"):
            self.register_parameter(name, nn.Parameter(torch.empty(later)) if later else None)

    @torch.no_grad()
    def reset(self) -> None:
        """Begin with 1 for streams and with 0 for the embedding."""
        for name, scalars in self.named_parameters():
            scalars.fill_(0.0 if name == "embedding" else 1.0)

    def read(self, x: Tensor, visit: Visit, embedded: Tensor, written: dict[int, Tensor]) -> Tensor:
        """Return what a visit reads, (B, T, dim), of the stream x before it and of earlier ones.

        `written` are the streams behind places of the same pass, each of which one place reads. A
        mirror that a span before its loop leaves out adds nothing.
        """
        source = self.sources.get(visit.stack_index)
        if self.unet is not None and source in written:
            scalar = self.unet[self.rows[visit.stack_index]]
            x = x + scalar.to(x.dtype) * written.pop(source)
        if self.embedding is None or self.stream is None or not visit.stack_index:
            return x
        row = visit.stack_index - 1
        return self.stream[row].to(x.dtype) * x + self.embedding[row].to(x.dtype) * embedded

    def note(self, x: Tensor, visit: Visit, written: dict[int, Tensor]) -> None:
        """Keep the stream x behind a visit, where a later place of the pass reads it."""
        if visit.stack_index in self.sources.values():
            written[visit.stack_index] = x
